"""Intervals of paired shares and of means: what they cover, and their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flatlens.records.intervals import apart, mean, paired, wilson


def test_a_paired_difference_covers_what_it_should() -> None:
    rng, hits, truth = np.random.default_rng(0), 0, 0.1
    for _ in range(2000):
        kind = rng.choice(4, size=40, p=[0.5, 0.2, 0.1, 0.2])  # both, the first alone, the second alone, none
        found = paired((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        hits += found.low <= truth <= found.high
    assert 0.93 < hits / 2000 < 0.98


def test_a_paired_difference_at_the_edges() -> None:
    yes, no = np.ones(50, bool), np.zeros(50, bool)
    same = paired(yes, yes)
    assert same.value == 0 and -0.08 < same.low < 0 < same.high < 0.08
    assert paired(yes, no).value == 1 and paired(yes, no).low > 0.85 and paired(yes, no).high == 1
    assert paired(no, yes).low == -1 and math.isnan(paired(no[:0], no[:0]).value)
    some = np.arange(50) < 20
    one, other = paired(some, no), paired(no, some)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    # Newcombe 1998, Stat. Med. 17, 873, table II, method 10.
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((5, 56), (0, 29), -0.0381, 0.1926),
     ((10, 10), (0, 10), 0.6075, 1.0), ((10, 10), (0, 20), 0.6791, 1.0)],
)  # fmt: skip
def test_the_difference_of_independent_shares_is_newcombes(one, other, low, high) -> None:
    found = apart(wilson(*one), wilson(*other))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert math.isnan(apart(wilson(*one), wilson(0, 0)).value)


def test_the_bootstrap_of_a_mean() -> None:
    values = np.random.default_rng(1).exponential(size=4000)
    found = mean(values)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert (found.value, found.low, found.high) == pytest.approx(
        (values.mean(), values.mean() - half, values.mean() + half), abs=half / 8
    )
    assert mean(values) == found != mean(values, seed=1)
    assert math.isnan(mean(values[:5]).low) and mean(np.array([1.0, np.nan])).n == 1 and mean(values[:0]).n == 0
