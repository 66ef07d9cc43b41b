"""The spectral density of the whole network as curves on one symmetric logarithmic axis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from flatlens.records.trajectory import Trace
from flatlens.records.valley import Floats

POINTS = 300
DECADES = 4
"""Decades of eigenvalue between zero and the largest that the axis tells apart."""
WIDTH = 0.15
"""Standard deviation of the Gaussian that each eigenvalue is drawn as, in units of the axis."""


class Density(NamedTuple):
    """Curves over a common axis.

    ``position`` ``[m]`` = asinh(λ / unit), ``curves`` by ``clean``, ``flip``, ``end``, each ``[m]``; ticks at ``tick``
    are labelled with the eigenvalues ``value``; the loss is the mean over ``samples``.
    """

    position: Floats
    curves: dict[str, Floats]
    tick: Floats
    value: Floats
    samples: int


def density(trace: Trace) -> Density | None:
    """The curves, or None where the run measured no spectrum."""
    table = trace.spectrum
    if table is None or not table.num_rows:
        return None
    values = table["eigenvalue"].to_numpy()
    largest = float(np.abs(values).max()) or 1.0
    unit = largest * 10.0**-DECADES
    where = np.arcsinh(values / unit)
    position = np.linspace(where.min() - 4 * WIDTH, where.max() + 4 * WIDTH, POINTS)
    curves = {}
    for at in pc.unique(table["at"]).to_pylist():
        rows = pc.equal(table["at"], at).to_numpy()
        weight = table["weight"].to_numpy()[rows]
        bumps = np.exp(-0.5 * ((position[:, None] - where[rows][None, :]) / WIDTH) ** 2)
        curves[at] = bumps @ weight / (WIDTH * np.sqrt(2 * np.pi))
    top = int(np.floor(np.log10(largest)))
    powers = 10.0 ** np.arange(top - DECADES + 2, top + 1, 2)  # all of them would lie over each other
    value = np.concatenate([-powers[::-1], [0.0], powers])
    tick = np.arcsinh(value / unit)
    seen = (tick >= position[0]) & (tick <= position[-1])
    return Density(position, curves, tick[seen], value[seen], int(table["samples"][0].as_py()))
