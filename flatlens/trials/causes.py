"""`Autopsy`: each sample's cause, decided from what was measured, in tables and shares (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flatlens.records.intervals import Fraction, wilson
from flatlens.records.schema import Caution
from flatlens.trials import folder

if TYPE_CHECKING:
    import pandas as pd

WRONG, FOOLED = "wrong", "fooled"
UNDERFLOW, SATURATION, WEAK_SEARCH, NONE_FOUND = "underflow", "saturation", "weak search", "none found"
CAUSES = (UNDERFLOW, SATURATION, WEAK_SEARCH, NONE_FOUND)
"""Of the samples that keep their label under PGD on the cross-entropy, in the order in which they are asked for."""
CLASSES = (WRONG, FOOLED, *CAUSES)
"""All classes: each sample is in exactly one."""
NARROW, WIDE = "float32", "float64"
SAME = ("ce", "ce_float64", "margin", "dlr")
"""PGD of as many steps in both precisions and on other objectives: of all right samples."""
AFTER = ("more_steps", "restarts", "apgd_t", "square")
"""Longer and other searches: of the samples that all before have left."""

Columns = Mapping[str, NDArray[Any]]


class Precision(NamedTuple):
    """Whether those that withstand PGD on the cross-entropy in one precision are those without a gradient in it.

    Attributes:
        kept: right samples that keep their label.
        zero_gradient: right samples at which the first gradient is exactly 0.
        both: those that are both.
        exceptions: those that are one and not the other.
        n: right samples.
    """

    kept: int
    zero_gradient: int
    both: int
    exceptions: int
    n: int


@dataclass(frozen=True)
class Autopsy:
    """Why samples withstand PGD on the cross-entropy in float32; shares with 95 % Wilson intervals.

    Attributes:
        right: share of all samples that are right before any attack.
        wrong: of all, the others.
        fooled: of all, right before, and turned by PGD on the cross-entropy in float32.
        underflow: of all, kept by an all-zero first gradient.
        saturation: of all, kept, and turned by the same attack in float64, or on the margin or DLR.
        weak_search: of all, kept, and turned by nothing but more steps, restarts, targets, or without gradients.
        none_found: of all, turned by nothing that was tried.
        kept: of all, right and not fooled: the sum of the four causes.
        causes: name of a cause -> its share of those that are kept.
        found_otherwise: of the underflown, those that another attack turns: they are not robust.
        without_any_gradient: of the underflown, those at which the margin's gradient is 0 as well: no softmax did that.
        left: name of an attack of as many steps -> the share of all samples that are right under it.
        worst: of all, right before and under everything that was tried.
        precisions: ``float32``, ``float64`` -> whether the kept are those without a gradient.
        attacks: name -> the attack in words.
        eps: radius of the attacks, in units of the input.
        norm: ``linf`` or ``l2``.
        steps: of PGD.
        n: samples.
        seed: of the attacks' noise.
        cautions: what must be known before the figures are believed.
        samples: a row a sample: ``sample``, ``label``, ``class``, ``right``; ``kept_NAME`` of each attack, null where
            it was not tried; ``first_gradient_float32``, ``first_gradient_float64`` (‖∂ce/∂x‖₂ at the start),
            ``margin_gradient`` and ``zero_gradient_float32``, ``zero_gradient_float64``.
    """

    right: Fraction
    wrong: Fraction
    fooled: Fraction
    underflow: Fraction
    saturation: Fraction
    weak_search: Fraction
    none_found: Fraction
    kept: Fraction
    causes: dict[str, Fraction]
    found_otherwise: Fraction
    without_any_gradient: Fraction
    left: dict[str, Fraction]
    worst: Fraction
    precisions: dict[str, Precision]
    attacks: dict[str, str]
    eps: float
    norm: str
    steps: int
    n: int
    seed: int
    cautions: tuple[Caution, ...]
    samples: pa.Table = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the names of the fields, without ``samples``; a fraction is ``{value, low, high, n}``."""
        return {one.name: folder.plain(getattr(self, one.name)) for one in fields(self) if one.name != "samples"}

    def to_pandas(self) -> pd.DataFrame:
        """``samples`` as a pandas DataFrame (needs pandas)."""
        return folder.to_pandas(self.samples)

    def save(self, place: str | Path, *, force: bool = False) -> Path:
        """Write ``autopsy.parquet`` (``samples``) and ``autopsy.json`` (the rest) into a folder.

        Args:
            place: it is made where it is not there.
            force: replace an autopsy that is there.

        Raises:
            RunError: it is a file, or holds an autopsy already.
            DiskError: it cannot be written to.
        """
        return folder.save(place, "autopsy", self.samples, self.to_dict(), force=force)


def classes(columns: Columns) -> NDArray[np.str_]:
    """The class of each sample, ``[n]``, the first that holds.

    Args:
        columns: ``right`` (bool), ``gradient_float32`` (0 where it is exactly 0), and ``kept_NAME`` of the attacks:
            1 kept, 0 turned, NaN not tried.
    """
    right, kept = columns["right"].astype(bool), columns["kept_ce"]
    zero = columns["gradient_float32"] == 0
    turned = {
        which: np.any([columns[f"kept_{name}"] == 0 for name in names if f"kept_{name}" in columns], axis=0)
        for which, names in ((SATURATION, SAME[1:]), (WEAK_SEARCH, AFTER))
    }
    conditions = [~right, kept == 0, zero, turned[SATURATION], turned[WEAK_SEARCH]]
    return np.select(conditions, CLASSES[:-1], NONE_FOUND)


def judged(
    columns: Columns, eps: float, norm: str, steps: int, seed: int, words: dict[str, str], cautions: tuple[Caution, ...]
) -> Autopsy:
    """All figures, from what was measured of each sample."""
    of, n, right = classes(columns), len(columns["right"]), columns["right"].astype(bool)
    counts = {name: int((of == name).sum()) for name in CLASSES}
    kept = sum(counts[name] for name in CAUSES)
    tried = [columns[f"kept_{name}"] for name in words]
    turned = np.any([one == 0 for one in tried], axis=0)
    flown = of == UNDERFLOW
    return Autopsy(
        right=wilson(int(right.sum()), n),
        **{name.replace(" ", "_"): wilson(count, n) for name, count in counts.items()},
        kept=wilson(kept, n),
        causes={name: wilson(counts[name], kept) for name in CAUSES},
        found_otherwise=wilson(int((flown & turned).sum()), int(flown.sum())),
        without_any_gradient=wilson(int((flown & (columns["gradient_margin"] == 0)).sum()), int(flown.sum())),
        left={name: wilson(int((columns[f"kept_{name}"] == 1).sum()), n) for name in SAME if name in words},
        worst=wilson(int((right & ~turned).sum()), n),
        precisions={name: _precision(columns, name) for name in (NARROW, WIDE) if _column(name) in columns},
        attacks=words,
        eps=eps,
        norm=norm,
        steps=steps,
        n=n,
        seed=seed,
        cautions=cautions,
        samples=_table(columns, of, words),
    )


def _column(precision: str) -> str:
    return "kept_ce" if precision == NARROW else "kept_ce_float64"


def _precision(columns: Columns, name: str) -> Precision:
    right = columns["right"].astype(bool)
    kept = right & (columns[_column(name)] == 1)
    zero = right & (columns[f"gradient_{name}"] == 0)
    return Precision(*(int(one.sum()) for one in (kept, zero, kept & zero, kept ^ zero, right)))


def _table(columns: Columns, of: NDArray[np.str_], words: Mapping[str, str]) -> pa.Table:
    right = columns["right"].astype(bool)
    made: dict[str, pa.Array] = {
        "sample": pa.array(columns["sample"]),
        "label": pa.array(columns["label"]),
        "class": pa.array(of.tolist()),
        "right": pa.array(right),
    }
    for name in words:
        values = columns[f"kept_{name}"]
        made[f"kept_{name}"] = pa.array(values == 1, mask=np.isnan(values))
    for name in (NARROW, WIDE):
        size = columns[f"gradient_{name}"]
        made[f"first_gradient_{name}"] = pa.array(size, from_pandas=True)
        made[f"zero_gradient_{name}"] = pa.array(size == 0, mask=np.isnan(size))
    made["margin_gradient"] = pa.array(columns["gradient_margin"], from_pandas=True)
    return pa.table(made)
