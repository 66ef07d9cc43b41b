"""Trace -> the plain data that the page embeds: bounded in size, whatever the number of samples.

Statistics and aggregates cover all samples; curves and images of single samples are kept for a few.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.records.digest import attacked_at
from flatlens.records.digest import record as record
from flatlens.records.schema import ATTACK, MEASURES
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Band, Floats, Ints, Shares
from flatlens.report import series
from flatlens.report.density import density
from flatlens.specs.wording import text

MOST_SAMPLES = 200
"""Samples whose own curves (and images) are embedded."""
MOST_LINES = 120
"""Of these, how many are drawn as thin lines: more hide the shape that they should show."""
CURVE_BYTES = 8_000_000
IMAGE_BYTES = 20_000_000
"""What all runs of one page together may spend on curves of single samples, and on images."""
MOST_DEPTHS = 60
"""Points of a distribution of depths: more cannot be told apart in a small panel."""
MOST_CLASSES = 1000
"""Probabilities of more classes than this are not embedded."""

Plain = dict[str, Any]


class Share(NamedTuple):
    """How many bytes one run may use."""

    curves: int
    images: int


def pages(traces: Sequence[Trace]) -> Plain:
    """What the page draws: one entry per run, and the names that they share."""
    share = Share(CURVE_BYTES // max(len(traces), 1), IMAGE_BYTES // max(len(traces), 1))
    names = run_names([t.spec for t in traces])
    return {
        "measures": MEASURES,
        "flow": series.FLOW,
        "factors": series.FACTORS,
        "bounds": series.BOUNDS,
        "runs": [run(trace, name, share) for trace, name in zip(traces, names, strict=True)],
    }


def run(trace: Trace, name: str, share: Share) -> Plain:
    """One trace: header, aggregates of every path, layer and measure, and the chosen samples."""
    measures, probes = series.measures(trace), series.probes(trace)
    label = trace.matrix("label")
    length = label.values.shape[1]
    curves = len(trace.paths) * (len(series.FLOW) + len(probes) * len(measures))
    affordable = share.curves // max(curves * length * 4, 1)
    most = int(np.clip(affordable, 12, MOST_SAMPLES))
    chosen = series.pick(series.flip_step(trace), most)
    ids = label.sample[chosen]
    return {
        "name": name,
        "spec": [[str(k), text(k, v)] for k, v in trace.spec.items() if v not in (None, [], ())],
        "cautions": [[c.code, c.message] for c in trace.cautions],
        "n": len(label.sample),
        "steps": length - 1,
        "labels": None if trace.labels is None else [str(x) for x in trace.labels],
        "accuracy": record(series.accuracy(trace)),
        "attacked_at": attacked_at(trace),
        "layers": [record(p) for p in probes],
        "measures": list(measures),
        "sample": [int(i) for i in ids],
        "truth": [int(i) for i in label.values[chosen, 0]],
        "lines": series.spread(len(ids), MOST_LINES).tolist(),
        "paths": [path(trace, p, ids, [p.name for p in probes], measures) for p in trace.paths],
        "images": images(trace, ids, share.images),
        "density": _density(trace),
    }


def path(trace: Trace, name: str, ids: Ints, layers: Sequence[str], measures: Sequence[str]) -> Plain:
    """One path: its flow, and every measure at every layer."""
    flip = series.flip_step(trace, name)
    sample = trace.matrix("flipped", path=name).sample
    rows = series.rows_of(sample, ids)
    flow = {}
    for column in series.FLOW:
        values = trace.matrix(column, path=name).values
        flow[column] = curve(series.curve(values, flip)) | {"lines": pack(series.take(values, rows))}
    return {
        "name": name,
        "control": name != ATTACK,
        "flip": pack(np.where(rows >= 0, flip[rows], -1)),
        "flow": flow,
        "layers": [_layer(trace, name, layer, flip, ids, measures) for layer in layers],
    }


def _layer(trace: Trace, path: str, layer: str, flip: Ints, ids: Ints, measures: Sequence[str]) -> Plain:
    looks = {}
    for measure in measures:
        matrix = trace.matrix(measure, path=path, layer=layer)
        if not np.isfinite(matrix.values).any():
            continue
        rows = series.rows_of(matrix.sample, ids)
        found = trace.valley(measure, layer=layer, path=path)
        grid = series.flip_peak_counts(found)
        looks[measure] = curve(series.curve(matrix.values, found.flip_step)) | {
            "lines": pack(series.take(matrix.values, rows)),
            "peak": pack(np.where(rows >= 0, found.peak_step[rows], -1)),
            "cells": {k: pack(v) for k, v in grid._asdict().items()},
            "summary": record(found.summary()),
            "over_tau": _shares(found.over_tau()),
            "depths": _shares(found.depths(MOST_DEPTHS)),
        }
    curves = {
        "factors": series.factors(trace, layer, flip, path=path),
        "looseness": series.looseness(trace, layer, flip, path=path),
    }
    drawn = {kind: None if of is None else {name: curve(c) for name, c in of.items()} for kind, of in curves.items()}
    free = trace.matrix("scale_free", path=path, layer=layer).values
    there = bool(np.isfinite(free).any())
    return {"measures": looks, "free": curve(series.curve(free, flip)) if there else None} | drawn


def _shares(found: Shares) -> Plain:
    packed = {name: pack(getattr(found, name)) for name in ("position", "value", "low", "high")}
    return packed | {"n": found.n}


def _density(trace: Trace) -> Plain | None:
    found = density(trace)
    if found is None:
        return None
    return {
        "position": pack(found.position),
        "curves": {at: pack(values) for at, values in found.curves.items()},
        "tick": found.tick.tolist(),
        "value": found.value.tolist(),
        "samples": found.samples,
    }


def images(trace: Trace, ids: Ints, budget: int) -> Plain | None:
    """Inputs of the chosen samples as 16-bit numbers, for as many samples as the budget allows."""
    kept = trace.images
    if kept is None or not len(kept.x):
        return None
    has = ids[np.isin(ids, kept.sample)]
    shape = kept.x.shape[1:]
    drawable = len(shape) == 3 and shape[0] in (1, 3)
    classes = kept.probabilities.shape[-1]
    # 16 bits are steps of 1/65,535 of the range: finer than any perturbation that is shown enlarged.
    size = 2 * int(np.prod(shape)) * drawable + 4 * classes * (classes <= MOST_CLASSES)
    per_sample = size * max(len(kept.x) / max(len(np.unique(kept.sample)), 1), 1)
    few = has[series.spread(len(has), max(int(budget / max(per_sample, 1)), 1))]
    rows = np.flatnonzero(np.isin(kept.sample, few))
    out: Plain = {
        "shape": list(shape),
        "drawable": drawable,
        "sample": kept.sample[rows].tolist(),
        "step": kept.step[rows].tolist(),
        "samples": len(few),
        "classes": classes,
    }
    if drawable:
        x = np.nan_to_num(kept.x[rows].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(min(x.min(), 0.0)), float(max(x.max(), 1.0))
        out |= {"low": low, "high": high}
        out["x"] = encode(np.round((x - low) / (high - low) * 65535).astype("<u2"), "u16")
    if classes <= MOST_CLASSES:
        out["p"] = pack(kept.probabilities[rows])
    return out


def run_names(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each run: what differs between them, else a number."""
    keys = dict.fromkeys(key for spec in specs for key in spec)
    differ = [k for k in keys if len({text(k, s.get(k)) for s in specs}) > 1]
    names = [", ".join(f"{k} {text(k, s.get(k))}" for k in differ[:4]) for s in specs]
    if len(set(names)) < len(names) or not all(names):
        names = [f"run {i + 1}" + (f": {name}" if name else "") for i, name in enumerate(names)]
    return names


def curve(found: series.Curve) -> Plain:
    """A curve's two bands; positions where no sample has a value are left out."""
    return {"raw": _band(found.raw), "aligned": _band(found.aligned)}


def _band(band: Band) -> Plain:
    there = band.n > 0
    return {name: pack(values[there]) for name, values in band._asdict().items()}


def pack(values: NDArray[Any]) -> Plain:
    """An array as base64: float32, or float64 where float32 would lose small or large numbers.

    A saturated head's curvature reaches 1e-260, which float32 would draw as 0.
    """
    wide: Floats = np.asarray(values, dtype=np.float64)
    wide = np.where(np.isfinite(wide), wide, np.nan)
    size = np.abs(wide[np.isfinite(wide) & (wide != 0)])
    narrow = not size.size or (size.min() > 1e-37 and size.max() < 1e38)
    return encode(wide.astype("<f4" if narrow else "<f8"), "f32" if narrow else "f64")


def encode(values: NDArray[Any], kind: str) -> Plain:
    """An array as base64 under its kind, which the page's ``decode`` knows."""
    data = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    return {kind: data, "shape": list(values.shape)}


def to_json(value: Any) -> str:
    r"""JSON that cannot end the script element around it: ``<``, ``>`` and ``&`` are written as ``\u003c`` …."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
