"""Trace -> the numbers that are drawn: curves over steps, samples to show, factors (numpy only).

Every aggregate on the page and in the figures is computed here, over *all* samples; single samples are
drawn from a bounded, deterministic subset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.records import ledger as ledgers
from flatlens.records import valley
from flatlens.records.digest import Accuracy as Accuracy
from flatlens.records.digest import accuracy as accuracy
from flatlens.records.schema import ATTACK, MEASURES
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Band, Floats, Ints, Valley

FLOW = {"loss": "loss", "confidence": "confidence", "margin": "margin"}
"""Columns of ``steps`` that are drawn on the path's own axis."""

BOUNDS = {
    "certificate_bound_eigenvalue": "bound from λ_max",
    "certificate_bound_kappa": "bound from κ",
}
"""Columns of the head that bound the rise of the loss since the clean input."""


BENDING = {"path_second": "second", "path_third": "third"}
"""Columns of ``steps``: derivatives of the loss along the step that led to a row."""


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
    """A probed layer, how its numbers were obtained, and which of the measures are known of it."""

    name: str
    method: str
    exact: bool
    measures: tuple[str, ...] = ()


def measures(trace: Trace) -> tuple[str, ...]:
    """The measures that have at least one finite value, without those that say the same as another in other units."""
    kept: list[str] = []
    for name in MEASURES:
        if name not in trace.layers.column_names or not bool(pc.any(pc.is_finite(trace.layers[name])).as_py()):
            continue
        if not any(_proportional(trace, name, other) for other in kept):
            kept.append(name)
    return tuple(kept)


def _proportional(trace: Trace, one: str, other: str) -> bool:
    """Whether, layer by layer, one is a constant times the other to rounding: its curve is then the same."""
    for layer in trace.layer_names:
        a, b = (trace.matrix(name, layer=layer).values for name in (one, other))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = (a / b)[np.isfinite(a) & np.isfinite(b) & (b != 0)]
        if not len(ratio) or not ratio[0] > 0 or not np.allclose(ratio, ratio[0], rtol=1e-5, atol=0):
            return False
    return True


def probes(trace: Trace, among: Sequence[str] = ()) -> tuple[Probe, ...]:
    """The layers, each with its method, whether it is exact, and which of the measures ``among`` are known of it."""
    out = []
    # Few columns: rows of all of them would take as much memory again as the table.
    table = trace.layers.select(["layer", "method", "exact", *among])
    for name in trace.layer_names:
        rows = table.filter(pc.equal(table["layer"], name))
        methods = [m for m in pc.unique(rows["method"]).to_pylist() if m]
        exact = bool(pc.all(pc.fill_null(rows["exact"], False)).as_py())
        known = tuple(one for one in among if bool(pc.any(pc.is_finite(rows[one])).as_py()))
        out.append(Probe(name, ", ".join(methods), exact, known))
    return tuple(out)


def flip_step(trace: Trace, path: str = ATTACK) -> Ints:
    """First flipped step of each sample that started right and unflipped; -1 where there is none."""
    flipped = trace.matrix("flipped", path=path).values
    return valley.judge(np.zeros(flipped.shape), flipped, correct=trace.right_at_start(path)).flip_step


def curves(trace: Trace, column: str, layer: str | None, path: str) -> Curve:
    """One column along one path."""
    return curve(trace.matrix(column, path=path, layer=layer).values, flip_step(trace, path))


def curve_of(values: Floats) -> Curve:
    """By step alone."""
    return curve(values, np.full(len(values), -1))


def curve(values: Floats, flip: Ints) -> Curve:
    """Median, quartiles, mean and n by step, and by offset from the flip (flipped samples only)."""
    offsets, shifted = valley.align(values, flip)
    return Curve(valley.band(values), valley.band(shifted, offsets))


def flip_peak_counts(valley: Valley) -> FlipPeakCounts:
    """Counts of flip step × peak step, over flipped samples whose measure is finite."""
    at = valley.flipped & valley.finite
    pairs, count = np.unique(np.stack([valley.flip_step[at], valley.peak_step[at]], axis=1), axis=0, return_counts=True)
    return FlipPeakCounts(pairs[:, 0], pairs[:, 1], count)


def ledger(trace: Trace, layer: str, path: str = ATTACK) -> dict[str, Curve] | None:
    """The parts of log₁₀ κ = log₁₀ c + log₁₀ ‖a‖² + log₁₀ dispersion, as their change since step 0.

    Sample by sample, then the medians. None where no sample has a confidence term above 0.
    """
    of = ledgers.ledger(trace, path=path, layer=layer)
    flip = flip_step(trace, path)
    changes = {part: decades - decades[:, :1] for part, decades in of.decades.items()}
    if any(np.isnan(change).all() for change in changes.values()):
        return None
    return {part: curve(change, flip) for part, change in changes.items()}


def told(trace: Trace, layer: str) -> str:
    """The attack's ledger in a sentence: medians over the flipped, from clean to the peak and on to the end."""
    moves = ledgers.ledger(trace, layer=layer).moves(flip_step(trace) >= 0)
    whole, confidence = moves[ledgers.WHOLE], moves[ledgers.CONFIDENCE]
    if not whole.rise.n or np.isnan(confidence.rise.value):
        return ""
    up, own_up, down, own_down = (
        f"{abs(of.value):.1f}" for of in (whole.rise, confidence.rise, whole.fall, confidence.fall)
    )
    return (
        f"κ rises by {up} decades to the peak, softmax confidence alone by {own_up}; it falls by {down} to the end, "
        f"confidence alone by {own_down} (medians of {whole.rise.n:,} flipped samples)."
    )


def looseness(trace: Trace, layer: str, path: str = ATTACK) -> dict[str, Curve] | None:
    """Each bound of the loss divided by the loss's true rise since step 0; ≥ 1, and tight at 1.

    Samples whose loss has not risen at a step have no such ratio there. None where there is no bound.
    """
    out, flip = {}, flip_step(trace, path)
    rise = trace.matrix("loss_change", path=path, layer=layer).values
    for name in BOUNDS:
        bound = trace.matrix(name, path=path, layer=layer).values
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(rise > 0, bound / rise, np.nan)
        ratio[~np.isfinite(ratio)] = np.nan
        if not np.isnan(ratio).all():
            out[name] = curve(ratio, flip)
    return out or None


def bending(trace: Trace, path: str = ATTACK) -> dict[str, Curve] | None:
    """Second and third derivative of the loss along the path; None where neither was measured, as in older runs."""
    there = [column for column in BENDING if column in trace.steps.column_names]
    found = {column: curves(trace, column, None, path) for column in there}
    return found if any(curve.raw.n.any() for curve in found.values()) else None


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
