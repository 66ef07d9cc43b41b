"""Kinds of numbers that say how well a score tells adversarial from clean inputs, pair by pair (numpy only).

A row is a sample: its score at the clean input, and at the adversarial one, NaN where the attack did not turn it. How
a threshold is set and tried, and each interval, is that of `flatlens.trials.separating`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flatlens.records.intervals import Fraction, Mean, mean
from flatlens.trials.separating import LEAST_PAIRS, Pairs, auc, caught, rights, transferred

Floats = NDArray[np.float64]
RATES = (0.01, 0.05)
"""Shares of clean inputs that may raise an alarm."""


def area(clean: Floats, adversarial: Floats) -> Mean:
    """P(adversarial > clean) + ½ P(equal), with DeLong's interval for pairs.

    Args:
        clean: ``[n]``.
        adversarial: ``[n]``, of the same samples.
    """
    return auc(clean, adversarial) if len(clean) >= LEAST_PAIRS else _none(clean)


def accuracy(clean: Floats, adversarial: Floats, fold: Floats) -> Mean:
    """How often a stump is right that was set on the other folds' pairs.

    Args:
        clean: ``[n]``.
        adversarial: ``[n]``.
        fold: of each sample, 0 to 4.
    """
    return transfer(clean, adversarial, clean, adversarial, fold)


def transfer(clean: Floats, adversarial: Floats, other_clean: Floats, other: Floats, fold: Floats) -> Mean:
    """How often a stump that was set on one attack is right on another: by folds, of samples that both have turned.

    Args:
        clean: ``[n]``, of the attack that it is set on.
        adversarial: ``[n]``, likewise.
        other_clean: ``[n]``, of the attack that it is tried on.
        other: ``[n]``, likewise.
        fold: of each sample, 0 to 4.
    """
    if len(clean) < LEAST_PAIRS:
        return _none(clean)
    return transferred(_pairs(clean, adversarial, fold), _pairs(other_clean, other, fold))


def advantage(clean: Floats, adversarial: Floats, plain_clean: Floats, plain: Floats, fold: Floats) -> Mean:
    """How much more often a stump on one score is right than a stump on another score, of the same pairs.

    Args:
        clean: ``[n]``, of the first score.
        adversarial: ``[n]``, likewise.
        plain_clean: ``[n]``, of the second score.
        plain: ``[n]``, likewise.
        fold: of each sample, 0 to 4.
    """
    if len(clean) < LEAST_PAIRS:
        return _none(clean)
    one, other = _pairs(clean, adversarial, fold), _pairs(plain_clean, plain, fold)
    return mean(rights(one, one) - rights(other, other))


def rate_caught(rate: float, clean: Floats, adversarial: Floats) -> Fraction | Mean:
    """The share of adversarial inputs beyond the threshold that at most ``rate`` of the clean ones are beyond.

    Args:
        rate: of false alarms.
        clean: ``[n]``.
        adversarial: ``[n]``; beyond is on the side where these score more often.
    """
    if len(clean) < LEAST_PAIRS:
        return _none(clean)
    return caught(clean, adversarial, rate, 1 if auc(clean, adversarial).value >= 0.5 else -1)


def _pairs(clean: Floats, adversarial: Floats, fold: Floats) -> Pairs:
    return Pairs(clean, adversarial, fold.astype(np.int64))


def _none(clean: Floats) -> Mean:
    return Mean(np.nan, np.nan, np.nan, len(clean))
