"""How well one score tells adversarial from clean inputs, of pairs of the same sample (numpy only).

A pair is a sample's clean score and its adversarial one. What is set (a threshold, a direction) is set on some pairs
and tried on others, and the two of a pair are never parted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.records.intervals import Fraction, Mean, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5
Z = 1.959963984540054
LEAST_PAIRS = 2 * FOLDS
"""Fewer pairs than this leave a fold with one pair or none."""


def placements(clean: Floats, adversarial: Floats) -> tuple[Floats, Floats]:
    """Of each adversarial score the share of clean ones below it; of each clean one the share of adversarial above.

    Ties count a half. The mean of either is the area under the curve.
    """
    below, above = np.sort(clean), np.sort(adversarial)
    one = (np.searchsorted(below, adversarial, "left") + np.searchsorted(below, adversarial, "right")) / 2
    other = (np.searchsorted(above, clean, "left") + np.searchsorted(above, clean, "right")) / 2
    return one / len(clean), 1 - other / len(adversarial)


def auc(clean: Floats, adversarial: Floats) -> Mean:
    """P(adversarial > clean) + ½ P(equal), with a 95 % interval that knows of the pairs.

    DeLong's structural components (DeLong et al. 1988), whose sum over a pair is one observation (Obuchowski 1997,
    clusters of two); the interval is taken on the logit scale. Where all or none are in order it is Wilson's of the
    pairs, since there the components do not vary.

    Args:
        clean: ``[m]``.
        adversarial: ``[m]``, of the same samples in the same order.
    """
    m = len(clean)
    if m == 0:
        return Mean(math.nan, math.nan, math.nan, 0)
    one, other = placements(clean, adversarial)
    area = float(one.mean())
    if area in (0.0, 1.0) or m < 3:
        share = wilson(round(area * m), m)
        return Mean(area, share.low, share.high, m)
    error = math.sqrt(float(np.var(one + other, ddof=1)) / m)
    centre, half = math.log(area / (1 - area)), Z * error / (area * (1 - area))
    return Mean(area, _expit(centre - half), _expit(centre + half), m)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


class Stump(NamedTuple):
    """A threshold and on which side of it inputs are called adversarial: +1 above it, −1 at it or below."""

    threshold: float
    side: int

    def adversarial(self, scores: Floats) -> NDArray[np.bool_]:
        """Which scores are called adversarial, ``[n]``."""
        above = scores > self.threshold
        return above if self.side > 0 else ~above


def stump(clean: Floats, adversarial: Floats) -> Stump:
    """The threshold, one of the scores, and the side that are right most often; of several the lowest.

    Args:
        clean: ``[m]``.
        adversarial: ``[m]``.
    """
    scores = np.concatenate([clean, adversarial])
    signs = np.concatenate([-np.ones(len(clean)), np.ones(len(adversarial))])
    order = np.argsort(scores, kind="stable")
    scores, signs = scores[order], signs[order]
    # Called adversarial above scores[i]: right are the adversarial above and the clean at it or below.
    gain = -np.cumsum(signs)
    last = np.append(scores[1:] > scores[:-1], True)  # a threshold between equal scores is none
    places = np.flatnonzero(last)
    best = places[np.argmax(np.abs(gain[places]))]
    return Stump(float(scores[best]), 1 if gain[best] >= 0 else -1)


def folds(n: int, seed: int) -> Ints:
    """The fold of each of ``n`` pairs, ``[n]``: sizes differ by one at most."""
    return np.random.default_rng(seed).permutation(np.arange(n, dtype=np.int64) % FOLDS)


class Pairs(NamedTuple):
    """Scores of some pairs ``[m]``, and the fold of each."""

    clean: Floats
    adversarial: Floats
    fold: Ints


def rights(set_on: Pairs, tried_on: Pairs) -> Floats:
    """How far a stump that is set on pairs of one attack is right on each pair of another, by folds, ``[m]``.

    For each fold the stump is set on the other folds' pairs of the first attack, and tried on this fold's pairs of the
    second. A sample keeps its fold in both, so that no stump is tried on a sample that it was set on.

    Args:
        set_on: pairs of the attack that the stump is set on.
        tried_on: of the attack that it is tried on; the same for its own accuracy.

    Returns:
        1 where both of a pair are called what they are, ½ where one is, else 0; NaN where no stump could be set.
    """
    right = np.full(len(tried_on.clean), np.nan)
    for fold in range(FOLDS):
        learn, test = set_on.fold != fold, tried_on.fold == fold
        if not learn.any():
            continue
        made = stump(set_on.clean[learn], set_on.adversarial[learn])
        clean, adversarial = made.adversarial(tried_on.clean[test]), made.adversarial(tried_on.adversarial[test])
        right[test] = (~clean + adversarial.astype(float)) / 2
    return right


def transferred(set_on: Pairs, tried_on: Pairs) -> Mean:
    """How often a stump that is set on pairs of one attack is right on those of another: the mean of `rights`.

    Args:
        set_on: pairs of the attack that the stump is set on.
        tried_on: of the attack that it is tried on; the same for its own accuracy.
    """
    found = rights(set_on, tried_on)
    return share(found[~np.isnan(found)])


def share(values: Floats) -> Mean:
    """The mean of values in [0, 1], one a pair, with Wilson's interval for as many independent ones as it amounts to.

    Args:
        values: ``[m]``: 0, ½ or 1. Two that always agree count as one, two that are independent as two, not as more.
    """
    m = len(values)
    if m == 0:
        return Mean(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    spread = float(np.var(values, ddof=1)) / m if m > 1 else 0.0
    # Pairs that are all half right vary not at all: worth the most that a pair can be. All right, or all wrong: one.
    worth = mean * (1 - mean) / spread if spread > 0 else m if mean in (0.0, 1.0) else 2 * m
    effective = min(max(worth, m), 2 * m)
    z2, n = Z**2, effective
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if mean == 0 else centre - half
    return Mean(mean, low, 1.0 if mean == 1 else centre + half, m)


def caught(clean: Floats, adversarial: Floats, rate: float, side: int) -> Fraction:
    """The share of adversarial scores beyond the threshold that at most ``rate`` of the clean ones are beyond.

    Args:
        clean: ``[m]``.
        adversarial: ``[m]``.
        rate: of false alarms, for example 0.01.
        side: +1: beyond is above; −1: beyond is below.
    """
    if not len(clean):
        return wilson(0, 0)
    ordered = np.sort(side * clean)[::-1]
    # The (allowed + 1)-th largest: no more than the allowed ones lie strictly beyond it.
    threshold = ordered[min(math.floor(rate * len(clean) + 1e-9), len(clean) - 1)]
    return wilson(int((side * adversarial > threshold).sum()), len(adversarial))
