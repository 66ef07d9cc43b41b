"""The l1 ball against a general optimiser, and what all balls have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from flatlens.attacks.balls import BALLS, L1, Ball, ball
from flatlens.attacks.gradient import random_point
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch


def cases(n: int = 40, d: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, d, generator=g, dtype=torch.float64)
    x[::5] = x[::5].round()  # at the bounds, as black and white pixels are
    return x, torch.randn(n, d, generator=g, dtype=torch.float64), 0.05 + 2 * torch.rand(n, generator=g).double()


def reference(delta: np.ndarray, eps: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """min ‖u − δ‖² over ‖u‖₁ ≤ eps and low ≤ u ≤ high: a quadratic programme in u = p − m, p, m ≥ 0."""
    d = len(delta)

    def value(v: np.ndarray) -> tuple[float, np.ndarray]:
        r = v[:d] - v[d:] - delta
        return float(r @ r), np.concatenate([2 * r, -2 * r])

    found = minimize(
        value, np.zeros(2 * d), jac=True, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
        bounds=[(0, max(h, 0)) for h in high] + [(0, max(-lo, 0)) for lo in low],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(2 * d)},
    )  # fmt: skip
    return found.x[:d] - found.x[d:]


def test_l1_projection_is_the_nearest_point() -> None:
    x, delta, eps = cases()
    inside = L1().project(x + delta, x, eps, (0.0, 1.0)) - x
    free = L1().shrink(delta, eps)
    wide = np.full(x.shape[1], 10.0)
    for i in range(len(x)):
        boxed = reference(delta[i].numpy(), float(eps[i]), -x[i].numpy(), 1 - x[i].numpy())
        np.testing.assert_allclose(inside[i], boxed, atol=2e-6)
        np.testing.assert_allclose(free[i], reference(delta[i].numpy(), float(eps[i]), -wide, wide), atol=2e-6)


def test_l1_projection_leaves_what_is_inside() -> None:
    delta = torch.tensor([[0.1, -0.2, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(L1().shrink(delta, 0.5), delta)


@pytest.mark.parametrize("shape", [(9,), (1, 3, 3), (3, 8, 8)])
@pytest.mark.parametrize("name", BALLS)
def test_geometry(name: str, shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(20, *shape, generator=g, dtype=torch.float64)
    step = torch.randn(20, *shape, generator=g, dtype=torch.float64)
    within: Ball = ball(name)
    eps = torch.linspace(0.01, 3, 20, dtype=torch.float64)
    for radius in (0.3, eps):
        there = within.project(x + step, x, radius, (0.0, 1.0))
        assert bool((within.size(there - x) <= radius * (1 + 1e-12) + 1e-14).all())
        assert there.min() >= 0 and there.max() <= 1
        torch.testing.assert_close(within.project(there, x, radius, (0.0, 1.0)), there, rtol=0, atol=1e-12)
    # One radius each is the same as each by itself.
    alone = torch.cat(
        [within.project((x + step)[i : i + 1], x[i : i + 1], float(eps[i]), (0.0, 1.0)) for i in range(20)]
    )
    torch.testing.assert_close(within.project(x + step, x, eps, (0.0, 1.0)), alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(within.size(within.steepest(step)), torch.ones(20, dtype=torch.float64))
    assert bool(((within.steepest(step) * step).flatten(1).sum(1) > 0).all())
    assert torch.equal(within.steepest(torch.zeros_like(step)), torch.zeros_like(step))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_random_points_are_uniform_in_the_ball(norm: str) -> None:
    x = torch.full((400, 2), 0.5, dtype=torch.float64)
    batch = Batch(x, torch.zeros(400, dtype=torch.long), torch.arange(400))
    radius = ball(norm).size(random_point(norm, batch, Noise(0)))
    # In two dimensions the squared radius is uniform: mean ½, standard error √(1/12/400) = 0.0144.
    assert radius.max() <= 1
    assert abs(radius.square().mean() - 0.5) < 4 * 0.0144
