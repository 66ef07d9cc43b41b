"""Trace -> the numbers that are drawn: curves over steps, samples to show, factors (numpy only).

Every aggregate on the page and in the figures is computed here, over *all* samples; single samples are
drawn from a bounded, deterministic subset.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.records import valley
from flatlens.records.digest import Accuracy as Accuracy
from flatlens.records.digest import accuracy as accuracy
from flatlens.records.schema import ATTACK, MEASURES
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Band, Floats, Ints, Valley

FLOW = {"loss": "loss", "confidence": "confidence", "margin": "margin"}
"""Columns of ``steps`` that are drawn on the path's own axis."""

FACTORS = {
    "confidence_term": "confidence term c",
    "feature_norm_sq": "feature norm ‖a‖²",
    "weight_norm": "weight norm ‖W‖²",
    "relative_sharpness": "product ‖W‖² · Tr H",
}
"""log relative_sharpness = log c + log‖a‖² + log‖W‖² (mathematics, head in closed form)."""


BOUNDS = {
    "certificate_bound_eigenvalue": "bound from λ_max",
    "certificate_bound_kappa": "bound from κ",
}
"""Columns of the head that bound the rise of the loss since the clean input."""


class Curve(NamedTuple):
    """One quantity along a path: over all samples by step, and around the flip."""

    raw: Band
    aligned: Band


class FlipPeakCounts(NamedTuple):
    """How many flipped samples share a flip step and a peak step; all ``[m]``."""

    flip: Ints
    peak: Ints
    count: Ints  # type: ignore[assignment]  # hides tuple.count


class Probe(NamedTuple):
    """A probed layer, and how its numbers were obtained."""

    name: str
    method: str
    exact: bool


def measures(trace: Trace) -> tuple[str, ...]:
    """The measures that have at least one finite value."""
    return tuple(m for m in MEASURES if m in trace.layers.column_names and _any_finite(trace, m))


def _any_finite(trace: Trace, column: str) -> bool:
    return bool(pc.any(pc.is_finite(trace.layers[column])).as_py())


def probes(trace: Trace) -> tuple[Probe, ...]:
    """The layers, each with its method and whether it is exact."""
    out = []
    for name in trace.layer_names:
        rows = trace.layers.filter(pc.equal(trace.layers["layer"], name)).select(["method", "exact"])
        methods = [m for m in pc.unique(rows["method"]).to_pylist() if m]
        exact = bool(pc.all(pc.fill_null(rows["exact"], False)).as_py())
        out.append(Probe(name, ", ".join(methods), exact))
    return tuple(out)


def flip_step(trace: Trace, path: str = ATTACK) -> Ints:
    """First flipped step of each sample that started right and unflipped; -1 where there is none."""
    flipped = trace.matrix("flipped", path=path).values
    right = trace.matrix("prediction", path=path).values == trace.matrix("label", path=path).values
    return valley.judge(np.zeros(flipped.shape), flipped, correct=right[:, 0]).flip_step


def curve(values: Floats, flip: Ints) -> Curve:
    """Median, quartiles, mean and n by step, and by offset from the flip (flipped samples only)."""
    offsets, shifted = valley.align(values, flip)
    return Curve(valley.band(values), valley.band(shifted, offsets))


def flip_peak_counts(valley: Valley) -> FlipPeakCounts:
    """Counts of flip step × peak step, over flipped samples whose measure is finite."""
    at = valley.flipped & valley.finite
    pairs, count = np.unique(np.stack([valley.flip_step[at], valley.peak_step[at]], axis=1), axis=0, return_counts=True)
    return FlipPeakCounts(pairs[:, 0], pairs[:, 1], count)


def factors(trace: Trace, layer: str, flip: Ints, *, path: str = ATTACK) -> dict[str, Curve] | None:
    """log10 of each factor of relative sharpness, as its change since step 0; None without a confidence term.

    The logarithm of the ratio is taken sample by sample, so that the medians add up as well as medians can.
    """
    out = {}
    for name in FACTORS:
        values = trace.matrix(name, path=path, layer=layer).values
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.log10(values) - np.log10(values[:, :1])
        change[~np.isfinite(change)] = np.nan
        if np.isnan(change).all():
            return None
        # The norm enters the product squared.
        out[name] = curve(2 * change if name == "weight_norm" else change, flip)
    return out


def looseness(trace: Trace, layer: str, flip: Ints, *, path: str = ATTACK) -> dict[str, Curve] | None:
    """Each bound of the loss divided by the loss's true rise since step 0; ≥ 1, and tight at 1.

    Samples whose loss has not risen at a step have no such ratio there. None where there is no bound.
    """
    out = {}
    rise = trace.matrix("loss_change", path=path, layer=layer).values
    for name in BOUNDS:
        bound = trace.matrix(name, path=path, layer=layer).values
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(rise > 0, bound / rise, np.nan)
        ratio[~np.isfinite(ratio)] = np.nan
        if not np.isnan(ratio).all():
            out[name] = curve(ratio, flip)
    return out or None


def pick(flip: Ints, most: int) -> NDArray[np.intp]:
    """Rows of at most ``most`` samples, in ascending order: evenly spaced in the order of their flips.

    Deterministic, and rare kinds (early, late, never flipped) are there in their share.
    """
    n = len(flip)
    if n <= most:
        return np.arange(n)
    order = np.argsort(np.where(flip < 0, np.iinfo(np.int64).max, flip), kind="stable")
    return np.sort(order[spread(n, most)])


def spread(n: int, most: int) -> NDArray[np.intp]:
    """At most ``most`` of the positions 0 … n−1, evenly spaced."""
    return np.arange(n) if n <= most else ((np.arange(most) + 0.5) * n / most).astype(np.intp)


def rows_of(sample: Ints, wanted: Ints) -> NDArray[np.intp]:
    """Where each wanted id is in the ascending ``sample``; -1 where it is not."""
    at = np.searchsorted(sample, wanted)
    at = np.minimum(at, max(len(sample) - 1, 0))
    found = sample[at] == wanted if len(sample) else np.zeros(len(wanted), dtype=bool)
    return np.where(found, at, -1)


def take(values: Floats, rows: NDArray[np.intp]) -> Floats:
    """Rows of a matrix; NaN for row -1."""
    out = np.full((len(rows), values.shape[1]), np.nan)
    out[rows >= 0] = values[rows[rows >= 0]]
    return out
