"""The ceiling of the RIR: attained by its own θ, exceeded by none, and invariant as the mathematics has it."""

from __future__ import annotations

import numpy as np
import pytest

from flatlens.errors import DataError
from flatlens.immunity.ceiling import ceiling, kappa, ratios, root


def task(seed, n=80, d=6, spread=2.0):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * np.logspace(0, -spread, d) @ q


PAIRS = [(0, 1, 0.0), (2, 3, 0.0), (4, 5, 1e-2), (6, 7, 1e-4), (8, 9, 1.0)]


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_a_root_is_that_of_the_hessian_with_its_ridge(ridge):
    x = task(0)
    k = x.T @ x / len(x)
    k += ridge * np.trace(k) / 6 * np.eye(6)
    r = root(x, ridge)
    np.testing.assert_allclose(r.T @ r, k, rtol=1e-10, atol=1e-14)
    assert kappa(r) == pytest.approx(np.linalg.cond(k), rel=1e-8)
    theta = np.random.default_rng(1).normal(size=(6, 6))
    assert kappa(r, theta) == pytest.approx(np.linalg.cond(theta.T @ k @ theta), rel=1e-6)


@pytest.mark.parametrize(("a", "b", "ridge"), PAIRS)
def test_it_is_attained_and_balanced(a, b, ridge):
    primary, harmful = root(task(a), ridge), root(task(b, spread=1.0), ridge)
    found = ceiling(primary, harmful)
    reached = ratios(primary, harmful, found.theta)
    assert reached.rir == pytest.approx(found.bound, rel=1e-6)
    assert reached.i == pytest.approx(1 / reached.ii, rel=1e-6)
    assert reached.i > 1 > reached.ii


@pytest.mark.parametrize("balance", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("a", "b", "ridge"), PAIRS)
def test_the_balance_decides_who_gains_and_the_ratio_stays(a, b, ridge, balance):
    primary, harmful = root(task(a), ridge), root(task(b, spread=1.0), ridge)
    found = ceiling(primary, harmful, balance)
    reached = ratios(primary, harmful, found.theta)
    assert reached.rir == pytest.approx(found.bound, rel=1e-6)
    assert np.log(reached.i) >= balance * np.log(found.bound) - 1e-6
    if kappa(primary, found.theta) > 1 + 1e-6:  # else the useful task is as well conditioned as can be
        assert np.log(reached.i) == pytest.approx(balance * np.log(found.bound), abs=1e-6)
    assert balance != 1 or reached.ii == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("a", "b", "ridge"), PAIRS)
def test_it_is_kappa_of_the_whitened_hessian_and_no_theta_exceeds_it(a, b, ridge):
    rng = np.random.default_rng(a)
    primary, harmful = root(task(a), ridge), root(task(b, spread=1.0), ridge)
    found = ceiling(primary, harmful)
    values, vectors = np.linalg.eigh(primary.T @ primary)
    white = (vectors * values**-0.5) @ vectors.T
    c = white @ harmful.T @ harmful @ white
    assert found.bound == pytest.approx(np.linalg.cond(c) * kappa(primary) / kappa(harmful), rel=1e-6)
    best = 0.0
    for draw in range(300):
        theta = rng.normal(size=(6, 6)) if draw % 2 else found.theta @ (np.eye(6) + 0.1 * rng.normal(size=(6, 6)))
        best = max(best, ratios(primary, harmful, theta).rir)
    assert best <= found.bound * (1 + 1e-9)


def test_aligned_tasks_can_be_immunized_and_a_large_ratio_does_not_imply_a_slower_harmful_task():
    primary, harmful = np.diag([4.0, 1.0]), np.diag([2.0, 1.0]) ** 0.5
    reached = ratios(primary, harmful, np.diag([1 / 4, 1.0]))
    assert reached == pytest.approx((4.0, 0.0625, 64.0)) and ceiling(primary, harmful).bound == pytest.approx(64)
    scaled = ratios(np.diag([16.0, 1.0]), np.diag([4.0, 1.0]), np.diag([1 / 8, 1.0]))
    assert scaled.rir > 1 > scaled.i


@pytest.mark.parametrize("factor", [1e-4, 3.0])
def test_the_same_task_twice_and_units_leave_nothing_to_gain(factor):
    primary = root(task(0), 0.01)
    assert ceiling(primary, factor * primary).bound == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("which", ["primary", "harmful"])
def test_a_singular_hessian_is_one_line(which):
    whole, part = root(task(0), 0), root(task(1)[:4], 0)
    with pytest.raises(DataError, match=f"the {which} task is singular: .*ridge 0.01$"):
        ceiling(*((part, whole) if which == "primary" else (whole, part)))
