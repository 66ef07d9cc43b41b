"""Numbers over samples and networks: against SciPy, and intervals that cover what they should."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy import stats

from flatlens.claims import statistics
from flatlens.claims.statistics import T_QUANTILE, Statistic, over_nets

DRAWS = 1000


def drawn(n: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(n)
    b = 0.6 * a + rng.standard_normal(n)
    return {"a": a, "b": b, "c": a + b + rng.standard_normal(n), "flag": a + rng.standard_normal(n) > 0}


def _partial(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    # Correlation of the ranks' residuals on the third's ranks.
    ranks = [stats.rankdata(v) for v in (a, b, c)]
    design = np.column_stack([np.ones(len(a)), ranks[2]])
    residuals = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    return float(stats.pearsonr(*residuals)[0])


@pytest.mark.parametrize(
    ("statistic", "oracle"),
    [
        (statistics.share("flag"), lambda t: t["flag"].mean()),
        (statistics.mean("a"), lambda t: t["a"].mean()),
        (statistics.median("a"), lambda t: np.median(t["a"])),
        (statistics.ratio_of_medians("c", "b"), lambda t: np.median(t["c"]) / np.median(t["b"])),
        (statistics.correlation("a", "b"), lambda t: stats.spearmanr(t["a"], t["b"]).statistic),
        (statistics.partial("a", "b", "c"), lambda t: _partial(t["a"], t["b"], t["c"])),
        (statistics.mean("a", "flag"), lambda t: t["a"][t["flag"]].mean()),
        (statistics.exceptions("flag"), lambda t: (~t["flag"]).sum()),
    ],
    ids=lambda v: v.kind if isinstance(v, Statistic) else "",
)
def test_scipy_agrees(statistic: Statistic, oracle: Callable[[dict[str, np.ndarray]], float]) -> None:
    table = drawn()
    found = statistic.of(table)
    assert found.value == pytest.approx(float(oracle(table)), rel=1e-12)
    assert found.low <= found.value <= found.high


def test_missing_values_are_left_out_of_all_columns() -> None:
    table = drawn()
    table["a"] = np.where(np.arange(60) < 10, np.nan, table["a"])
    kept = {name: values[10:] for name, values in table.items()}
    assert statistics.correlation("a", "b").of(table) == statistics.correlation("a", "b").of(kept)


def test_quantiles_of_student() -> None:
    np.testing.assert_allclose(T_QUANTILE[1:], stats.t.ppf(0.975, np.arange(1, len(T_QUANTILE))), rtol=1e-12)


def test_networks_with_one_value_are_pooled() -> None:
    tables = [{"flag": np.ones(40, bool)} for _ in range(5)]
    found, each = over_nets(statistics.share("flag"), tables)
    pooled = stats.binomtest(200, 200).proportion_ci(method="wilson")
    assert each == [1.0] * 5 and (found.low, found.high) == pytest.approx((pooled.low, pooled.high))
    assert found.n == 200


KINDS, NETS, SPREADS, CENTRES = ("share", "mean"), (5, 10), (0.02, 0.1), (0.2, 0.5, 0.9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nets", NETS)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("centre", CENTRES)
def test_intervals_over_networks_cover(kind: str, nets: int, spread: float, centre: float) -> None:
    """Networks differ by ``spread``, their samples by more; the truth is the mean over all networks that could be."""
    assert coverage(kind, nets, spread, centre) >= 0.90


def test_coverage_is_right_on_average() -> None:
    found = [coverage(*one) for one in itertools.product(KINDS, NETS, SPREADS, CENTRES)]
    assert 0.93 <= np.mean(found) <= 0.97


LAWS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy": lambda rng, n: rng.laplace(0, 2**-0.5, n),
    "skewed": lambda rng, n: rng.gamma(4, 0.5, n) - 2,
}
"""Of the logarithms of networks' ratios: all of mean 0 and standard deviation 1."""


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("nets", NETS)
@pytest.mark.parametrize("spread", [0.1, 0.5, 1.5])
def test_intervals_of_ratios_cover(law: str, nets: int, spread: float) -> None:
    """Five networks' ratios of medians about a geometric mean of 1.3; the interval has no other end for 1 over them."""
    rng = np.random.default_rng([nets, int(10 * spread)])
    hits = 0
    for _ in range(DRAWS):
        own = 1.3 * np.exp(spread * LAWS[law](rng, nets))
        seen = np.median(own[:, None] * np.exp(0.3 * rng.standard_normal((nets, 100))), axis=1)
        found, turned = statistics.ratio(seen, 100 * nets), statistics.ratio(1 / seen, 100 * nets)
        hits += found.low <= 1.3 <= found.high
        assert (turned.low, turned.high) == pytest.approx((1 / found.high, 1 / found.low), rel=1e-9)
    assert hits / DRAWS >= 0.90


def test_ratios_are_on_the_scale_of_the_logarithm() -> None:
    tables = [{"a": np.full(9, 2.0 ** (net - 1)), "b": np.ones(9)} for net in range(5)]
    found, each = over_nets(statistics.ratio_of_medians("a", "b"), tables)
    logs = np.log([0.5, 1, 2, 4, 8])
    assert each == [0.5, 1, 2, 4, 8] and found.value == pytest.approx(2)
    expected = stats.t.interval(0.95, 4, loc=logs.mean(), scale=stats.sem(logs))
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(expected)))
    # One that divides by 0 is infinite, and leaves no interval; one that is 0 has no logarithm.
    found, _ = over_nets(statistics.ratio_of_medians("a", "b"), [*tables, {"a": np.ones(9), "b": np.zeros(9)}])
    assert found.value == np.inf and np.isnan(found.low)
    found, _ = over_nets(statistics.ratio_of_medians("b", "a"), [*tables, {"a": np.ones(9), "b": np.zeros(9)}])
    assert found.value == pytest.approx(np.mean([2, 1, 0.5, 0.25, 0.125, 0]))


@cache
def coverage(kind: str, nets: int, spread: float, centre: float) -> float:
    """How often the interval holds the truth, of networks and samples that are drawn."""
    rng = np.random.default_rng([KINDS.index(kind), nets, int(100 * spread), int(100 * centre)])
    # A beta law of the networks' own shares: its mean is the truth exactly.
    size = centre * (1 - centre) / spread**2 - 1
    hits = 0
    for _ in range(DRAWS):
        own = rng.beta(centre * size, (1 - centre) * size, nets)
        if kind == "share":
            tables = [{"v": rng.random(100) < p} for p in own]
            found, _ = over_nets(statistics.share("v"), tables)
        else:
            tables = [{"v": p + 0.5 * rng.standard_normal(100)} for p in own]
            # The networks' own intervals, a bootstrap each, are not looked at.
            found = statistics.student(np.array([table["v"].mean() for table in tables]), 100 * nets)
        hits += found.low <= centre <= found.high
    return hits / DRAWS
