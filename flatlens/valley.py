"""Flips, alignment at the flip, and what counts as an uncanny valley (numpy only).

A trajectory *runs into an uncanny valley* when it flips, stays flipped, has its peak of sharpness inside
the path and ends at no more than τ times that peak. Walter et al. (arXiv 2405.16918) describe the
phenomenon; the definition is flatlens' own, so that fractions can be compared.

Matrices are ``[n, T+1]``: a row per sample, a column per step, step 0 the clean input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TAU = 0.1
"""The end of a valley lies at or below this fraction of the peak."""


class Fraction(NamedTuple):
    """A share of samples with its 95 % Wilson interval; ``value`` is NaN when ``n`` is 0."""

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # hides tuple.count
    n: int


class Median(NamedTuple):
    """A median with its 95 % bootstrap percentile interval; NaN when ``n`` is 0."""

    value: float
    low: float
    high: float
    n: int


class Band(NamedTuple):
    """Median, quartiles, mean and number of finite values at each position ``[m]``."""

    position: Ints
    median: Floats
    low: Floats
    high: Floats
    mean: Floats
    n: Ints


@dataclass(frozen=True)
class Valley:
    """What each trajectory did; arrays are ``[n]``, in the order of ``sample``.

    Fields with a step hold -1, and ratios hold NaN, where the event did not happen.
    """

    sample: Ints
    correct_at_start: Bools
    """Classified as labelled (targeted: not yet as the target) at step 0; all else counts only these."""
    flipped: Bools
    """Flipped at some step, having started unflipped."""
    flip_step: Ints
    stays_flipped: Bools
    flips_back: Bools
    peak_step: Ints
    interior_peak: Bools
    rise: Floats
    """measure(peak) / measure(0)."""
    depth: Floats
    """log10(measure(peak) / measure(T))."""
    lag: Ints
    """peak step − flip step (0 where it did not flip; read it with ``flipped``)."""
    is_valley: Bools
    finite: Bools
    """All values of the measure along the path are finite."""
    tau: float

    @property
    def counted(self) -> Bools:
        """Samples that started unflipped: the base of every fraction."""
        return self.correct_at_start

    def summary(self) -> Summary:
        """Counts, fractions and medians with 95 % intervals."""
        base, flipped = self.counted, self.flipped
        at = flipped & self.finite
        return Summary(
            n=len(self.sample),
            correct=wilson(int(base.sum()), len(base)),
            flipped=wilson(int(flipped.sum()), int(base.sum())),
            valley_of_flipped=wilson(int(self.is_valley.sum()), int(flipped.sum())),
            valley_of_all=wilson(int(self.is_valley.sum()), int(base.sum())),
            flips_back=wilson(int((self.flips_back & base).sum()), int(flipped.sum())),
            interior_peak=wilson(int((self.interior_peak & flipped).sum()), int(flipped.sum())),
            peak_step=median(self.peak_step[at].astype(float)),
            flip_step=median(self.flip_step[flipped].astype(float)),
            rise=median(self.rise[at]),
            depth=median(self.depth[at]),
            lag=median(self.lag[at].astype(float)),
            not_finite=int((~self.finite).sum()),
            tau=self.tau,
        )


class Summary(NamedTuple):
    """The statistics of one path (an attack or a control) and one measure.

    ``correct`` is a share of all samples; ``flipped`` and ``valley_of_all`` are shares of the correct ones;
    ``valley_of_flipped``, ``flips_back`` and ``interior_peak`` of the flipped ones; medians are over the flipped ones.
    """

    n: int
    correct: Fraction
    flipped: Fraction
    valley_of_flipped: Fraction
    valley_of_all: Fraction
    flips_back: Fraction
    interior_peak: Fraction
    peak_step: Median
    flip_step: Median
    rise: Median
    depth: Median
    lag: Median
    not_finite: int
    tau: float


def find(
    measure: Floats,
    flipped: Bools,
    sample: Ints | None = None,
    *,
    correct: Bools | None = None,
    last: Ints | None = None,
    tau: float = TAU,
) -> Valley:
    """Decide for each trajectory whether it ran into a valley.

    Args:
        measure: the sharpness measure, ``[n, T+1]``; high = sharp.
        flipped: the attack's aim is reached at this step, ``[n, T+1]``.
        sample: the samples' ids, ``[n]``; 0 … n−1 when left out.
        correct: classified as labelled at step 0, ``[n]``; all when left out. The others are kept apart.
        last: each sample's last step, ``[n]``, where paths differ in length; T for all when left out.
        tau: the end must lie at or below ``tau`` times the peak, 0 < tau < 1.
    """
    if not 0 < tau < 1:
        raise ValueError(f"tau = {tau} is not between 0 and 1")
    measure = np.asarray(measure, dtype=float)
    flipped = np.asarray(flipped, dtype=bool)
    n, length = measure.shape
    rows = np.arange(n)
    last = np.full(n, length - 1) if last is None else np.asarray(last)
    beyond = np.arange(length)[None, :] > last[:, None]
    finite: Bools = np.asarray((np.isfinite(measure) | beyond).all(axis=1))
    # What is beyond a path's end changes nothing of what it did.
    flipped = np.where(beyond, flipped[rows, last][:, None], flipped)
    start_ok = ~flipped[:, 0] if correct is None else ~flipped[:, 0] & correct
    ever = flipped.any(axis=1) & start_ok
    first = np.where(ever, flipped.argmax(axis=1), -1)
    after = np.arange(length)[None, :] >= np.where(ever, first, length)[:, None]
    stays = ever & np.where(after, flipped, True).all(axis=1)

    safe = np.where(np.isfinite(measure) & ~beyond, measure, -np.inf)
    peak = safe.argmax(axis=1)
    interior = finite & (peak > 0) & (peak < last)
    top, start, end = safe[rows, peak], measure[:, 0], measure[rows, last]
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = np.where(finite & (start > 0), top / start, np.nan)
        depth = np.where(finite & (top > 0) & (end > 0), np.log10(top / end), np.nan)
        # A measure that reaches exactly 0 is infinitely deep; one that is 0 throughout has no valley.
        depth = np.where(finite & (top > 0) & (end == 0), np.inf, depth)
        falls = (top > 0) & (end <= tau * top)
    return Valley(
        sample=np.arange(n) if sample is None else np.asarray(sample, dtype=np.int64),
        correct_at_start=start_ok,
        flipped=ever,
        flip_step=first.astype(np.int64),
        stays_flipped=stays,
        flips_back=ever & ~stays,
        peak_step=np.where(finite, peak, -1).astype(np.int64),
        interior_peak=interior,
        rise=rise,
        depth=depth,
        lag=np.where(ever, peak - first, 0).astype(np.int64),
        is_valley=stays & interior & falls,
        finite=finite,
        tau=tau,
    )


def align(values: Floats, flip_step: Ints) -> tuple[Ints, Floats]:
    """Shift each row so that its flip lies at offset 0; rows that never flip (``-1``) are left out.

    Returns:
        offsets ``[m]`` and values ``[k, m]``, NaN where a path has no such step. The set of samples
        changes with the offset: always show ``n`` beside an average of these.
    """
    rows = np.flatnonzero(flip_step >= 0)
    length = values.shape[1]
    offsets = np.arange(-(length - 1), length)
    out = np.full((len(rows), len(offsets)), np.nan)
    if len(rows):
        column = np.arange(length)[None, :] - flip_step[rows][:, None] + length - 1
        np.put_along_axis(out, column, values[rows], axis=1)
    keep = np.isfinite(out).any(axis=0)
    return offsets[keep], out[:, keep]


def band(values: Floats, position: Ints | None = None) -> Band:
    """Median, quartiles, mean and n over samples at each column of ``values`` ``[n, m]``; NaN are left out."""
    values = np.where(np.isfinite(values), values, np.nan)
    n = np.isfinite(values).sum(axis=0)
    cols = np.flatnonzero(n > 0)
    low, mid, high, mean = (np.full(values.shape[1], np.nan) for _ in range(4))
    if len(cols):
        # The same numbers; the one that looks for NaN is slow.
        quantiles = np.percentile if n.min() == len(values) else np.nanpercentile
        low[cols], mid[cols], high[cols] = quantiles(values[:, cols], [25, 50, 75], axis=0)
        mean[cols] = np.nanmean(values[:, cols], axis=0)
    where = np.arange(values.shape[1]) if position is None else position
    return Band(where, mid, low, high, mean, n)


def wilson(count: int, n: int) -> Fraction:
    """A share with its 95 % Wilson score interval (Wilson 1927)."""
    if n == 0:
        return Fraction(np.nan, np.nan, np.nan, count, 0)
    z2 = 1.959963984540054**2
    share = count / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # The interval's ends at 0 and n successes are 0 and 1 exactly; rounding must not say otherwise.
    low = 0.0 if count == 0 else float(centre - half)
    high = 1.0 if count == n else float(centre + half)
    return Fraction(share, low, high, count, n)


def median(values: Floats, *, draws: int = 2000, seed: int = 0) -> Median:
    """The median with its 95 % bootstrap percentile interval.

    The median of a resample of size n is x₍⌈nU₎₎ with U a middle order statistic of n uniforms, which is a
    beta variable: it is drawn directly, so that 100,000 samples cost no more than 10.
    """
    values = np.sort(values[~np.isnan(values)])
    n = len(values)
    if n == 0:
        return Median(np.nan, np.nan, np.nan, 0)
    one, next_one = _resampled(n, draws, seed)
    picked = values[one] if n % 2 else _middle(values[one], values[next_one])
    low, high = np.percentile(picked, [2.5, 97.5], method="nearest")
    centre = values[n // 2] if n % 2 else _middle(values[n // 2 - 1], values[n // 2])
    return Median(float(centre), float(low), float(high), n)


@lru_cache(maxsize=64)
def _resampled(n: int, draws: int, seed: int) -> tuple[Ints, Ints]:
    """Which order statistics are the middle two of each resample; the second is for an even n.

    They depend on nothing but n: the medians of one path share them.
    """
    rng = np.random.default_rng(seed)
    lower = (n + 1) // 2
    u = rng.beta(lower, n - lower + 1, draws)
    if n % 2:
        return _rank(u, n), _rank(u, n)
    return _rank(u, n), _rank(u + (1 - u) * rng.beta(1, n - lower, draws), n)


def _rank(u: Floats, n: int) -> Ints:
    return np.clip(np.ceil(u * n).astype(np.int64) - 1, 0, n - 1)


def _middle(a: Floats, b: Floats) -> Floats:
    # inf − inf would be NaN where both are infinite (a measure that ended at exactly 0).
    return np.where(a == b, a, (a + b) / 2)
