"""The definition of a valley on paths whose answer is known, and the intervals against other sources."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from flatlens.records import valley
from flatlens.records.valley import align, band, judge, median, wilson

NO, YES = False, True


def one(measure: list[float], flipped: list[bool], **options: object) -> valley.Valley:
    return judge(np.array([measure]), np.array([flipped]), **options)  # type: ignore[arg-type]


def test_a_valley() -> None:
    v = one([2, 5, 20, 4, 1], [NO, NO, YES, YES, YES])
    assert v.is_valley[0] and v.stays_flipped[0] and v.interior_peak[0]
    assert (v.flip_step[0], v.peak_step[0], v.lag[0]) == (2, 2, 0)
    assert v.rise[0] == 10 and v.depth[0] == pytest.approx(np.log10(20))


@pytest.mark.parametrize(
    ("measure", "flipped", "why"),
    [
        ([2, 5, 20, 4, 1], [NO] * 5, "never flips"),
        ([2, 5, 20, 4, 1], [NO, YES, NO, YES, YES], "flips back"),
        ([2, 5, 20, 4, 3], [NO, NO, YES, YES, YES], "does not fall to a tenth"),
        ([20, 5, 4, 2, 1], [NO, NO, YES, YES, YES], "its peak is at the start"),
        ([1, 2, 3, 4, 20], [NO, NO, YES, YES, YES], "its peak is at the end"),
        ([2, 5, 20, 4, 1], [YES] * 5, "was wrong from the start"),
        ([2, 5, np.nan, 4, 1], [NO, NO, YES, YES, YES], "is not finite"),
        ([0, 0, 0, 0, 0], [NO, NO, YES, YES, YES], "is flat throughout"),
    ],
)
def test_no_valley(measure: list[float], flipped: list[bool], why: str) -> None:
    assert not one(measure, flipped).is_valley[0], why


def test_tau_is_inclusive_and_adjustable() -> None:
    path = [1.0, 10.0, 1.0]
    assert one(path, [NO, YES, YES]).is_valley[0]
    assert not one(path, [NO, YES, YES], tau=0.05).is_valley[0]
    with pytest.raises(ValueError, match="tau = 1.5"):
        one(path, [NO, YES, YES], tau=1.5)


def test_wrong_at_the_start_is_kept_apart() -> None:
    v = judge(np.array([[1, 9, 0.1]] * 3), np.array([[NO, YES, YES]] * 3), correct=np.array([YES, NO, YES]))
    s = v.summary()
    assert (s.n, s.correct.count, s.flipped.n, s.valley_of_flipped.count) == (3, 2, 2, 2)


def test_a_measure_that_ends_at_zero_is_infinitely_deep() -> None:
    assert np.isinf(one([1, 10, 0], [NO, YES, YES]).depth[0])
    assert np.isinf(judge(np.array([[1, 10, 0]] * 4), np.array([[NO, YES, YES]] * 4)).summary().depth.value)


def test_align_shifts_the_flip_to_zero() -> None:
    offsets, rows = align(np.array([[0.0, 1, 2, 3], [10, 11, 12, 13], [5, 5, 5, 5]]), np.array([1, 3, -1]))
    assert offsets.tolist() == [-3, -2, -1, 0, 1, 2]
    np.testing.assert_equal(rows, [[np.nan, np.nan, 0, 1, 2, 3], [10, 11, 12, 13, np.nan, np.nan]])
    assert band(rows, offsets).n.tolist() == [1, 1, 2, 2, 1, 1]


def test_align_of_nothing() -> None:
    offsets, rows = align(np.ones((2, 3)), np.array([-1, -1]))
    assert rows.shape == (0, 0) and len(offsets) == 0


def test_wilson_equals_scipy() -> None:
    for count, n in ((7, 10), (0, 20), (50, 50), (1, 1), (3, 1000)):
        theirs = binomtest(count, n).proportion_ci(0.95, method="wilson")
        mine = wilson(count, n)
        assert (mine.low, mine.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))
    assert np.isnan(wilson(0, 0).value)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share(pair: tuple[int, int]) -> None:
    f = wilson(*pair)
    assert 0 <= f.low <= f.value <= f.high <= 1


@pytest.mark.parametrize("n", [9, 10, 101])
def test_median_interval_equals_the_resampling_bootstrap(n: int) -> None:
    values = np.sort(np.random.default_rng(n).lognormal(size=n))
    rng = np.random.default_rng(1)
    drawn = np.median(rng.choice(values, (40_000, n)), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = median(values, draws=40_000)
    assert found.value == np.median(values)
    # Both are percentiles of 40,000 draws from the same discrete distribution: at most a neighbour apart.
    for mine, theirs in ((found.low, low), (found.high, high)):
        assert abs(np.searchsorted(values, mine) - np.searchsorted(values, theirs)) <= 1


def test_median_leaves_out_what_is_missing() -> None:
    assert median(np.array([1.0, np.nan, 3.0])).n == 2
    assert median(np.array([])).n == 0


def test_band_counts_what_it_averages() -> None:
    b = band(np.array([[1.0, np.nan], [3.0, np.nan], [np.inf, np.nan]]))
    assert b.n.tolist() == [2, 0] and b.median[0] == 2 and b.mean[0] == 2 and np.isnan(b.median[1])
