"""Those who learn the harmful probe: each ends at the minimum, as fast as its condition number has it."""

from __future__ import annotations

import numpy as np
import pytest

from flatlens.immunity import attackers
from flatlens.immunity.attackers import ATTACKERS, IDENTITY, IMMUNIZED, probe, walked
from flatlens.immunity.ceiling import ceiling, kappa, root, spread
from tests.immunity.made import pair

D = 8
(X, Y), (Z, T) = pair(D, 400)
ROOT, SLOPE = root(Z, 0.01), (Z.T @ T / len(Z))[:, None]
TOP = ceiling(root(X, 0.01), ROOT)
THETA = spread(TOP.theta)


def loss(w, theta):
    """½ vᵀKv − vᵀb at v = θw, by the dense Hessian."""
    k, v = ROOT.T @ ROOT, theta @ w
    return float((0.5 * v * (k @ v)).sum() - (v * SLOPE).sum())


def random_theta(seed=0):
    return np.random.default_rng(seed).normal(size=(D, D)) + 2 * np.eye(D)


@pytest.mark.parametrize("theta", [np.eye(D), random_theta(), THETA], ids=["identity", "random", "immunized"])
@pytest.mark.parametrize("name", ATTACKERS)
def test_the_gap_is_the_share_of_the_loss_that_is_left(name, theta):
    p = probe(ROOT, SLOPE, theta)
    best = -0.5 * float((SLOPE * np.linalg.solve(ROOT.T @ ROOT, SLOPE)).sum())
    assert loss(p.best, theta) == pytest.approx(best, rel=1e-9)
    path = ATTACKERS[name][0](p)
    for _ in range(6):
        w = next(path)
        assert p.gap(w) == pytest.approx((loss(w, theta) - best) / -best, rel=1e-6, abs=1e-9)
        assert p.distance(w) == pytest.approx(np.linalg.norm(w - p.best) / np.linalg.norm(p.best))
    gaps, distances = walked(name, p, 5)
    assert (gaps[0], distances[0]) == (1, 1) and len(gaps) == len(distances) == 6
    assert gaps[5] == pytest.approx(p.gap(w))


@pytest.mark.parametrize("name", ["gradient-descent", "weight-decay"])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_descent_is_no_slower_than_its_condition_number_allows(name, seed):
    theta = random_theta(seed)
    gaps, _ = walked(name, probe(ROOT, SLOPE, theta), 60)
    k = kappa(ROOT, theta)
    rate = ((k - 1) / (k + 1)) ** 2
    assert name == "weight-decay" or (gaps[1:] <= gaps[:-1] * rate * (1 + 1e-6)).all()
    assert gaps[-1] < gaps[0]


@pytest.mark.parametrize("outputs", [1, 3])
def test_conjugate_gradients_are_there_after_as_many_steps_as_there_are_features(outputs):
    slope = np.random.default_rng(0).normal(size=(D, outputs))
    gaps, _ = walked("conjugate-gradients", probe(ROOT, slope, random_theta()), D)
    assert gaps[D] < 1e-10 and gaps[D - 3] > 1e-8


@pytest.mark.parametrize("name", ["least-squares", "whitening"])
@pytest.mark.parametrize("theta", [np.eye(D), random_theta(), THETA], ids=["identity", "random", "immunized"])
def test_who_decorrelates_is_there_in_one_step(name, theta):
    assert walked(name, probe(ROOT, SLOPE, theta), 1)[0][1] < 1e-18


def test_rescaling_undoes_the_principal_axes_at_once_and_not_the_features_spread_over_all_axes():
    plain, spread_out = (walked("rescaling", probe(ROOT, SLOPE, theta), 50)[0] for theta in (TOP.theta, THETA))
    assert kappa(ROOT, TOP.theta / np.linalg.norm(ROOT @ TOP.theta, axis=0)) == pytest.approx(1, rel=1e-6)
    assert plain[1] < 1e-20
    descent = walked("gradient-descent", probe(ROOT, SLOPE, THETA), 50)[0]
    assert spread_out[50] == pytest.approx(descent[50], rel=0.5) and descent[50] > 1e-3


@pytest.mark.parametrize("theta", [TOP.theta, random_theta()], ids=["ceiling", "random"])
def test_spreading_changes_no_condition_number(theta):
    for at in (ROOT, root(X, 0.01)):
        assert kappa(at, spread(theta)) == pytest.approx(kappa(at, theta), rel=1e-8)
    q = np.linalg.solve(theta, spread(theta))
    np.testing.assert_allclose(q.T @ q, np.eye(D), atol=1e-9)


def test_the_harmful_probe_is_slow_under_gradient_descent_and_the_useful_one_is_not():
    tasks = {"primary": (root(X, 0.01), (X.T @ Y / len(X))[:, None]), "harmful": (ROOT, SLOPE)}
    table = attackers.table(tasks, THETA, 100).to_pandas()
    assert len(table) == 2 * 2 * len(ATTACKERS) * 101 and list(table) == attackers.SCHEMA.names
    left = table[table.iteration == 100].set_index(["task", "extractor", "attacker"]).loss_gap
    at = ("gradient-descent",)
    assert left["harmful", IMMUNIZED, *at] > 50 * left["harmful", IDENTITY, *at]
    assert left["primary", IMMUNIZED, *at] < left["primary", IDENTITY, *at]
    for name in ("conjugate-gradients", "least-squares", "whitening"):
        assert left["harmful", IMMUNIZED, name] < 1e-9


def test_at_the_minimum_nothing_moves_and_nothing_divides_by_zero():
    for name in ATTACKERS:
        with np.errstate(all="raise", under="ignore"):
            gaps, _ = walked(name, probe(np.eye(2), np.array([[1.0], [0.0]]), np.eye(2)), 120)
        assert np.isfinite(gaps).all() and gaps[-1] < 1e-3
