"""Surfaces, gradients and PyHessian's numbers as the plain data that the page embeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatlens.records.schema import Gradients
from flatlens.records.surfaces import InputPlane, SampleSurfaces, WeightPlane
from flatlens.records.trajectory import Trace
from flatlens.report import series
from flatlens.report.packing import Plain, encode, pack

LEVELS = 65_534
"""Heights are kept as 16-bit logarithms; the level above is that of no number."""


def surfaces(trace: Trace) -> list[Plain]:
    """The planes of each sample that has some."""
    return [] if trace.surfaces is None else [_sample(one) for one in trace.surfaces]


def _sample(one: SampleSurfaces) -> Plain:
    return {"sample": int(one.sample), "input": _input(one.input), "weights": [_weights(part) for part in one.weights]}


def _input(plane: InputPlane) -> Plain:
    ways = [
        {"path": name, "at": pack(way.at), "off": float(np.max(way.off, initial=0.0)), "step": way.step.tolist()}
        for name, way in plane.ways.items()
    ]
    return {
        "u": pack(plane.u),
        "v": pack(plane.v),
        "kappa": heights(plane.kappa),
        "loss": heights(plane.loss),
        "prediction": pack(plane.prediction),
        "corners": plane.corners.at.tolist(),
        "third": [plane.third.kind, plane.third.label],
        "end": int(plane.corners.prediction[1]),
        "ways": ways,
    }


def _weights(plane: WeightPlane) -> Plain:
    return {
        "moment": plane.moment,
        "step": int(plane.step),
        "toward": int(plane.toward),
        "u": pack(plane.s),
        "v": pack(plane.t),
        "kappa": heights(plane.kappa),
        "loss": heights(plane.loss),
    }


def heights(values: NDArray[np.float64]) -> Plain:
    """Logarithms of a surface as 16-bit numbers between its lowest and its highest."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values)
    there = np.isfinite(logs)
    low, high = (float(logs[there].min()), float(logs[there].max())) if there.any() else (0.0, 1.0)
    level = np.where(there, np.round((np.where(there, logs, low) - low) / ((high - low) or 1.0) * LEVELS), LEVELS + 1)
    return {"levels": encode(level.astype("<u2"), "u16"), "low": low, "high": high}


def gradients(found: Gradients | None, ids: NDArray[np.int64], most_bytes: int) -> Plain | None:
    """The attack's own gradient, each scaled to its largest entry, of as many of the samples as there is room for."""
    if found is None or not len(found.values) or found.values.ndim != 4:
        return None
    kept = ids[np.isin(ids, found.sample)]
    each = found.values[0].size * max(len(found.sample) / max(len(np.unique(found.sample)), 1), 1)
    rows = np.flatnonzero(np.isin(found.sample, kept[series.spread(len(kept), max(int(most_bytes / each), 1))]))
    values = np.nan_to_num(np.asarray(found.values[rows], dtype=np.float64), posinf=0.0, neginf=0.0)
    most = np.abs(values).reshape(len(rows), -1).max(axis=1, initial=0.0)
    unit = values / np.where(most > 0, most, 1.0).reshape(-1, 1, 1, 1)
    return {
        "sample": found.sample[rows].tolist(),
        "step": found.step[rows].tolist(),
        "most": most.tolist(),
        "own": [bool(v) for v in found.own[rows]],
        "values": encode(np.round((unit + 1) / 2 * 254).astype("<u1"), "u8"),
    }


def peers(trace: Trace) -> list[list[Any]]:
    """Sample, moment, and for trace and largest eigenvalue: flatlens' number, PyHessian's, its standard error."""
    if trace.peers is None:
        return []
    names = ("sample", "at", "trace", "peer_trace", "peer_trace_se", "top_eigenvalue", "peer_top_eigenvalue")
    columns = [trace.peers[name].to_pylist() for name in names]
    return [[_plain(value) for value in row] for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
