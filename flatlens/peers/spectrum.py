"""PyHessian's spectral density of the whole network at the clean inputs, at the flips and at the end of a run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import torch

from flatlens.errors import DataError
from flatlens.measure import load
from flatlens.peers.pyhessian import pyhessian_density
from flatlens.records import runs
from flatlens.records.schema import SPECTRUM

SAMPLES = 16
"""Flipped samples over which the loss is averaged: PyHessian knows no samples of their own."""
STEPS = 40


def add_spectrum(run: runs.Run) -> runs.Run:
    """Measure the densities of a finished run and keep them in its folder; nothing to do where they are there.

    Raises:
        DataError: no sample flips, or the run kept no inputs.
    """
    trace = run.trace()
    if trace.spectrum is not None:
        return run
    if trace.images is None:
        raise DataError("--spectrum needs the inputs of the run (images = 'none'); run it with --images key")
    valley = trace.valley()
    chosen = np.flatnonzero(valley.flipped)[:SAMPLES]
    if len(chosen) == 0:
        raise DataError("--spectrum compares the clean input, the flip and the end, and no sample flips")
    labels = torch.from_numpy(trace.matrix("label").values[chosen, 0])
    model = load.load(dataclasses.replace(run.spec, control=(), limit=None, samples=(0,), only_correct=False)).job.model
    kept = enumerate(zip(trace.images.sample, trace.images.step, strict=True))
    # At its last step a path's own point comes first, a best one after it.
    where = {(int(s), int(t)): i for i, (s, t) in reversed(list(kept))}
    tables = []
    for name, steps in (("clean", 0 * chosen), ("flip", valley.flip_step[chosen]), ("end", trace.last_steps()[chosen])):
        rows = [where[int(valley.sample[i]), int(step)] for i, step in zip(chosen, steps, strict=True)]
        x = torch.from_numpy(trace.images.x[rows])
        values, weights = pyhessian_density(model, None, x, labels, seed=run.spec.seed, steps=STEPS)
        columns = {
            "at": [name] * len(values),
            "eigenvalue": values,
            "weight": weights,
            "samples": [len(chosen)] * len(values),
        }
        tables.append(pa.table(columns, schema=SPECTRUM))
    run.save_spectrum(pa.concat_tables(tables))
    return run
