"""Numbers over ways of training: against SciPy and by brute force, with ways as what is counted."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from scipy import stats

from flatlens.claims import statistics
from flatlens.claims.statistics import Statistic, Table, over_nets
from tests.claims import plain_numpy

NAMES = ("a", "b", "c", "d")
STATISTICS = [
    statistics.partial_of_ways("a", "b", way="way"),
    statistics.partial_of_ways("a", "b", "c", way="way"),
    statistics.partial_of_ways("a", "b", "c", "d", way="way"),
    statistics.explained_by_ways("a", "b", way="way"),
    statistics.explained_by_ways("a", "b", "c", "d", way="way"),
]


def drawn(m: int, seeds: int, seed: int, levels: int = 0) -> list[Table]:
    """Tables of ``seeds`` seeds, each with ``m`` ways; ``levels``: values are rounded, so that many are equal."""
    rng = np.random.default_rng(seed)
    law = 0.5 + 0.5 * np.eye(4)
    own = rng.multivariate_normal(np.zeros(4), law, m)
    tables = []
    for _ in range(seeds):
        values = own + 0.3 * rng.standard_normal((m, 4))
        values = np.round(levels * values) / levels if levels else values
        tables.append({**dict(zip(NAMES, values.T, strict=True)), "way": np.arange(m)})
    return tables


def said(statistic: Statistic) -> str:
    return f"{statistic.kind} of {len(statistic.columns) - 1}"


@pytest.mark.parametrize("statistic", STATISTICS, ids=said)
@pytest.mark.parametrize(("m", "seeds", "levels"), [(12, 1, 0), (30, 5, 0), (30, 1, 2)])
def test_residuals_and_the_inverse_of_the_correlations_say_the_same(
    statistic: Statistic, m: int, seeds: int, levels: int
) -> None:
    tables = drawn(m, seeds, m + seeds, levels)
    found, each = over_nets(statistic, tables)
    rows = statistics.joined(tables)
    values = [np.asarray(rows[name], float) for name in statistic.columns]
    assert found.value == pytest.approx(plain_numpy.KINDS[statistic.kind](*values), abs=1e-9)
    assert found.low <= found.value <= found.high and found.n == m and len(each) == seeds


def test_without_anything_given_it_is_spearmans() -> None:
    (table,) = drawn(25, 1, 3)
    rho = stats.spearmanr(table["a"], table["b"]).statistic
    assert statistics.partial_of_ways("a", "b", way="way").of(table).value == pytest.approx(rho, abs=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS, ids=said)
def test_the_same_networks_again_are_no_further_evidence(statistic: Statistic) -> None:
    (table,) = drawn(26, 1, 4)
    once, many = statistic.of(table), over_nets(statistic, [table] * 5)[0]
    assert many == pytest.approx(once, abs=1e-9)


def test_networks_without_the_flag_count_for_nothing() -> None:
    tables = drawn(26, 5, 7)
    flagged = [{**table, "flag": table["way"] < 20} for table in tables]
    kept = [{name: values[table["way"] < 20] for name, values in table.items()} for table in tables]
    found, _ = over_nets(statistics.partial_of_ways("a", "b", "c", way="way", among="flag"), flagged)
    assert found == over_nets(statistics.partial_of_ways("a", "b", "c", way="way"), kept)[0] and found.n == 20


@pytest.mark.parametrize("statistic", STATISTICS, ids=said)
def test_too_few_ways_have_no_interval(statistic: Statistic) -> None:
    (table,) = drawn(3, 1, 5)
    assert np.isnan(statistic.of(table).low)


def test_what_is_given_wholly_leaves_nothing() -> None:
    (table,) = drawn(20, 1, 6)
    found = statistics.partial_of_ways("a", "b", "c", way="way").of({**table, "c": 2 * table["b"]})
    assert np.isnan(found.value)


CASES = list(itertools.product((14, 26), (0.0, 0.4, 0.8, -0.3), (0.1, 1.0)))
"""Ways, how their columns go together, and how much seeds add."""


@pytest.mark.parametrize(("m", "together", "noise"), CASES)
def test_intervals_cover(m: int, together: float, noise: float) -> None:
    assert min(coverage(m, together, noise)) >= 0.90


def test_coverage_is_right_on_average() -> None:
    found = np.array([coverage(*one) for one in CASES])
    assert 0.93 <= found[:, 0].mean() <= 0.97 and 0.93 <= found[:, 1].mean() <= 0.97
    assert found[:, 2].mean() >= 0.93  # of what is explained it is wide


@cache
def coverage(m: int, together: float, noise: float) -> tuple[float, ...]:
    """How often three intervals hold what is true of all ways that could be; seeds of a way differ by noise."""
    rng = np.random.default_rng([m, int(100 + 10 * together), int(10 * noise)])
    law = (1 - together) * np.eye(4) + together
    over = law + noise * np.eye(4) / 5
    # Of normal columns Spearman's correlation is 6/π · asin(r/2).
    truth = 6 / np.pi * np.arcsin(over / over[0, 0] / 2)
    inverse = np.linalg.inv(truth)
    true = (truth[0, 1], -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]), max(1 - 1 / inverse[0, 0], 0.0))
    tried = (STATISTICS[0], STATISTICS[2], STATISTICS[4])
    root, hits, draws = np.linalg.cholesky(law), np.zeros(3), 300
    for _ in range(draws):
        own = rng.standard_normal((m, 4)) @ root.T
        rows = np.repeat(own, 5, axis=0) + np.sqrt(noise) * rng.standard_normal((5 * m, 4))
        table = {**dict(zip(NAMES, rows.T, strict=True)), "way": np.repeat(np.arange(m), 5)}
        found = [statistic.of(table) for statistic in tried]
        hits += [one.low - 1e-12 <= value <= one.high for one, value in zip(found, true, strict=True)]
    return tuple(hits / draws)
