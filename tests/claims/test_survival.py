"""The product-limit estimate: on data of a textbook, in rational numbers, and with intervals that cover."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from flatlens.claims import statistics, survival
from flatlens.claims.statistics import Estimate, Statistic

# Freireich et al. 1963, weeks of remission: 6-MP (a + is a patient who was still in it), and placebo; the medians are
# printed in Kalbfleisch & Prentice and many others.
SIX_MP = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def read(text: str) -> tuple[np.ndarray, np.ndarray]:
    words = text.split()
    return np.array([float(w.rstrip("+")) for w in words]), np.array([not w.endswith("+") for w in words], dtype=float)


@pytest.mark.parametrize(("text", "expected"), [(SIX_MP, 23), (PLACEBO, 8), ("3+ 4+ 5+", np.inf), ("3+ 4 5+", 5)])
def test_medians_of_a_textbook(text: str, expected: float) -> None:
    length, event = read(text)
    if text == "3+ 4 5+":  # of the two at risk at 4 one has the event: just a half
        expected = 4
    assert survival.median(length, event).tolist() == [expected]
    back = np.arange(len(length))[::-1]
    assert survival.median(length[back], event[back]).tolist() == [expected]  # the order of the samples is nothing


def rational(length: np.ndarray, event: np.ndarray) -> float:
    """The definition, without any rounding."""
    left = Fraction(1)
    for at in sorted(set(length[event > 0])):
        left *= 1 - Fraction(int(((length == at) & (event > 0)).sum()), int((length >= at).sum()))
        if left <= Fraction(1, 2):
            return float(at)
    return float("inf")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [3, 1000])
def test_against_the_definition(seed: int, ties: int) -> None:
    """Of samples drawn with and without ties, and of resamples of them, which are samples with weights."""
    rng = np.random.default_rng([seed, ties])
    n = int(rng.integers(1, 40))
    length, event = rng.integers(1, ties, n).astype(float), (rng.random(n) < rng.random()).astype(float)
    assert survival.median(length, event).tolist() == [rational(length, event)]
    weights = survival.resampled(n, 5)
    expected = [rational(np.repeat(length, w.astype(int)), np.repeat(event, w.astype(int))) for w in weights]
    assert survival.median(length, event, weights).tolist() == expected
    assert (weights.sum(1) == n).all()


def test_what_is_not_reached_has_no_interval() -> None:
    table = {"a": np.arange(1.0, 21), "met": np.arange(20) < 9, "b": np.ones(20), "came": np.ones(20, bool)}
    found = statistics.length("a", "met").of(table)
    assert found.value == np.inf and np.isnan(found.low) and found.n == 20
    found = statistics.ratio_of_lengths(("a", "met"), ("b", "came")).of(table)
    assert found.value == np.inf and np.isnan(found.high)
    # At the edge some resamples do not reach it: there is a number, and no interval that ends.
    table["met"] = np.arange(20) < 11
    found = statistics.length("a", "met").of(table)
    assert found.value == 10 and np.isnan(found.low) and np.isnan(found.high)


def covers(statistic: Statistic, truth: float, seed: int) -> float:
    """How often the interval over samples holds the truth: exponential lengths, censored at exponential ones."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(REPEATS):
        mine, other = 1.5 * rng.exponential(size=N), rng.exponential(size=N)
        ends = 3 * rng.exponential(size=(2, N))
        table = {"a": np.minimum(mine, ends[0]), "a_met": mine <= ends[0]}
        table |= {"b": np.minimum(other, ends[1]), "b_met": other <= ends[1]}
        found: Estimate = statistic.of(table)
        hits += found.low <= truth <= found.high
    return hits / REPEATS


N, REPEATS = 60, 250


@pytest.mark.parametrize(
    ("statistic", "truth"),
    [
        (statistics.length("a", "a_met"), 1.5 * np.log(2)),
        (statistics.ratio_of_lengths(("a", "a_met"), ("b", "b_met")), 1.5),
    ],
    ids=lambda v: v.kind if isinstance(v, Statistic) else "",
)
def test_intervals_over_samples_cover(statistic: Statistic, truth: float) -> None:
    assert 0.91 <= covers(statistic, truth, 0) <= 0.985


def test_ratios_of_lengths_over_networks_are_on_the_logarithms_scale() -> None:
    tables = [
        {"a": np.full(9, 2.0 ** (net - 1)), "b": np.ones(9), "met": np.ones(9, bool)} for net in range(5)
    ]  # fmt: skip
    found, each = statistics.over_nets(statistics.ratio_of_lengths(("a", "met"), ("b", "met")), tables)
    assert each == [0.5, 1, 2, 4, 8] and found.value == pytest.approx(2)
