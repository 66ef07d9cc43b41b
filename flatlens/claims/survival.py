"""Medians of lengths of which some are only known to be longer: the product-limit estimate (Kaplan & Meier 1958).

It is for one question alone: the length at which a path does something, where some paths end before they have done it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HALF = 0.5 + 1e-12
"""The survival at or below which half have had the event, but for the rounding of a product."""


def median(length: Floats, event: Floats, weights: Floats | None = None) -> Floats:
    """The shortest length at which the survival is ½ or less, ``[draws]``; inf where it never falls so far.

    A length that ends without the event counts as longer than events at that very length.

    Args:
        length: at which the event came, or up to which it had not, ``[n]``.
        event: above 0 where it came, ``[n]``.
        weights: how often each sample is there, ``[draws, n]``; once each, in one draw, when left out.
    """
    there = np.asarray(event) > 0
    count = np.ones((1, len(length))) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.lexsort((~there, length))
    count = count[:, order]
    # Events at one length may be taken one after the other: (1 − a/r) (1 − b/(r − a)) = 1 − (a + b)/r.
    at_risk = count[:, ::-1].cumsum(1)[:, ::-1]
    lost = np.divide(count * there[order], at_risk, out=np.zeros_like(count), where=at_risk > 0)
    fallen = (1 - lost).cumprod(1) <= HALF
    first = fallen.argmax(1)
    return np.where(fallen.any(1), np.asarray(length, dtype=np.float64)[order][first], np.inf)


@lru_cache(maxsize=8)
def resampled(n: int, draws: int) -> Floats:
    """How often each of n samples is drawn, in each of so many resamples, ``[draws, n]``; always the same."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
