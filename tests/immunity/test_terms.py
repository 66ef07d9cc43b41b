"""R_well and R_ill: gradients against autograd, steps that are safe in every one of 10,000 draws, counterexamples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flatlens.errors import DataError
from flatlens.immunity import terms


def positive(rng, d, spread=3.0):
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (q * np.exp(rng.uniform(-spread, spread, d))) @ q.T


def by_autograd(name, s):
    s = torch.tensor(s, requires_grad=True)
    values, squares = torch.linalg.eigvalsh(s), (s**2).sum() / len(s)
    value = values[-1] ** 2 / 2 - squares / 2 if name == "well" else 1 / (squares / 2 - values[0] ** 2 / 2)
    value.backward()
    return value.item(), s.grad.numpy()


@pytest.mark.parametrize("name", ["well", "ill"])
@pytest.mark.parametrize("d", [2, 3, 10, 40])
def test_value_and_gradient_are_those_of_autograd(name, d):
    rng = np.random.default_rng(d)
    for _ in range(75):
        s = positive(rng, d)
        found, (value, gradient) = getattr(terms, name)(s), by_autograd(name, s)
        assert found.value == pytest.approx(value, rel=1e-10)
        assert np.abs(found.gradient - gradient).max() <= 1e-10 * np.abs(gradient).max()


@pytest.mark.parametrize("name", ["well", "ill"])
def test_a_step_is_the_gradient_step_of_theta_preconditioned_by_the_inverse_of_k(name):
    rng = np.random.default_rng(0)
    k, theta = positive(rng, 4, 1), rng.normal(size=(4, 4))
    free = torch.tensor(theta, requires_grad=True)
    s = free.T @ torch.from_numpy(k) @ free
    values, squares = torch.linalg.eigvalsh(s), (s**2).sum() / 4
    (values[-1] ** 2 / 2 - squares / 2 if name == "well" else 1 / (squares / 2 - values[0] ** 2 / 2)).backward()
    expected = theta - 0.01 * np.linalg.solve(k, free.grad.numpy())
    found = terms.stepped(theta, getattr(terms, name)(theta.T @ k @ theta).gradient, 0.01)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def moved(name, values, eta):
    """The eigenvalues, in the order of the old ones, after a step of η at S = diag(values)."""
    theta = terms.stepped(np.eye(len(values)), getattr(terms, name)(np.diag(values)).gradient, eta)
    return np.diag(theta.T @ np.diag(values) @ theta)


@pytest.mark.parametrize("name", ["well", "ill"])
def test_no_step_within_the_corrected_bound_fails(name):
    rng = np.random.default_rng(1)
    for draw in range(10_000):
        d = int(rng.integers(2, 9))
        values = np.sort(np.exp(rng.uniform(0, np.log(5) if draw % 2 else 8, d)))[::-1] * 10 ** rng.uniform(-3, 3)
        safe = getattr(terms, f"safe_{name}")(values)
        slopes = terms.well_slopes(values, terms.ALIKE) if name == "well" else terms.ill(np.diag(values)).gradient
        slopes = slopes if slopes.ndim == 1 else np.diag(slopes)
        after = values * (1 - 2 * rng.uniform(0, 0.999) * safe * slopes) ** 2
        before = values[0] / values[-1]
        assert (after.max() / after.min() < before) if name == "well" else (after.max() / after.min() > before)


def test_the_printed_bound_of_r_well_admits_a_step_that_makes_the_matrix_singular():
    values = np.array([4.0, 1.0, 1.0])
    assert moved("well", values, 0.1875)[0] == pytest.approx(0, abs=1e-12)
    assert terms.safe_well(values) < 0.1875
    after = moved("well", values, 0.999 * terms.safe_well(values))
    assert after.max() / after.min() < 4


def test_the_bound_of_r_ill_has_the_units_of_a_step_and_is_sharp():
    values = np.array([5.0, 3.0, 2.0])
    safe = terms.safe_ill(values)
    assert terms.safe_ill(10 * values) == pytest.approx(1000 * safe)
    assert moved("ill", values, 0.99 * safe)[-1] < 2 < moved("ill", values, 1.01 * safe)[-1]


def test_a_repeated_largest_eigenvalue_is_lowered_as_a_whole_and_equal_ones_are_refused():
    after = moved("well", np.array([3.0, 3.0, 1.0]), 0.01)
    assert after[0] == pytest.approx(after[1]) and after[0] < 3 and after[2] > 1
    assert terms.well(2 * np.eye(3)).gradient == pytest.approx(np.zeros((3, 3)), abs=1e-12)
    with pytest.raises(DataError, match=r"all 3 eigenvalues of the matrix are 2: .* 'ceiling'$"):
        terms.ill(2 * np.eye(3))
