"""Flips, alignment at the flip, and what counts as an uncanny valley (numpy only).

A trajectory *runs into an uncanny valley* when it flips, stays flipped, has its peak of sharpness inside
the path and ends at no more than τ times that peak. Walter et al. (arXiv 2405.16918) describe the
phenomenon; the definition is flatlens' own, so that fractions can be compared.

Matrices are ``[n, T+1]``: a row per sample, a column per step, step 0 the clean input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.records.intervals import Fraction as Fraction
from flatlens.records.intervals import Median as Median
from flatlens.records.intervals import Shares as Shares
from flatlens.records.intervals import median as median
from flatlens.records.intervals import shares as shares
from flatlens.records.intervals import wilson as wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NO_CAUTIONS: tuple[str, ...] = ()

TAU = 0.1
"""The end of a valley lies at or below this fraction of the peak."""
BLOCK = 8
"""Columns of a matrix whose quantiles are found together."""
TAUS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Where the share of valleys is looked at as a function of τ, which is a free choice that carries the number."""


class Band(NamedTuple):
    """Median, quartiles, mean and number of finite values at each position ``[m]``."""

    position: Ints
    median: Floats
    low: Floats
    high: Floats
    mean: Floats
    n: Ints


@dataclass(frozen=True, repr=False)
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
    """Flipped at every step from the flip on."""
    settled: Bools
    """Flipped at the end of the path, having started unflipped; it may have flipped back on its way."""
    settled_step: Ints
    """The step from which on it is flipped for good: the first after its last unflipped one."""
    flips_back: Bools
    peak_step: Ints
    interior_peak: Bools
    rise: Floats
    """measure(peak) / measure(0); +inf where measure(0) is 0 or the quotient is beyond float64."""
    depth: Floats
    """log10(measure(peak) / measure(T)); +inf where the end is at or below 0, which is as deep as can be."""
    end_vs_clean: Floats
    """measure(T) / measure(0); NaN where measure(0) is below 0, or both are 0."""
    clean_percentile: Floats
    """The share of clean inputs, of the samples that started unflipped, at which the measure is at most that at this
    end; those that are equal to it count half. 0.5 is an end as flat as the median clean input."""
    flatter_than_clean: Bools
    """measure(T) < measure(0): it ends flatter than its own clean input."""
    flat_end: Bools
    """measure(T) ≤ τ · measure(peak), wherever the peak lies and whatever the prediction does."""
    lag: Ints
    """peak step − flip step (0 where it did not flip; read it with ``flipped``)."""
    is_valley: Bools
    finite: Bools
    """All values of the measure along the path are finite."""
    at_peak: Floats
    at_end: Floats
    """The measure at the peak and at the end of the path."""
    tau: float
    cautions: tuple[str, ...] = ()
    """What a reader must know of the trace before believing the numbers."""

    @property
    def counted(self) -> Bools:
        """Samples that started unflipped: the base of every fraction."""
        return self.correct_at_start

    def over_tau(self, tau: Sequence[float] = TAUS) -> Shares:
        """The share of valleys among the flipped, had ``tau`` been another: print it beside any share of valleys."""
        among = self.stays_flipped & self.interior_peak & (self.at_peak > 0)
        end, peak = self.at_end[among], self.at_peak[among]
        return shares(tau, [int((end <= t * peak).sum()) for t in tau], int(self.flipped.sum()))

    def depths(self, most: int = 200) -> Shares:
        """The distribution of ``depth`` over the flipped: at each finite depth the share that is at most as deep.

        Ends at or below 0 are infinitely deep: where there are such, the last share is below 1. At most ``most``
        positions are kept, at even ranks.
        """
        depth = np.sort(self.depth[self.flipped & ~np.isnan(self.depth)])
        finite = depth[np.isfinite(depth)]
        rank = np.unique(np.linspace(0, len(finite) - 1, min(len(finite), most)).round().astype(np.int64))
        at = np.unique(finite[rank])
        return shares(at, np.searchsorted(depth, at, side="right").tolist(), len(depth))

    def summary(self) -> Summary:
        """Counts, fractions and medians with 95 % intervals."""
        base, flipped = self.counted, self.flipped
        at = flipped & self.finite
        settled = self.settled & base
        found = Summary(
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
            settled=wilson(int(settled.sum()), int(flipped.sum())),
            flat_end=wilson(int((self.flat_end & flipped).sum()), int(flipped.sum())),
            flatter_than_clean=wilson(int((self.flatter_than_clean & at).sum()), int(at.sum())),
            settled_step=median(self.settled_step[settled].astype(float)),
            end_vs_clean=median(self.end_vs_clean[at]),
            clean_percentile=median(self.clean_percentile[at]),
            not_finite=int((~self.finite).sum()),
            tau=self.tau,
        )
        found.cautions = self.cautions
        return found

    def __repr__(self) -> str:
        """What its summary says."""
        return repr(self.summary())


class _Statistics(NamedTuple):
    """The fields of a `Summary`."""

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
    settled: Fraction
    flat_end: Fraction
    flatter_than_clean: Fraction
    settled_step: Median
    end_vs_clean: Median
    clean_percentile: Median
    not_finite: int
    tau: float


class Summary(_Statistics):
    """The statistics of one path (an attack or a control) and one measure.

    ``correct`` is a share of all samples; ``flipped`` and ``valley_of_all`` are shares of the correct ones;
    ``valley_of_flipped``, ``flips_back``, ``interior_peak``, ``settled`` and ``flat_end`` of the flipped ones, and
    ``flatter_than_clean`` of those whose measure is finite throughout; medians are over the flipped ones, and
    ``settled_step`` over those that are settled.
    """

    # No field: a summary is compared, stored and tabulated by its statistics alone.
    cautions = NO_CAUTIONS

    def __repr__(self) -> str:
        """Its cautions first, then a line for each statistic, with its 95 % interval."""
        lines = [f"  {name}: {value}" for name, value in self._asdict().items()]
        return "\n".join([*(f"Caution: {text}" for text in self.cautions), "Summary", *lines])


def judge(
    measure: Floats,
    flipped: Bools,
    sample: Ints | None = None,
    *,
    correct: Bools | None = None,
    last: Ints | None = None,
    tau: float = TAU,
    cautions: tuple[str, ...] = (),
) -> Valley:
    """Decide for each trajectory whether it ran into a valley.

    Args:
        measure: the sharpness measure, ``[n, T+1]``; high = sharp.
        flipped: the attack's aim is reached at this step, ``[n, T+1]``.
        sample: the samples' ids, ``[n]``; 0 … n−1 when left out.
        correct: classified as labelled at step 0, ``[n]``; all when left out. The others are kept apart.
        last: each sample's last step, ``[n]``, where paths differ in length; T for all when left out.
        tau: the end must lie at or below ``tau`` times the peak, 0 < tau < 1.
        cautions: what the measures' reader must know.

    Raises:
        ValueError: ``tau`` is not between 0 and 1.
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
    # Plus 0: a quotient by −0 would be −inf.
    top, start, end = safe[rows, peak], measure[:, 0] + 0.0, measure[rows, last]
    known = finite & (top > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # What starts at exactly 0 rises infinitely; a measure that is 0 throughout does not rise.
        rise = np.where(known & (start >= 0), top / start, np.nan)
        # Of logarithms: the quotient would overflow where the end is subnormal.
        depth = np.where(known, np.where(end > 0, np.log10(top) - np.log10(end), np.inf), np.nan)
        end_vs_clean = np.where(finite & (start >= 0), end / start, np.nan)
        flat_end = known & (end <= tau * top)
    # A path has not flipped for good before the step after its last unflipped one.
    unflipped = length - 1 - (~flipped)[:, ::-1].argmax(axis=1)
    settled = start_ok & flipped[rows, last]
    return Valley(
        sample=np.arange(n) if sample is None else np.asarray(sample, dtype=np.int64),
        correct_at_start=start_ok,
        flipped=ever,
        flip_step=first.astype(np.int64),
        stays_flipped=stays,
        settled=settled,
        settled_step=np.where(settled, unflipped + 1, -1).astype(np.int64),
        flips_back=ever & ~stays,
        peak_step=np.where(finite, peak, -1).astype(np.int64),
        interior_peak=interior,
        rise=rise,
        depth=depth,
        lag=np.where(ever, peak - first, 0).astype(np.int64),
        end_vs_clean=end_vs_clean,
        clean_percentile=_percentile(end, start[start_ok], finite),
        flatter_than_clean=finite & (end < start),
        flat_end=flat_end,
        is_valley=stays & interior & flat_end,
        finite=finite,
        at_peak=top,
        at_end=end,
        tau=tau,
        cautions=cautions,
    )


def _percentile(values: Floats, law: Floats, known: Bools) -> Floats:
    """The mid-rank of each value in ``law``, 0 to 1; NaN where it is not known or there is no law."""
    law = np.sort(law[np.isfinite(law)])
    if not len(law):
        return np.full(len(values), np.nan)
    below, most = (np.searchsorted(law, values, side=side) for side in ("left", "right"))
    return np.where(known, (below + most) / (2 * len(law)), np.nan)


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
    width = values.shape[1]
    n = np.zeros(width, dtype=np.int64)
    low, mid, high, mean = (np.full(width, np.nan) for _ in range(4))
    # Some columns at a time: quantiles need several copies of what they are of.
    for begin in range(0, width, BLOCK):
        part = values[:, begin : begin + BLOCK]
        part = np.where(np.isfinite(part), part, np.nan)
        count = np.isfinite(part).sum(axis=0)
        n[begin : begin + BLOCK] = count
        at = np.flatnonzero(count > 0)
        if len(at):
            # The same numbers; the one that looks for NaN is slow.
            quantiles = np.percentile if count.min() == len(part) else np.nanpercentile
            low[begin + at], mid[begin + at], high[begin + at] = quantiles(part[:, at], [25, 50, 75], axis=0)
            mean[begin + at] = np.nanmean(part[:, at], axis=0)
    where = np.arange(width) if position is None else position
    return Band(where, mid, low, high, mean, n)
