"""Shares and medians with their 95 % intervals (numpy only)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST = 6
"""Fewer numbers than this allow no 95 % interval of their median: its widest covers 1 − 2 · 2⁻ⁿ, 93.75 % for n = 5."""


_AT_ONCE = 1 << 20
"""Numbers that a bootstrap of a mean holds at a time."""


class Fraction(NamedTuple):
    """A share of samples with its 95 % Wilson interval; ``value`` is NaN when ``n`` is 0."""

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # hides tuple.count
    n: int

    def __str__(self) -> str:
        """``0.4 [0.25, 0.58], 12 of 30``."""
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], {self.count} of {self.n}" if self.n else "n = 0"


class Median(NamedTuple):
    """A median with its 95 % bootstrap percentile interval; NaN when ``n`` is 0, the interval below `LEAST`."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """``9.2 [8.1, 11], n = 30``."""
        return _said(self)


class Mean(NamedTuple):
    """A mean with its 95 % interval; NaN when ``n`` is 0, the interval of a bootstrap also below `LEAST`."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """``1.8 [1.6, 2], n = 450``."""
        return _said(self)


def _said(found: Median | Mean) -> str:
    interval = "" if np.isnan(found.low) else f" [{found.low:.3g}, {found.high:.3g}]"
    return f"{found.value:.3g}{interval}, n = {found.n}"


class Shares(NamedTuple):
    """A share at each of some positions ``[m]``, with its 95 % Wilson interval; NaN when ``n`` is 0."""

    position: Floats
    value: Floats
    low: Floats
    high: Floats
    count: Ints  # type: ignore[assignment]  # hides tuple.count
    n: int


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


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Mean:
    """How much more often the first is true than the second, of the same samples, with its 95 % interval.

    The interval is the hybrid score interval for paired shares (Newcombe 1998, Stat. Med. 17, 2635, method 10): each
    share's Wilson interval, joined by their correlation. It is sound for few samples, and where none differ.

    Args:
        first: ``[n]``.
        second: ``[n]``, of the same samples in the same order.
    """
    n = len(first)
    if n == 0:
        return Mean(np.nan, np.nan, np.nan, 0)
    a, b = int((first & second).sum()), int((first & ~second).sum())
    c, d = int((~first & second).sum()), int((~first & ~second).sum())
    size = math.sqrt(float((a + b) * (c + d) * (a + c) * (b + d)))
    products = a * d - b * c
    # The continuity correction takes nothing from a negative correlation.
    phi = 0.0 if size == 0 else (max(products - n / 2, 0.0) if products > 0 else float(products)) / size
    return _difference(wilson(int(first.sum()), n), wilson(int(second.sum()), n), phi, n)


def apart(first: Fraction, second: Fraction) -> Mean:
    """How much larger the first share is than the second, of other samples, with its 95 % interval.

    The hybrid score interval for independent shares (Newcombe 1998, Stat. Med. 17, 873, method 10). NaN where a share
    is of no samples; ``n`` is the smaller of the two.
    """
    n = min(first.n, second.n)
    return _difference(first, second, 0.0, n) if n else Mean(np.nan, np.nan, np.nan, 0)


def _difference(one: Fraction, other: Fraction, phi: float, n: int) -> Mean:
    """Of two shares whose Wilson intervals are joined by the shares' correlation."""

    def reach(above: float, below: float) -> float:
        return math.sqrt(max(above**2 - 2 * phi * above * below + below**2, 0.0))

    difference = one.value - other.value
    low = difference - reach(one.value - one.low, other.high - other.value)
    high = difference + reach(other.value - other.low, one.high - one.value)
    return Mean(difference, max(low, -1.0), min(high, 1.0), n)


def mean(values: Floats, *, draws: int = 2000, seed: int = 0) -> Mean:
    """The mean with its 95 % bootstrap percentile interval; of fewer than `LEAST` values, without one. NaN is left out.

    Args:
        values: ``[n]``.
        draws: resamples.
        seed: of the resamples.
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return Mean(np.nan, np.nan, np.nan, 0)
    centre = float(values.mean())
    if n < LEAST or not np.isfinite(centre):
        return Mean(centre, np.nan, np.nan, n)
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // n)
    found = [
        values[rng.integers(n, size=(min(at_once, draws - begun), n))].mean(1) for begun in range(0, draws, at_once)
    ]
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return Mean(centre, float(low), float(high), n)


def shares(position: Sequence[float] | Floats, count: Sequence[int], n: int) -> Shares:
    """``count`` of ``n`` at each position, with intervals."""
    found = [wilson(k, n) for k in count]
    value, low, high = (np.array([getattr(one, name) for one in found]) for name in ("value", "low", "high"))
    return Shares(np.asarray(position, dtype=float), value, low, high, np.asarray(count, dtype=np.int64), n)


def median(values: Floats, *, draws: int = 2000, seed: int = 0) -> Median:
    """The median with its 95 % bootstrap percentile interval; of fewer than `LEAST` values, without one.

    The median of a resample of size n is x₍⌈nU₎₎ with U a middle order statistic of n uniforms, which is a
    beta variable: it is drawn directly, so that 100,000 samples cost no more than 10.
    """
    values = np.sort(values[~np.isnan(values)])
    n = len(values)
    if n == 0:
        return Median(np.nan, np.nan, np.nan, 0)
    centre = values[n // 2] if n % 2 else _middle(values[n // 2 - 1], values[n // 2])
    if n < LEAST:
        return Median(float(centre), np.nan, np.nan, n)
    one, next_one = _resampled(n, draws, seed)
    picked = values[one] if n % 2 else _middle(values[one], values[next_one])
    low, high = np.percentile(picked, [2.5, 97.5], method="nearest")
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
    # inf − inf would be NaN where both are infinite, and the sum of two large numbers overflows.
    with np.errstate(over="ignore"):
        return np.where(a == b, a, a / 2 + b / 2)
