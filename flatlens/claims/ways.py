"""Kinds of numbers over ways of training: each way is one observation, however many seeds it was trained with (numpy).

A row is a network; the last column says by which way it was trained, as a whole number. The networks of one way differ
by their seeds alone and are much alike: taken as independent, they would make intervals far too narrow. So every
column is averaged over the seeds of a way first, and ways are what is ranked and counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flatlens.records.intervals import Mean

Floats = NDArray[np.float64]
Z = 1.959963984540054


def partial(*columns: Floats) -> Mean:
    """Spearman's rank correlation of the first two columns over ways, given all that follow, with Fisher's interval.

    The standard error of atanh ρ is √((1 + ρ²/2) / (m − k − 3)) for m ways and k columns given (Bonett & Wright 2000,
    Psychometrika 65, 23; Fisher 1924 for what is given).

    Args:
        columns: two, any number that are given, and the way: each ``[n]``.
    """
    first, second, *given = (ranks(values) for values in averaged(*columns))
    m, k = len(first), len(given)
    one, other = (residual(values, given) for values in (first, second))
    size = float(np.sqrt((one @ one) * (other @ other)))
    if m < 3 or size <= 1e-9 * float(first @ first):
        return Mean(np.nan, np.nan, np.nan, m)
    rho = float(np.clip(one @ other / size, -1, 1))
    if m - k - 3 < 1 or abs(rho) == 1:
        return Mean(rho, np.nan, np.nan, m)
    half = Z * np.sqrt((1 + rho**2 / 2) / (m - k - 3))
    return Mean(rho, float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half)), m)


def explained(*columns: Floats) -> Mean:
    """The share of the first column's variance over ways, of ranks, that the others explain: R², adjusted.

    1 − (1 − R²)(m − 1)/(m − k − 1) for m ways and k columns. The interval is Fisher's of √R², the standard error of its
    atanh √(1.5 / (m − k − 3)), the widest of a rank correlation: in simulation it covers 92 to 99 %.

    Args:
        columns: what is explained, the ones that explain it, and the way: each ``[n]``.
    """
    first, *others = (ranks(values) for values in averaged(*columns))
    m, k = len(first), len(others)
    if m - k - 3 < 1 or float(np.ptp(first)) == 0:
        return Mean(np.nan, np.nan, np.nan, m)
    centred, left = residual(first, []), residual(first, others)
    plain = 1 - float(left @ left) / float(centred @ centred)
    value = 1 - (1 - plain) * (m - 1) / (m - k - 1)
    at = np.arctanh(np.sqrt(np.clip(value, 0, 1 - 1e-12)))
    half = Z * np.sqrt(1.5 / (m - k - 3))
    low, high = (float(np.tanh(max(at + sign * half, 0)) ** 2) for sign in (-1, 1))
    return Mean(value, min(low, value), max(high, value), m)


def averaged(*columns: Floats) -> list[Floats]:
    """All columns but the last, each the mean over the rows of one way, ``[m]``; the last column says the way."""
    *values, way = columns
    _, at = np.unique(way, return_inverse=True)
    count = np.bincount(at)
    return [np.bincount(at, weights=one) / count for one in values]


def ranks(values: Floats) -> Floats:
    """Ranks from 1 on, of equal values their mean."""
    order = np.sort(values)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") + 1) / 2


def residual(values: Floats, given: list[Floats]) -> Floats:
    """What is left of values by least squares on a constant and on what is given."""
    if not len(values):
        return values
    design = np.column_stack([np.ones(len(values)), *given])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
