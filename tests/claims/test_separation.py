"""Scores against attacks: areas, stumps and rates against scikit-learn and brute force, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flatlens.claims import statistics
from flatlens.claims.statistics import Statistic, Table, over_nets
from tests.claims import plain_numpy

PAIR = ("clean", "adversarial")
STATISTICS = [
    statistics.auc(*PAIR),
    statistics.accuracy(*PAIR, "fold"),
    statistics.transfer(*PAIR, "other", "fold"),
    statistics.advantage(PAIR, ("plain", "other"), "fold"),
    statistics.caught(*PAIR, 0.01),
    statistics.caught(*PAIR, 0.05),
]


def table(n: int, seed: int, *, levels: int = 0, apart: float = 1.0) -> Table:
    """Scores of pairs that share what is the sample's own; ``levels``: they are rounded, so that many are equal."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal(n)
    made = {
        "clean": own + rng.standard_normal(n),
        "adversarial": own + apart + rng.standard_normal(n),
        "other": own - apart / 2 + rng.standard_normal(n),
        "plain": rng.standard_normal(n),
    }
    if levels:
        made = {name: np.round(levels * values) / levels for name, values in made.items()}
    return {**made, "fold": rng.permutation(np.arange(n) % 5)}


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda v: v.kind)
@pytest.mark.parametrize(("n", "levels"), [(10, 0), (61, 0), (200, 0), (200, 2)])
def test_every_pair_and_every_threshold_tried_one_by_one_says_the_same(
    statistic: Statistic, n: int, levels: int
) -> None:
    made = table(n, n + levels, levels=levels)
    found = statistic.of(made)
    values = [np.asarray(made[name], float) for name in statistic.columns]
    assert found.value == pytest.approx(plain_numpy.KINDS[statistic.kind](*values), abs=1e-12)
    assert found.low <= found.value <= found.high and found.n == n


def test_the_area_is_that_of_mann_and_whitney() -> None:
    made = table(90, 1, levels=3)
    u = stats.mannwhitneyu(made["adversarial"], made["clean"]).statistic
    assert statistics.auc(*PAIR).of(made).value == pytest.approx(u / 90**2, abs=1e-12)


def test_a_sample_that_one_attack_does_not_turn_counts_for_neither() -> None:
    made = table(60, 2)
    lost = {**made, "other": np.where(np.arange(60) % 3 == 0, np.nan, made["other"])}
    kept = {name: values[np.arange(60) % 3 != 0] for name, values in made.items()}
    transfer = statistics.transfer(*PAIR, "other", "fold")
    assert transfer.of(lost) == transfer.of(kept)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda v: v.kind)
def test_too_few_pairs_have_no_number(statistic: Statistic) -> None:
    assert np.isnan(statistic.of(table(9, 0)).value)


def test_a_threshold_that_was_set_on_sharp_inputs_finds_no_flat_ones() -> None:
    made = table(200, 3, apart=4.0)
    assert statistics.accuracy(*PAIR, "fold").of(made).low > 0.85
    assert statistics.accuracy("clean", "other", "fold").of(made).low > 0.6
    assert statistics.transfer(*PAIR, "other", "fold").of(made).high < 0.6


@pytest.mark.parametrize("spread", [0.1, 0.4])
@pytest.mark.parametrize("apart", [0.5, 2.0])
def test_the_interval_of_an_area_over_networks_covers(spread: float, apart: float) -> None:
    """Networks differ in how far the scores are apart; the truth is the mean of their areas."""
    rng = np.random.default_rng([int(10 * spread), int(10 * apart)])
    # Two scores of one sample differ by N(apart, 2); over unequal samples by N(apart, 4): the area of one network.
    truth = float(np.mean(stats.norm.cdf((apart + spread * rng.standard_normal(400_000)) / 2)))
    hits = 0
    for _ in range(400):
        tables = []
        for own in apart + spread * rng.standard_normal(5):
            sample = rng.standard_normal(60)
            tables.append({
                "clean": sample + rng.standard_normal(60), "adversarial": sample + own + rng.standard_normal(60)
            })  # fmt: skip
        found, _ = over_nets(statistics.auc(*PAIR), tables)
        hits += found.low <= truth <= found.high
    assert hits / 400 >= 0.90
