"""Trace -> what a sweep needs of a run, as plain JSON data: its page and table then open no Parquet file.

A number that does not exist is None (``null``), an infinite one the text ``"+inf"`` or ``"-inf"``: a measure that ends
at exactly 0 is infinitely deep, and that is not the same as not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.records import valley as valleys
from flatlens.records.matrices import Places
from flatlens.records.schema import ATTACK, BEST, MEASURES, RETURNED
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Bools, Floats, Fraction, Ints

DIGEST_VERSION = 2
"""Raised when the digest's fields change; it is written into each, for whoever reads them."""
ADDED = ("settled", "flat_end", "flatter_than_clean", "settled_step", "end_vs_clean", "clean_percentile")
"""Fields of a row that digests of version 1 lack."""


class Accuracy(NamedTuple):
    """Shares of all samples that are classified as labelled, at the clean input and at what the attack found."""

    clean: Fraction
    attacked: Fraction


def digest(trace: Trace) -> dict[str, Any]:
    """All that a sweep's page and table show of a run.

    Returns:
        ``accuracy`` clean and attacked; ``rows``, the fields of `flatlens.records.valley.Summary` for each path and
        layer, of κ where there is one, and of the attack ``over_tau``, how many valleys there are for each τ of
        `flatlens.records.valley.TAUS`;
        ``curves``, quartiles over all samples at each step, in the order of the rows;
        ``measures``, what each measure is at clean inputs, peaks and ends; ``cautions``.
    """
    walks = {path: _walk(rows) for path, rows in _by_path(trace)}
    out: dict[str, Any] = {
        "version": DIGEST_VERSION,
        "accuracy": record(accuracy(trace)),
        "rows": [],
        "curves": [],
        "measures": [],
        "cautions": [caution._asdict() for caution in trace.cautions],
    }
    for layer, probed in _by_layer(trace):
        measure = probed.measure
        for path in trace.paths:
            values = probed.matrix(path, measure)
            key = {"path": path, "layer": layer, "measure": measure}
            found = _valley(values, walks[path])
            row = key | {"method": probed.method, "exact": probed.exact} | record(found.summary())
            out["rows"].append(row | ({"over_tau": found.over_tau().count.tolist()} if path == ATTACK else {}))
            band = valleys.band(values)
            curve = {name: [_short(v) for v in getattr(band, name).tolist()] for name in ("median", "low", "high")}
            out["curves"].append(key | curve | {"n": band.n.tolist()})
        for name in MEASURES:
            heights = _heights(probed.matrix(ATTACK, name), walks[ATTACK].last)
            if heights is not None:
                out["measures"].append({"layer": layer, "measure": name} | heights)
    return out


def accuracy(trace: Trace, path: str = ATTACK) -> Accuracy:
    """Accuracy before and after: at what the attack found, and for a control at the last step that a sample has."""
    prediction = trace.matrix("prediction", path=path).values
    label = trace.matrix("label", path=path).values[:, 0]
    end = trace.result("prediction", path=path)
    n = len(label)
    return Accuracy(
        valleys.wilson(int((prediction[:, 0] == label).sum()), n),
        valleys.wilson(int((end == label).sum()), n),
    )


def attacked_at(trace: Trace) -> str:
    """In words, where the accuracy under attack is taken: ``last iterate, worst of 5 restarts``."""
    rows = trace.steps.select(["path", "restart", "kind"])
    rows = rows.filter(pc.equal(rows["path"], ATTACK))
    kinds, runs = (pc.unique(rows[name]).to_pylist() for name in ("kind", "restart"))
    point = "best point" if BEST in kinds else "returned point" if RETURNED in kinds else "last iterate"
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


class _Probed:
    """One layer's rows: its measures as matrices, path by path."""

    def __init__(self, rows: dict[str, pa.Table]) -> None:
        self._rows = rows
        self._grids = {path: _grid(table) for path, table in rows.items()}
        tables = list(rows.values())
        self.method = ", ".join(
            m for m in dict.fromkeys(m for t in tables for m in t["method"].unique().to_pylist()) if m
        )
        self.exact = all(pc.all(pc.fill_null(t["exact"], False)).as_py() for t in tables)
        known = (m for m in MEASURES if any(np.isfinite(_numpy(t, m)).any() for t in tables))
        # Flips are known where no measure is.
        self.measure = next(known, next(iter(MEASURES)))

    def matrix(self, path: str, measure: str) -> Floats:
        return self._grids[path].fill(_numpy(self._rows[path], measure))


def _by_path(trace: Trace) -> Iterator[tuple[str, pa.Table]]:
    """Rows of ``steps`` on the way of the attack's first run, and of each control."""
    table = _first_run(
        trace.steps.select(["path", "restart", "kind", "sample", "step", "label", "prediction", "flipped"])
    )
    for path in trace.paths:
        yield path, table.filter(pc.equal(table["path"], path))


def _by_layer(trace: Trace) -> Iterator[tuple[str, _Probed]]:
    known = [m for m in MEASURES if m in trace.layers.column_names]
    names = ["path", "restart", "kind", "sample", "step", "layer", "method", "exact", *known]
    table = _first_run(trace.layers.select(names))
    for layer in trace.layer_names:
        own = table if len(trace.layer_names) == 1 else table.filter(pc.equal(table["layer"], layer))
        yield layer, _Probed({path: own.filter(pc.equal(own["path"], path)) for path in trace.paths})


def _first_run(table: pa.Table) -> pa.Table:
    """The rows that `Trace.matrix` takes: no best points, and of several runs the first."""
    return table.filter(pc.and_(pc.not_equal(table["kind"], BEST), pc.equal(table["restart"], 0)))


def _walk(rows: pa.Table) -> _Walk:
    grid = _grid(rows)
    names = ("flipped", "prediction", "label", "step")
    flipped, prediction, label, step = (grid.fill(_numpy(rows, name)) for name in names)
    return _Walk(grid.sample, flipped, prediction[:, 0] == label[:, 0], step[:, -1])


def _valley(values: Floats, walk: _Walk) -> valleys.Valley:
    return valleys.find(values, walk.flipped, walk.sample, correct=walk.correct, last=walk.last)


def _heights(values: Floats, last: Ints) -> dict[str, Any] | None:
    """Medians at the clean input, each sample's own peak and its end, over the samples that are finite throughout."""
    beyond = np.arange(values.shape[1])[None, :] > last[:, None]
    keep = (np.isfinite(values) | beyond).all(axis=1)
    if not keep.any():
        return None
    own, last = np.where(beyond, -np.inf, values)[keep], last[keep]
    found = {"clean": own[:, 0], "peak": own.max(axis=1), "end": own[np.arange(len(own)), last]}
    return {at: _short(float(np.median(v))) for at, v in found.items()} | {"n": int(keep.sum())}


def _grid(rows: pa.Table) -> Places:
    return Places.of(_numpy(rows, "sample"), _numpy(rows, "step"))


def _numpy(rows: pa.Table, name: str) -> NDArray[Any]:
    if name not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    return np.asarray(rows[name].to_numpy(zero_copy_only=False))


def _short(value: float) -> float | str | None:
    """Six digits: more than a picture shows, in half of the space."""
    return record(float(f"{value:.6g}"))
