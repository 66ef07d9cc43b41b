"""Trace -> what a sweep needs of a run, as plain JSON data: its page and table then open no Parquet file.

A number that does not exist is None (``null``), an infinite one the text ``"+inf"`` or ``"-inf"``: a measure that ends
at exactly 0 is infinitely deep, and that is not the same as not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flatlens.files import borders
from flatlens.files.borders import DamageError
from flatlens.records import valley
from flatlens.records.schema import ATTACK, BESIDE, BEST, DISCRETE, MEASURES, RETURNED
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Bools, Floats, Fraction, Ints

DIGEST_VERSION = 2
"""Raised when the digest's fields change; it is written into each, for whoever reads them."""
ADDED = ("settled", "flat_end", "flatter_than_clean", "settled_step", "end_vs_clean", "clean_percentile", "matched")
"""Fields of a row that some digests lack: those of version 1, and the last those of images."""
MATCHED = 0.1
"""Nats at which κ of language models is compared."""


FILE = "digest.json"
"""What it is called in a run's folder."""


def read(folder: Path, files: Mapping[str, str] | None) -> dict[str, Any]:
    """The digest in a run's folder.

    Args:
        folder: the run's.
        files: the SHA-256 of its files, as its manifest tells them; None of a run of before they were told.

    Raises:
        DamageError: it is damaged, or not there.
    """
    content = borders.read_bytes(folder / FILE)
    known = (files or {}).get(FILE)
    if known is not None and known != sha256(content).hexdigest():
        raise DamageError(f"{FILE} is not what was written: its SHA-256 differs")
    found = borders.parse_json(content, FILE)
    borders.check(found, borders.DIGEST, FILE)
    return found


class Accuracy(NamedTuple):
    """Shares of all samples that are classified as labelled, at the clean input and at what the attack found."""

    clean: Fraction
    attacked: Fraction


def digest(trace: Trace) -> dict[str, Any]:
    """All that a sweep's page and table show of a run.

    Returns:
        ``accuracy`` clean and attacked; ``rows``, the fields of `flatlens.records.valley.Summary` for each path and
        layer, of κ where there is one, of the attack ``over_tau``, how many valleys there are for each τ of
        `flatlens.records.valley.TAUS`, and of a language model's head ``matched``, κ where the loss first falls to
        `MATCHED` nats;
        ``curves``, quartiles over all samples at each step, in the order of the rows;
        ``measures``, what each measure is at clean inputs, peaks and ends; ``cautions``.
    """
    walks = {path: _walk(trace, path) for path in trace.paths}
    out: dict[str, Any] = {
        "version": DIGEST_VERSION,
        "accuracy": record(accuracy(trace)),
        "rows": [],
        "curves": [],
        "measures": [],
        "cautions": [caution._asdict() for caution in trace.cautions],
    }
    equal = trace.matched(MATCHED) if trace.of_language else {}
    for layer in trace.layer_names:
        measure = _main_measure(trace, layer)
        method, exact = _how(trace, layer)
        for path in trace.paths:
            values = _values(trace, measure, path, layer)
            key = {"path": path, "layer": layer, "measure": measure}
            found = _valley(values, walks[path])
            row = key | {"method": method, "exact": exact} | record(found.summary())
            if path == ATTACK:
                row["over_tau"] = found.over_tau().count.tolist()
            if equal and layer == trace.layer_names[0]:
                row["matched"] = record(equal[path].median)
            out["rows"].append(row)
            band = valley.band(values)
            curve = {name: [_short(v) for v in getattr(band, name).tolist()] for name in ("median", "low", "high")}
            out["curves"].append(key | curve | {"n": band.n.tolist()})
        for name in MEASURES:
            heights = _heights(_values(trace, name, ATTACK, layer), walks[ATTACK].last)
            if heights is not None:
                out["measures"].append({"layer": layer, "measure": name} | heights)
    return out


def accuracy(trace: Trace, path: str = ATTACK) -> Accuracy:
    """Accuracy before and after: at what the attack found, and for a control at the last step that a sample has."""
    right = trace.right_at_start(path)
    if trace.of_language:
        kept = ~trace.result("flipped", path=path).astype(bool)
    else:
        kept = trace.result("prediction", path=path) == trace.matrix("label", path=path).values[:, 0]
    return Accuracy(valley.wilson(int(right.sum()), len(right)), valley.wilson(int(kept.sum()), len(right)))


def attacked_at(trace: Trace) -> str:
    """In words, where the accuracy under attack is taken: ``last iterate, worst of 5 restarts``."""
    rows = trace.steps.select(["path", "restart", "kind"])
    rows = rows.filter(pc.equal(rows["path"], ATTACK))
    kinds, runs = (pc.unique(rows[name]).to_pylist() for name in ("kind", "restart"))
    point = "best point" if BEST in kinds else "returned point" if RETURNED in kinds else "last iterate"
    point = "text of the last iterate" if DISCRETE in kinds else point
    return f"{point}, worst of {len(runs)} restarts" if len(runs) > 1 else point


def record(value: Any) -> Any:
    """Named tuples as objects, NaN as null and infinities as text, so that it is valid JSON."""
    if hasattr(value, "_asdict"):
        return {k: record(v) for k, v in value._asdict().items()}
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else None if math.isnan(number) else f"{number:+}"
    return value.item() if isinstance(value, np.generic) else value


class _Walk(NamedTuple):
    """What the prediction did along one path."""

    sample: Ints
    flipped: Bools
    correct: Bools
    last: Ints


def _walk(trace: Trace, path: str) -> _Walk:
    """Of a control, and of the first of several runs of the attack."""
    sample, flipped = trace.matrix("flipped", path=path)
    return _Walk(sample, flipped, trace.right_at_start(path), trace.last_steps(path=path))


def _values(trace: Trace, measure: str, path: str, layer: str) -> Floats:
    if measure not in trace.layers.column_names:
        return np.full(trace.matrix("step", path=path, layer=layer).values.shape, np.nan)
    return trace.matrix(measure, path=path, layer=layer).values


def _main_measure(trace: Trace, layer: str) -> str:
    """The first measure that is known of a layer; the first of all where none is, for flips are known even there."""
    known = (m for m in MEASURES if any(np.isfinite(_values(trace, m, path, layer)).any() for path in trace.paths))
    return next(known, next(iter(MEASURES)))


def _how(trace: Trace, layer: str) -> tuple[str, bool]:
    """The methods by which a layer was measured, path by path, and whether all of them are exact."""
    rows = trace.layers.select(["path", "restart", "kind", "layer", "method", "exact"])
    first_run = pc.and_(pc.invert(pc.is_in(rows["kind"], value_set=pa.array(BESIDE))), pc.equal(rows["restart"], 0))
    rows = rows.filter(pc.and_(first_run, pc.equal(rows["layer"], layer)))
    by_path = (rows.filter(pc.equal(rows["path"], path))["method"].unique().to_pylist() for path in trace.paths)
    methods = dict.fromkeys(method for methods in by_path for method in methods if method)
    return ", ".join(methods), bool(pc.all(pc.fill_null(rows["exact"], False)).as_py())


def _valley(values: Floats, walk: _Walk) -> valley.Valley:
    return valley.judge(values, walk.flipped, walk.sample, correct=walk.correct, last=walk.last)


def _heights(values: Floats, last: Ints) -> dict[str, Any] | None:
    """Medians at the clean input, each sample's own peak and its end, over the samples that are finite throughout."""
    beyond = np.arange(values.shape[1])[None, :] > last[:, None]
    keep = (np.isfinite(values) | beyond).all(axis=1)
    if not keep.any():
        return None
    own, last = np.where(beyond, -np.inf, values)[keep], last[keep]
    found = {"clean": own[:, 0], "peak": own.max(axis=1), "end": own[np.arange(len(own)), last]}
    return {at: _short(float(np.median(v))) for at, v in found.items()} | {"n": int(keep.sum())}


def _short(value: float) -> float | str | None:
    """Six digits: more than a picture shows, in half of the space."""
    return record(float(f"{value:.6g}"))
