"""Areas, stumps, folds and rates: against brute force and scikit-learn, and whether intervals cover."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from flatlens.trials import separating
from flatlens.trials.separating import Pairs


def scores(kind: str, m: int = 60) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    made = {
        "apart": (rng.normal(0, 1, m), rng.normal(1.2, 1, m)),
        "below": (rng.normal(0, 1, m), rng.normal(-2, 1, m)),
        "ties": (rng.integers(0, 4, m).astype(float), rng.integers(1, 5, m).astype(float)),
        "decades": (10.0 ** rng.uniform(-300, 0, m), 10.0 ** rng.uniform(-200, 2, m)),
        "equal": (np.zeros(m), np.zeros(m)),
        "perfect": (np.zeros(m) - np.arange(m), 1.0 + np.arange(m)),
    }
    return made[kind]


KINDS = ("apart", "below", "ties", "decades", "equal", "perfect")


@pytest.mark.parametrize("kind", KINDS)
def test_the_area_is_scikit_learns_and_every_pairs(kind: str) -> None:
    clean, found = scores(kind)
    area = separating.auc(clean, found)
    oracle = roc_auc_score(np.repeat([0, 1], len(clean)), np.concatenate([clean, found]))
    brute = np.mean((found[:, None] > clean) + 0.5 * (found[:, None] == clean))
    assert area.value == pytest.approx(oracle, abs=1e-12) and area.value == pytest.approx(brute, abs=1e-12)
    assert 0 <= area.low <= area.value <= area.high <= 1 and area.n == len(clean)
    other = separating.auc(found, clean)
    assert (other.value, other.low, other.high) == pytest.approx((1 - area.value, 1 - area.high, 1 - area.low))
    if kind == "perfect":
        assert area.value == 1 and 0.9 < area.low < 0.95  # Wilson's of 60 of 60


@pytest.mark.parametrize(("area", "rho"), [(0.5, 0.0), (0.5, 0.6), (0.7, 0.3), (0.9, 0.0), (0.95, 0.5)])
@pytest.mark.parametrize("m", [60, 400])
def test_intervals_cover_the_true_area_also_where_pairs_are_alike(area: float, rho: float, m: int) -> None:
    rng, draws = np.random.default_rng(round(100 * area) + m), 600
    shift = math.sqrt(2) * float(_quantile(area))
    hit = 0
    for _ in range(draws):
        clean = rng.normal(size=m)
        found = shift + rho * clean + math.sqrt(1 - rho**2) * rng.normal(size=m)
        one = separating.auc(clean, found)
        hit += one.low <= area <= one.high
    assert 0.925 <= hit / draws <= 0.985, hit / draws  # 95 ± 3 standard errors of 600 draws


def _quantile(p: float) -> float:
    low, high = -9.0, 9.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if ndtr(middle) < p else (low, middle)
    return low


@pytest.mark.parametrize("kind", KINDS)
def test_a_stump_is_the_best_of_all_thresholds_and_sides(kind: str) -> None:
    clean, found = scores(kind, 25)
    made = separating.stump(clean, found)

    def right(threshold: float, side: int) -> int:
        above = [side * (s > threshold) - side * (s <= threshold) for s in clean]
        below = [side * (s > threshold) - side * (s <= threshold) for s in found]
        return sum(a < 0 for a in above) + sum(b > 0 for b in below)

    best = max(right(t, side) for t in (*clean, *found) for side in (1, -1))
    assert right(made.threshold, made.side) == best
    called = made.adversarial(np.concatenate([clean, found]))
    assert (~called[:25]).sum() + called[25:].sum() == best


@pytest.mark.parametrize("n", [10, 11, 443])
def test_folds_are_even_and_of_the_seed(n: int) -> None:
    found = separating.folds(n, 3)
    sizes = np.bincount(found, minlength=5)
    assert len(found) == n and sizes.max() - sizes.min() <= 1
    assert (found == separating.folds(n, 3)).all() and (found != separating.folds(n, 4)).any()


def test_a_stump_is_never_tried_on_a_sample_that_it_was_set_on() -> None:
    """Scores that tell the sample and nothing else: who learns them by heart gains nothing on other samples."""
    m = 100
    ids = np.random.default_rng(0).permutation(m).astype(float)
    fold = separating.folds(m, 0)
    # Each fold has a level of its own, on which adversarial is above; at other folds' levels it says nothing.
    clean, found = 10.0 * fold, 10.0 * fold + 1
    seen: list[set[float]] = []
    original = separating.stump

    def watched(a: Any, b: Any) -> Any:
        seen.append(set(np.concatenate([a, b])))
        return original(a, b)

    separating.stump = watched
    try:
        one = separating.transferred(Pairs(clean, found, fold), Pairs(clean, found, fold))
    finally:
        separating.stump = original
    assert one.n == m and len(ids) == m
    for number, values in enumerate(seen):
        assert not values & {10.0 * number, 10.0 * number + 1}
    assert one.value == 0.5  # both of a pair lie on one side of every threshold of other folds


def test_accuracies_by_hand() -> None:
    fold = np.arange(20) % 5
    clean, found = np.zeros(20), np.ones(20)
    pairs, turned = Pairs(clean, found, fold), Pairs(found, clean, fold)
    assert separating.transferred(pairs, pairs)[:1] == (1.0,) and separating.transferred(pairs, turned).value == 0.0
    half = Pairs(clean, np.where(np.arange(20) < 10, 1.0, 0.0), fold)
    assert separating.transferred(pairs, half).value == 0.75


@pytest.mark.parametrize("rho", [-1, 0, 1])
def test_a_share_of_pairs_counts_what_they_are_worth(rho: int) -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2, 400)
    other = {1: one, -1: 1 - one, 0: rng.integers(0, 2, 400)}[rho]
    found = separating.share((one + other) / 2)
    width = found.high - found.low
    # Two that always agree are worth one, independent ones two; opposite ones no more than two.
    expected = 2 * 1.96 * math.sqrt(0.25 / (400 if rho == 1 else 800))
    assert width == pytest.approx(expected, rel=0.08) and found.low < found.value < found.high
    assert separating.share(np.ones(30)).low == pytest.approx(30 / (30 + 1.959963984540054**2))


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_no_more_false_alarms_than_allowed_and_none_fewer_than_could_be(kind: str, side: int, rate: float) -> None:
    clean, found = scores(kind, 200)
    share = separating.caught(clean, found, rate, side)
    # The best of all thresholds that keep to the rate, tried one by one.
    best = max(
        (side * found > t).sum() for t in (*(side * clean), *(side * found), -np.inf, np.inf)
        if (side * clean > t).mean() <= rate
    )  # fmt: skip
    strict = max((side * found > t).sum() for t in side * clean if (side * clean > t).mean() <= rate)
    assert share.count == strict <= best and share.n == 200
