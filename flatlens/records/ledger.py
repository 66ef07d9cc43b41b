"""The ledger of κ: which factor of it moves, in decades, so that the parts add up. No torch.

κ = c · ‖a‖² · d, with c = Σ p_k (1 − p_k) the confidence term, a the layer's input, and d = κ / (c ‖a‖²) the
dispersion: at the head, how far apart the weights of those classes are that the softmax wavers between. So for every
sample

    Δ log₁₀ κ = Δ log₁₀ c + Δ log₁₀ ‖a‖² + Δ log₁₀ d

between any two steps. The medians over samples do not add up: each is of its own part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flatlens.records.intervals import Median, median
from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Band, Bools, Floats, Ints, band

WHOLE, CONFIDENCE, FEATURES, DISPERSION = "relative_flatness", "confidence_term", "feature_norm_sq", "dispersion"
PARTS = (CONFIDENCE, FEATURES, DISPERSION)
"""What the whole is the sum of."""


class Moves(NamedTuple):
    """Medians over samples of the change of one part, in decades: from clean to peak, and from the peak to the end."""

    rise: Median
    fall: Median


@dataclass(frozen=True)
class Ledger:
    """The logarithms of κ and of its parts along one path, for every sample.

    Attributes:
        path: whose.
        layer: of which layer.
        sample: ids, ``[n]``.
        peak_step: where κ is largest, ``[n]``; −1 where κ is not finite at every step.
        last_step: ``[n]``.
        decades: `WHOLE` and each of `PARTS` -> log₁₀, ``[n, T+1]``; NaN where κ, c or ‖a‖² is not above 0, or the path
            is over.
    """

    path: str
    layer: str
    sample: Ints
    peak_step: Ints
    last_step: Ints
    decades: Mapping[str, Floats]

    def change(self, part: str, start: Ints, stop: Ints) -> Floats:
        """Decades from step ``start`` ``[n]`` to step ``stop`` ``[n]``; NaN where a step is below 0."""
        rows, held = np.arange(len(self.sample)), self.decades[part]
        return np.where((start >= 0) & (stop >= 0), held[rows, stop] - held[rows, start], np.nan)

    def rise(self, part: str) -> Floats:
        """Decades from the clean input to the peak, ``[n]``."""
        return self.change(part, np.zeros_like(self.peak_step), self.peak_step)

    def fall(self, part: str) -> Floats:
        """Decades from the peak to the end, ``[n]``: below 0 where it falls."""
        return self.change(part, self.peak_step, self.last_step)

    def steps(self, part: str) -> Floats:
        """Decades of each step, ``[n, T]``; column t is from step t to step t + 1."""
        return np.diff(self.decades[part], axis=1)

    def moves(self, among: Bools | None = None) -> dict[str, Moves]:
        """The medians of `WHOLE` and each of `PARTS`, over the samples ``among`` ``[n]``; all when left out."""
        kept = np.ones(len(self.sample), dtype=bool) if among is None else among
        return {part: Moves(median(self.rise(part)[kept]), median(self.fall(part)[kept])) for part in (WHOLE, *PARTS)}

    def step_bands(self, among: Bools | None = None) -> dict[str, Band]:
        """Median and quartiles of each step's change; a position is the step that it leads to."""
        kept = np.ones(len(self.sample), dtype=bool) if among is None else among
        return {
            part: band(change, np.arange(1, change.shape[1] + 1))
            for part in (WHOLE, *PARTS)
            for change in [self.steps(part)[kept]]
        }


def ledger(trace: Trace, *, path: str = ATTACK, layer: str | None = None, restart: int = 0) -> Ledger:
    """The ledger of one path of a trace.

    Args:
        trace: measured.
        path: ``"attack"`` or the name of a control.
        layer: the first one when left out.
        restart: which run of the attack.

    Raises:
        SpecError: there is no such path.
        LayerError: there is no such layer.
    """
    name = layer or trace.layer_names[0]
    found = trace.valley(path=path, layer=name, restart=restart)
    kappa, confidence, features = (
        trace.matrix(column, path=path, layer=name, restart=restart).values for column in (WHOLE, CONFIDENCE, FEATURES)
    )
    known = (kappa > 0) & (confidence > 0) & (features > 0) & np.isfinite(kappa + confidence + features)
    whole, *two = (np.log10(np.where(known, values, np.nan)) for values in (kappa, confidence, features))
    # By subtraction: the quotient κ / (c ‖a‖²) could overflow where c is subnormal.
    decades = {WHOLE: whole, CONFIDENCE: two[0], FEATURES: two[1], DISPERSION: whole - two[0] - two[1]}
    last = trace.last_steps(path=path, restart=restart)
    return Ledger(path, name, found.sample, found.peak_step, last, decades)


def ledgers(trace: Trace, *, layer: str | None = None) -> dict[str, Ledger]:
    """The ledger of every path of a trace, the attack's first."""
    return {path: ledger(trace, path=path, layer=layer) for path in trace.paths}
