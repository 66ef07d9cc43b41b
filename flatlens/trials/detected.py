"""`Detection`: how well each detector tells each attack's results from clean inputs, read off a table (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flatlens.records.intervals import Fraction, Mean, Median, median, wilson
from flatlens.records.schema import Caution
from flatlens.trials import folder, separating
from flatlens.trials.separating import LEAST_PAIRS, Pairs

if TYPE_CHECKING:
    import pandas as pd

CLEAN = "clean"
"""What takes an attack's place in the rows of clean inputs."""
RATES = (0.01, 0.05)
"""False alarms at which it is said how many attacks are caught."""


class Separation(NamedTuple):
    """How one detector does against one attack: of ``n`` pairs of a clean and a successful adversarial input.

    Attributes:
        auc: P(adversarial > clean) + ½ P(equal), with DeLong's interval for pairs: above ½ adversarial inputs score
            higher.
        accuracy: of a stump, its threshold and side set on four fifths of the pairs and tried on the rest.
        side: +1 where adversarial inputs score higher (auc ≥ ½), else −1: for the following two.
        tpr_1: share caught where at most 1 % of the clean inputs raise an alarm.
        tpr_5: where at most 5 % do.
        n: pairs.
    """

    auc: Mean
    accuracy: Mean
    side: int
    tpr_1: Fraction
    tpr_5: Fraction
    n: int


@dataclass(frozen=True)
class Detection:
    """How well curvature, entropy, the top-2 gap and the features' length detect attacks.

    Attributes:
        right: share of all samples that are right before any attack: they are attacked.
        success: name of an attack -> the share of the right that it turns: these and their clean inputs are the pairs.
        found: name of a detector -> of an attack -> how well it tells them apart; NaN below 10 pairs.
        matrix: name of a detector -> of the attack that a stump is set on -> of the one that it is tried on -> its
            accuracy, by folds: no stump is tried on a sample that it was set on.
        decades: name of an adaptive attack -> the median of abs(log₁₀ κ − log₁₀ t) where it ended, t drawn from the
            clean κ: how near it came.
        attacks: name -> the attack in words.
        detectors: name -> what it measures.
        eps: radius of the attacks, in units of the input.
        norm: ``linf`` or ``l2``.
        n: samples.
        seed: of the attacks' noise, the draws from the clean law, and the folds.
        cautions: what must be known before the figures are believed.
        samples: a row for each right sample and each attack, ``attack`` = ``clean`` for its clean input: ``sample``,
            ``label``, ``fold``, ``attack``, ``success``, ``kappa``, ``entropy``, ``gap``, ``feature_norm``, ``l2`` and
            ``linf`` of the perturbation, and ``wanted_kappa`` and ``decades`` of the adaptive attacks.
    """

    right: Fraction
    success: dict[str, Fraction]
    found: dict[str, dict[str, Separation]]
    matrix: dict[str, dict[str, dict[str, Mean]]]
    decades: dict[str, Median]
    attacks: dict[str, str]
    detectors: dict[str, str]
    eps: float
    norm: str
    n: int
    seed: int
    cautions: tuple[Caution, ...]
    samples: pa.Table = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data under the names of the fields, without ``samples``; an interval is ``{value, low, high, n}``."""
        return {one.name: folder.plain(getattr(self, one.name)) for one in fields(self) if one.name != "samples"}

    def to_pandas(self) -> pd.DataFrame:
        """``samples`` as a pandas DataFrame (needs pandas)."""
        return folder.to_pandas(self.samples)

    def save(self, place: str | Path, *, force: bool = False) -> Path:
        """Write ``detect.parquet`` (``samples``) and ``detect.json`` (the rest) into a folder.

        Args:
            place: it is made where it is not there.
            force: replace a trial that is there.

        Raises:
            RunError: it is a file, or holds such a trial already.
            DiskError: it cannot be written to.
        """
        return folder.save(place, "detect", self.samples, self.to_dict(), force=force)


def pairs(table: pa.Table, attack: str, detector: str) -> Pairs:
    """The pairs of one attack: clean and adversarial scores of the samples that it has turned, where both are finite.

    Args:
        table: ``samples`` of a `Detection`.
        attack: its name.
        detector: a column.
    """
    names = np.asarray(table["attack"].to_pylist())
    values = table[detector].to_numpy(zero_copy_only=False).astype(float)
    ids = table["sample"].to_numpy()
    clean, found = names == CLEAN, (names == attack) & table["success"].to_numpy(zero_copy_only=False)
    where = {int(i): row for row, i in zip(np.flatnonzero(clean), ids[clean], strict=True)}
    rows = np.array([where[int(i)] for i in ids[found]], dtype=np.int64)
    one, other = values[rows], values[found]
    finite = np.isfinite(one) & np.isfinite(other)
    return Pairs(one[finite], other[finite], table["fold"].to_numpy()[found][finite])


def separation(found: Pairs) -> Separation:
    """How well one score tells the pairs apart; NaN of fewer than 10."""
    m = len(found.clean)
    if m < LEAST_PAIRS:
        none, unknown = Mean(np.nan, np.nan, np.nan, m), wilson(0, 0)
        return Separation(none, none, 1, unknown, unknown, m)
    area = separating.auc(found.clean, found.adversarial)
    side = 1 if area.value >= 0.5 else -1
    one, five = (separating.caught(found.clean, found.adversarial, rate, side) for rate in RATES)
    return Separation(area, separating.transferred(found, found), side, one, five, m)


def judged(
    table: pa.Table,
    right: Fraction,
    attacks: Mapping[str, str],
    detectors: Mapping[str, str],
    adaptive: tuple[str, ...],
    **about: Any,
) -> Detection:
    """All figures, from the table.

    Args:
        table: a row for each right sample and attack.
        right: share of all samples that are in it.
        attacks: name -> in words.
        detectors: name -> in words.
        adaptive: names of the attacks that know of the detector.
        about: ``eps``, ``norm``, ``n``, ``seed`` and ``cautions``.
    """
    names = np.asarray(table["attack"].to_pylist())
    success: NDArray[np.bool_] = table["success"].to_numpy(zero_copy_only=False)
    off = table["decades"].to_numpy(zero_copy_only=False).astype(float)
    held = {d: {a: pairs(table, a, d) for a in attacks} for d in detectors}
    enough = {d: [a for a in attacks if len(held[d][a].clean) >= LEAST_PAIRS] for d in detectors}
    return Detection(
        right=right,
        success={a: wilson(int((success & (names == a)).sum()), right.count) for a in attacks},
        found={d: {a: separation(held[d][a]) for a in attacks} for d in detectors},
        matrix={
            d: {a: {b: separating.transferred(held[d][a], held[d][b]) for b in enough[d]} for a in enough[d]}
            for d in detectors
        },
        decades={a: median(off[(names == a) & success & np.isfinite(off)]) for a in adaptive},
        attacks=dict(attacks),
        detectors=dict(detectors),
        samples=table,
        **about,
    )
