"""Kinds of numbers once more, by brute force and NumPy alone, to check what a claim's page says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Floats = np.ndarray


def area(clean: Floats, adversarial: Floats) -> float:
    """All pairs of a clean and an adversarial score, one by one."""
    above, level = adversarial[:, None] > clean[None, :], adversarial[:, None] == clean[None, :]
    return float(np.mean(above + 0.5 * level))


def stump(clean: Floats, adversarial: Floats) -> tuple[float, bool]:
    """Every threshold and both sides; of equally good ones the first."""
    best, found = -1.0, (np.nan, True)
    for threshold in np.unique(np.concatenate([clean, adversarial])):
        for above in (True, False):
            right = np.sum((adversarial > threshold) == above) + np.sum((clean > threshold) != above)
            if right > best:
                best, found = right, (threshold, above)
    return found


def rights(clean: Floats, adversarial: Floats, other_clean: Floats, other: Floats, fold: Floats) -> Floats:
    """Of each sample how far the stump of the other folds is right, in the second pair of columns."""
    made = {f: stump(clean[fold != f], adversarial[fold != f]) for f in np.unique(fold)}
    found = []
    for one, two, f in zip(other_clean, other, fold, strict=True):
        threshold, above = made[f]
        found.append(np.mean([(one > threshold) != above, (two > threshold) == above]))
    return np.array(found)


def accuracy(clean: Floats, adversarial: Floats, fold: Floats) -> float:
    """A score against one attack."""
    return float(np.mean(rights(clean, adversarial, clean, adversarial, fold)))


def transfer(*columns: Floats) -> float:
    """A stump of one attack against another one."""
    return float(np.mean(rights(*columns)))


def advantage(clean: Floats, adversarial: Floats, plain_clean: Floats, plain: Floats, fold: Floats) -> float:
    """One score's accuracy less another's."""
    return accuracy(clean, adversarial, fold) - accuracy(plain_clean, plain, fold)


def caught(percent: int) -> Callable[[Floats, Floats], float]:
    """The share beyond the tightest threshold that keeps the false alarms at a rate."""

    def of(clean: Floats, adversarial: Floats) -> float:
        side = 1 if area(clean, adversarial) >= 0.5 else -1
        able = [t for t in side * clean if np.sum(side * clean > t) * 100 <= percent * len(clean)]
        return float(np.mean(side * adversarial > min(able)))

    return of


def correlations(*columns: Floats) -> Floats:
    """The inverse of the correlations of ranks over ways, each way the mean of its rows."""
    *values, way = columns
    means = np.array([[np.mean(one[way == w]) for w in sorted(set(way))] for one in values])
    ranked = [[np.sum(row < v) + (np.sum(row == v) + 1) / 2 for v in row] for row in means]
    return np.linalg.inv(np.corrcoef(ranked))


def over_ways(*columns: Floats) -> float:
    """A partial rank correlation."""
    p = correlations(*columns)
    return float(-p[0, 1] / np.sqrt(p[0, 0] * p[1, 1]))


def explained(*columns: Floats) -> float:
    """Adjusted R² of ranks."""
    m, k = len(set(columns[-1])), len(columns) - 2
    return float(1 - (m - 1) / (m - k - 1) / correlations(*columns)[0, 0])


KINDS: dict[str, Callable[..., float]] = {
    "area under the curve": area,
    "accuracy": accuracy,
    "transfer accuracy": transfer,
    "difference of accuracies": advantage,
    "correlation over ways": over_ways,
    "explained over ways": explained,
    "caught at 1 % false alarms": caught(1),
    "caught at 5 % false alarms": caught(5),
}
