"""PyHessian beside flatlens: its spectral density of the whole network, and its numbers of single samples.

The density is of the clean inputs, the flips and the ends of a run; the numbers are of the first layer at these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from flatlens.errors import DataError, LayerError
from flatlens.measure import load
from flatlens.peers.pyhessian import pyhessian_density, pyhessian_top_eigenvalue, pyhessian_trace
from flatlens.records import runs
from flatlens.records.chosen import spread
from flatlens.records.schema import ATTACK, BEST, PEERS, SPECTRUM
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Ints, Valley

SAMPLES = 16
"""Flipped samples over which the loss is averaged: PyHessian knows no samples of their own."""
STEPS = 40
BESIDE, PROBES = 3, 64
"""Single samples whose numbers are compared, and PyHessian's probes for a trace."""


def add_spectrum(run: runs.Run) -> runs.Run:
    """Measure the densities and numbers of a finished run and keep them in its folder; not what is there already.

    Raises:
        DataError: no sample flips, or the run kept no inputs.
    """
    trace = run.trace()
    if trace.spectrum is not None and trace.peers is not None:
        return run
    if trace.images is None:
        raise DataError("no spectrum: it needs the inputs, and images = 'none' keeps none; run it with --images key")
    valley = trace.valley()
    if not valley.flipped.any():
        raise DataError("no spectrum: it compares the clean input, the flip and the end, and no sample flips")
    job = load.load(dataclasses.replace(run.spec, control=(), limit=None, samples=(0,), only_correct=False)).job
    kept = enumerate(zip(trace.images.sample, trace.images.step, strict=True))
    # At its last step a path's own point comes first, a best one after it.
    where = {(int(s), int(t)): i for i, (s, t) in reversed(list(kept))}
    if trace.spectrum is None:
        run.save_table("spectrum", _densities(trace, valley, where, job.model, run.spec.seed))
    if trace.peers is None:
        target = job.victim.layers[trace.layer_names[0]].target
        run.save_table("peers", _numbers(trace, valley, where, job.model, target, run.spec.seed))
    return run


def _moments(trace: Trace, valley: Valley, chosen: Ints) -> tuple[tuple[str, Ints], ...]:
    """The moments that are looked at, and at which step each of the samples is there."""
    return ("clean", 0 * chosen), ("flip", valley.flip_step[chosen]), ("end", trace.last_steps()[chosen])


def _densities(
    trace: Trace, valley: Valley, where: Mapping[tuple[int, int], int], model: nn.Module, seed: int
) -> pa.Table:
    assert trace.images is not None
    chosen = np.flatnonzero(valley.flipped)[:SAMPLES]
    labels = torch.from_numpy(trace.matrix("label").values[chosen, 0])
    tables = []
    for name, steps in _moments(trace, valley, chosen):
        rows = [where[int(valley.sample[i]), int(step)] for i, step in zip(chosen, steps, strict=True)]
        x = torch.from_numpy(trace.images.x[rows])
        values, weights = pyhessian_density(model, None, x, labels, seed=seed, steps=STEPS)
        columns = {
            "at": [name] * len(values),
            "eigenvalue": values,
            "weight": weights,
            "samples": [len(chosen)] * len(values),
        }
        tables.append(pa.table(columns, schema=SPECTRUM))
    return pa.concat_tables(tables)


def _numbers(
    trace: Trace, valley: Valley, where: Mapping[tuple[int, int], int], model: nn.Module, target: str, seed: int
) -> pa.Table:
    """Trace and largest eigenvalue of the first layer, of a few flipped samples, beside what the tables say.

    In float64, so that what differs is PyHessian's estimate and not the rounding of its passes. A layer that it cannot
    differentiate leaves the table empty.
    """
    assert trace.images is not None
    layer = trace.layer_names[0]
    flipped = np.flatnonzero(valley.flipped)
    chosen = np.array([i for i in spread(valley, min(BESIDE, len(flipped))) if valley.flipped[i]])
    labels = trace.matrix("label").values[:, 0]
    rows: list[dict[str, Any]] = []
    for name, steps in _moments(trace, valley, chosen):
        for i, step in zip(chosen, steps, strict=True):
            sample = int(valley.sample[i])
            x = torch.from_numpy(trace.images.x[[where[sample, int(step)]]]).double()
            y = torch.tensor([int(labels[i])])
            try:
                theirs = pyhessian_trace(model, target, x, y, probes=PROBES, seed=seed)
                top = pyhessian_top_eigenvalue(model, target, x, y, seed=seed)
            except LayerError:
                return PEERS.empty_table()
            rows.append(
                {
                    "sample": sample, "at": name, "step": int(step), **_ours(trace, layer, sample, int(step)),
                    "peer_trace": theirs.value, "peer_trace_se": theirs.stderr, "peer_probes": PROBES,
                    "peer_top_eigenvalue": top,
                }
            )  # fmt: skip
    rows.sort(key=lambda row: row["sample"])  # and by moment within
    return pa.Table.from_pylist(rows, schema=PEERS)


def _ours(trace: Trace, layer: str, sample: int, step: int) -> dict[str, Any]:
    """The row of the table of layers at a step of the attack's first run, as far as the comparison needs it."""
    wanted = {"path": ATTACK, "restart": 0, "sample": sample, "step": step, "layer": layer}
    keep = pc.not_equal(trace.layers["kind"], BEST)
    for key, value in wanted.items():
        keep = pc.and_(keep, pc.equal(trace.layers[key], value))
    names = ["layer", "method", "exact", "trace", "trace_se", "top_eigenvalue"]
    found: dict[str, Any] = trace.layers.select(names).filter(keep).slice(0, 1).to_pylist()[0]
    return found
