"""What is said of trajectories beside "a valley": kinds of paths whose answer is known, and intervals that exist."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import percentileofscore

from flatlens.records import valley
from flatlens.records.digest import attacked_at, digest
from flatlens.records.intervals import LEAST
from flatlens.records.valley import TAUS, judge, median
from flatlens.report import page
from tests.synthetic import make_trace

NO, YES = False, True
INF, NAN = np.inf, np.nan
TINY = 5e-324


def one(measure, flipped=(NO, YES, YES, YES), **options):
    return judge(np.array([measure], float), np.array([flipped]), **options)


# ---- ends, starts and heights that are 0, below 0, or at the edge of float64


@pytest.mark.parametrize(
    ("measure", "depth", "rise", "end_vs_clean", "flatter"),
    [
        ([2, 20, 4, 1], np.log10(20), 10, 0.5, True),
        ([2, 20, 4, 4], np.log10(5), 10, 2, False),
        ([2, 20, 4, 0], INF, 10, 0, True),
        ([2, 20, 4, -3], INF, 10, -1.5, True),
        ([2, 20, 4, TINY], np.log10(20) - np.log10(TINY), 10, 0, True),
        ([0, 20, 4, 1], np.log10(20), INF, INF, False),
        ([-0.0, 20, 4, 1], np.log10(20), INF, INF, False),
        ([TINY, 20, 4, 1], np.log10(20), INF, INF, False),
        ([TINY, 1e308, 4, TINY], 308 - np.log10(TINY), INF, 1, False),
        ([0, 20, 4, 0], INF, INF, NAN, False),
        ([-1, 20, 4, 1], np.log10(20), NAN, NAN, False),
        ([-1, 20, 4, -2], INF, NAN, NAN, True),
        ([0, 0, 0, 0], NAN, NAN, NAN, False),
        ([-1, -2, -3, -4], NAN, NAN, NAN, True),
        ([2, NAN, 4, 1], NAN, NAN, NAN, False),
        ([2, INF, 4, 1], NAN, NAN, NAN, False),
        ([1e-300, 1e300, 4, 1e-300], 600, INF, 1, False),
    ],
)
def test_heights_of_all_kinds_without_a_warning(measure, depth, rise, end_vs_clean, flatter):
    with warnings.catch_warnings(), np.errstate(divide="warn", over="warn", invalid="warn"):
        warnings.simplefilter("error")
        found = one(measure)
        found.summary(), found.over_tau(), found.depths()
    np.testing.assert_allclose(found.depth, [depth], rtol=1e-12)
    np.testing.assert_allclose(found.rise, [rise], rtol=1e-12)
    np.testing.assert_allclose(found.end_vs_clean, [end_vs_clean], rtol=1e-12)
    assert found.flatter_than_clean[0] == flatter


def test_the_deepest_valleys_count_in_the_median():
    shallow, deepest = [2.0, 20, 4, 1], [2.0, 20, 4, -1]
    found = judge(np.array([shallow] * 2 + [deepest] * 5), np.array([[NO, YES, YES, YES]] * 7))
    assert found.summary().depth.n == 7 and found.summary().depth.value == INF
    assert found.is_valley.all()


# ---- settled, flat at the end


@pytest.mark.parametrize(
    ("flipped", "settled", "step"),
    [
        ([NO, YES, YES, YES], True, 1),
        ([NO, YES, NO, YES], True, 3),
        ([NO, NO, NO, YES], True, 3),
        ([NO, YES, YES, NO], False, -1),
        ([NO, NO, NO, NO], False, -1),
        ([YES, YES, YES, YES], False, -1),
        ([NO, YES, NO, NO], False, -1),
    ],
)
@pytest.mark.parametrize("beyond", [[], [NO, NO], [YES, NO, YES]])
def test_settled_is_flipped_at_the_end_from_its_last_flip_on(flipped, settled, step, beyond):
    # What stands beyond the end of a path is no part of it.
    whole = flipped + beyond
    found = judge(np.ones((1, len(whole))), np.array([whole]), last=np.array([3]))
    assert (found.settled[0], found.settled_step[0]) == (settled, step)


@pytest.mark.parametrize(
    ("measure", "tau", "flat"),
    [
        ([2, 20, 4, 2], 0.1, True),
        ([2, 20, 4, 2.1], 0.1, False),
        ([2, 20, 4, 2.1], 0.2, True),
        ([20, 2, 1, 1], 0.1, True),
        ([2, 20, 4, -1], 0.1, True),
        ([0, 0, 0, 0], 0.1, False),
        ([2, NAN, 4, 0], 0.1, False),
    ],
)
def test_flat_end_is_of_the_heights_alone(measure, tau, flat):
    for flipped in ([NO, YES, YES, YES], [NO, YES, NO, NO], [NO] * 4):
        assert one(measure, flipped, tau=tau).flat_end[0] == flat


def test_shares_are_of_the_flipped():
    measure = np.array([[2.0, 20, 4, 1], [2, 20, 4, 19], [2, 20, 4, 1], [2, 20, 4, 1]])
    flipped = np.array([[NO, YES, YES, YES], [NO, YES, NO, YES], [NO, YES, YES, NO], [NO] * 4])
    found = judge(measure, flipped).summary()
    assert [(f.count, f.n) for f in (found.settled, found.flat_end, found.flatter_than_clean)] == [
        (2, 3),
        (2, 3),
        (2, 3),
    ]
    assert 0 < found.settled.low < found.settled.value < found.settled.high < 1


# ---- the law of the clean inputs, τ, depth


def test_the_percentile_is_scipys_and_of_samples_that_start_right():
    rng = np.random.default_rng(0)
    measure = rng.lognormal(size=(60, 5)).round(1)
    correct = rng.random(60) < 0.8
    flipped = np.zeros((60, 5), bool)
    flipped[:, 2:] = True
    found = judge(measure, flipped, correct=correct)
    law = measure[correct, 0]
    expected = [percentileofscore(law, end, kind="mean") / 100 for end in measure[:, -1]]
    np.testing.assert_allclose(found.clean_percentile, expected)


def test_the_curve_over_tau_is_the_share_at_each_tau():
    trace = make_trace(80, 15, controls=())
    curve = trace.valley().over_tau()
    for tau, count, value in zip(TAUS, curve.count, curve.value, strict=True):
        found = trace.valley(tau=tau).summary().valley_of_flipped
        assert (found.count, found.n, found.value) == (count, curve.n, value)
    assert (np.diff(curve.value) >= 0).all() and (curve.low <= curve.value).all()


def test_the_distribution_of_depth_is_empirical_and_leaves_room_for_the_infinite():
    depths = np.array([1.0, 2, 2, 3, 400])
    measure = np.array([[1.0, 10**d if d < 300 else 10.0, 1.0 if d < 300 else 0.0] for d in depths])
    found = judge(measure, np.array([[NO, YES, YES]] * 5)).depths()
    np.testing.assert_allclose(found.position, [1, 2, 3])
    np.testing.assert_allclose(found.value, [0.2, 0.6, 0.8])
    many = judge(np.c_[np.ones(999), 10 ** np.linspace(1, 5, 999), np.ones(999)], np.array([[NO, YES, YES]] * 999))
    few = many.depths(50)
    assert len(few.position) == 50 and few.value[-1] == 1 and few.n == 999
    np.testing.assert_allclose(few.value, (few.position - 1) / 4, atol=0.01)


# ---- intervals


@pytest.mark.parametrize("n", range(1, 12))
def test_a_median_has_an_interval_only_where_one_of_95_percent_exists(n):
    found = median(np.arange(n, dtype=float))
    exists = 1 - 2 * 0.5**n >= 0.95
    assert (n >= LEAST) == exists == np.isfinite(found.low) == np.isfinite(found.high)
    assert found.value == np.median(np.arange(n)) and found.n == n


def test_a_summary_reads_well_without_intervals():
    trace = make_trace(3, 6, controls=())
    assert "[" not in str(trace.valley().summary().depth)
    assert page.document([trace]) and digest(trace)["rows"][0]["depth"]["low"] is None


# ---- where the accuracy under attack is taken


@pytest.mark.parametrize(
    ("kinds", "restarts", "said"),
    [
        (["iterate"], 1, "last iterate"),
        (["iterate"], 3, "last iterate, worst of 3 restarts"),
        (["iterate", "best"], 1, "best point"),
        (["iterate", "best"], 2, "best point, worst of 2 restarts"),
        (["iterate", "returned"], 1, "returned point"),
    ],
)
def test_accuracy_under_attack_says_where(kinds, restarts, said):
    import pyarrow as pa

    trace = make_trace(4, 3, controls=())
    rows = trace.steps.num_rows
    put = {"kind": [kinds[i % len(kinds)] for i in range(rows)], "restart": [i % restarts for i in range(rows)]}
    steps = trace.steps
    for name, values in put.items():
        at = steps.schema.get_field_index(name)
        steps = steps.set_column(at, steps.schema.field(name), pa.array(values, steps.schema.field(name).type))
    from dataclasses import replace

    assert attacked_at(replace(trace, steps=steps)) == said


def test_valley_is_exported_with_its_parts():
    assert {"Fraction", "Median", "Shares", "wilson", "median", "shares"} <= set(dir(valley))
