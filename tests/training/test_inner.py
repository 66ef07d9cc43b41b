"""The inner attacks: where they may go, what they climb, and what they leave alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from flatlens import datasets, models
from flatlens.specs.defences import ADVERSARIAL, chosen
from flatlens.training.inner import FGSM, PGD, Free, Gan, Inner, climb, named, perturb
from flatlens.training.losses import TRADES, divergence
from flatlens.training.losses import cross_entropy as ce

MADE: dict[str, Callable[[str], Inner]] = {
    "pgd": lambda norm: PGD(4, norm),
    "fgsm": lambda norm: FGSM(norm=norm),
    "fgsm from clean": lambda norm: FGSM(2.0, "clean", norm),
    "free": lambda norm: Free(3, norm),
    "gan": lambda norm: Gan(4, norm=norm),
}


def digits(n: int = 40) -> tuple[Tensor, Tensor]:
    found = datasets.load("flatlens:digits").take(range(n))
    return torch.from_numpy(found.x), torch.from_numpy(found.y)


def shipped() -> nn.Module:
    return models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model.eval()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attacked(
    inner: Inner, model: nn.Module, x: Tensor, y: Tensor, eps: float, g: torch.Generator, bounds: Any = (0.0, 1.0)
) -> Tensor:
    return inner(model, x, y, lambda z: ce(z, y), eps=eps, bounds=bounds, rng=g)


def assert_inside(there: Tensor, x: Tensor, eps: float, norm: str, bounds: tuple[float, float]) -> None:
    """Within ball and bounds to one unit in the last place of the coordinates, measured in float64."""
    assert there.dtype == x.dtype and not there.requires_grad
    assert there.min() >= bounds[0] and there.max() <= bounds[1]
    delta = there.double() - x.double()
    ulp = torch.maximum(there.abs(), x.abs()).double() * torch.finfo(x.dtype).eps
    if norm == "linf":
        assert (delta.abs() <= eps + ulp).all()
    else:
        assert (delta.flatten(1).norm(dim=1) <= eps * (1 + torch.finfo(x.dtype).eps) + ulp.flatten(1).norm(dim=1)).all()


def test_every_attack_is_in_the_table() -> None:
    assert {name.split(" ")[0] for name in MADE} == set(ADVERSARIAL)
    assert named(chosen("adversarial", "pgd")[0], steps=3, norm="l2") == PGD(3, "l2")
    assert named(chosen("adversarial", "fgsm?start=clean&size=1")[0], steps=3, norm="linf") == FGSM(1.0, "clean")
    assert named(chosen("adversarial", "free?replays=2")[0], steps=3, norm="linf") == Free(2)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.5, 1.5)])
@pytest.mark.parametrize("eps", [8 / 255, 0.3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", MADE)
def test_stays_in_ball_and_bounds(name: str, norm: str, eps: float, bounds: tuple[float, float]) -> None:
    model, (x, y), inner, g = shipped(), digits(12), MADE[name](norm), rng()
    furthest = 0.0
    for _ in range(4):  # a generator and a free perturbation begin at 0
        there = attacked(inner, model, x, y, eps, g, bounds=bounds)
        assert_inside(there, x, eps, norm, bounds)
        furthest = max(furthest, float((there - x).flatten(1).norm(dim=1).max()))
        if isinstance(inner, Free):
            at = there.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(ce(model(at), y).mean(), at)
            inner.learn(slope, eps)
    assert furthest > 0.3 * eps


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_start_alone_stays_inside(norm: str) -> None:
    x, y = digits(200)
    start = climb(shipped(), x, lambda z: ce(z, y), eps=0.3, steps=0, size=1, norm=norm, bounds=(0, 1), rng=rng())
    assert_inside(start, x, 0.3, norm, (0.0, 1.0))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.fc = nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(x.flatten(1))))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", MADE)
def test_leaves_the_model_as_it_was(name: str, norm: str) -> None:
    model, (x, y) = Normed().eval(), digits(8)
    for i, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, float(i))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    drawn = torch.get_rng_state()
    inner, original = MADE[name](norm), x.clone()
    for _ in range(2):
        attacked(inner, model, x, y, 0.1, rng())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.full_like(p, float(i))) for i, p in enumerate(model.parameters()))
    assert not model.training and torch.equal(x, original) and torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_divergence_rises_with_every_step(norm: str) -> None:
    """In the median over the samples; what TRADES climbs is its own divergence, not the cross-entropy."""
    model, (x, y) = shipped(), digits(100)
    clean = model(x).detach()
    eps = 0.1 if norm == "linf" else 0.5
    climbed = TRADES().ascends(clean, y)
    medians = []
    for steps in range(8):
        there = climb(model, x, climbed, eps=eps, steps=steps, size=2.5 * eps / 7, norm=norm, bounds=(0, 1), rng=rng())
        medians.append(divergence(clean, model(there).detach()).median().item())
    assert medians == sorted(medians) and medians[-1] > 5 * medians[0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_reach_a_larger_loss(norm: str) -> None:
    model, (x, y) = shipped(), digits(100)
    eps = 0.1 if norm == "linf" else 0.5
    reached = [
        ce(model(attacked(inner, model, x, y, eps, rng())), y).mean() for inner in (FGSM(norm=norm), PGD(7, norm))
    ]
    assert reached[1] > reached[0] > 3 * ce(model(x), y).mean()


def test_perturb_is_the_same_attack() -> None:
    model, (x, y) = shipped(), digits()
    torch.testing.assert_close(
        perturb(model, x, y, eps=0.1, steps=4, rng=rng()), attacked(PGD(4), model, x, y, 0.1, rng()), rtol=0, atol=0
    )


# --- random starts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("d", [2, 5])
def test_starts_fill_the_ball_evenly(norm: str, d: int) -> None:
    """Against points of the cube, those outside of the ball left out: radius and every coordinate as theirs."""
    x = torch.full((4000, d), 0.5, dtype=torch.float64)
    start = climb(nn.Identity(), x, lambda z: z.sum(1), eps=0.25, steps=0, size=0, norm=norm, bounds=(0, 1), rng=rng())
    found = ((start - x) / 0.25).numpy()
    if norm == "l2":
        cube = np.random.default_rng(0).uniform(-1, 1, (200_000, d))
        even = cube[np.linalg.norm(cube, axis=1) <= 1]
        radius = np.linalg.norm(found, axis=1)
        assert stats.kstest(radius**d, "uniform").pvalue > 0.01  # the volume within r grows as r^d
        for i in range(d):
            assert stats.ks_2samp(found[:, i], even[:, i]).pvalue > 0.01
    else:
        for i in range(d):
            assert stats.kstest(found[:, i], stats.uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize(("start", "same"), [("random", False), ("clean", True)])
def test_only_a_random_start_draws(start: str, same: bool) -> None:
    model, (x, y), g = shipped(), digits(), rng()
    before = g.get_state()
    attacked(FGSM(1.25, start), model, x, y, 0.1, g)
    assert torch.equal(g.get_state(), before) == same


def test_from_clean_it_is_the_sign_of_the_gradient() -> None:
    model, (x, y) = shipped(), digits()
    at = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(ce(model(at), y).sum(), at)
    for size in (1.0, 2.0):
        there = attacked(FGSM(size, "clean"), model, x, y, 0.1, rng())
        torch.testing.assert_close(there, (x + 0.1 * slope.sign()).clamp(0, 1), rtol=0, atol=1e-7)


# --- attacks that remember -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_free_perturbation_goes_on(norm: str) -> None:
    model, (x, y), free = shipped(), digits(8), Free(4, norm)
    assert torch.equal(attacked(free, model, x, y, 0.1, rng()), x)
    g = torch.randn(8, 1, 8, 8, generator=rng(1))
    free.learn(g, 0.1)
    first = attacked(free, model, x, y, 0.1, rng())
    step = 0.1 * (g.sign() if norm == "linf" else g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    torch.testing.assert_close(first, (x + step).clamp(0, 1), rtol=0, atol=1e-6)
    # The next batch, with other inputs, begins where this one left it; a larger one has new rows, which begin at 0.
    other = torch.full((10, 1, 8, 8), 0.5)
    there = attacked(free, model, other, torch.arange(10), 0.1, rng())
    torch.testing.assert_close(there[:8], other[:8] + step, rtol=0, atol=1e-6)
    assert torch.equal(there[8:], other[8:])
    # Two steps forth and one back stay in the ball.
    free.learn(torch.cat([g, g[:2]]), 0.1)
    assert_inside(attacked(free, model, other, torch.arange(10), 0.1, rng()), other, 0.1, norm, (0.0, 1.0))


@pytest.mark.parametrize("name", MADE)
def test_saved_and_gone_on_with_to_the_same_bits(name: str) -> None:
    """Through a file, as a snapshot does; what goes on leaves the state that it was given as it is."""
    model, (x, y) = shipped(), digits(16)

    def some(inner: Inner, times: int, g: torch.Generator) -> Tensor:
        for _ in range(times):
            there = attacked(inner, model, x, y, 0.2, g)
            if isinstance(inner, Free):
                inner.learn(torch.randn(x.shape, generator=g), 0.2)
        return there

    inner, g = MADE[name]("linf"), rng(5)
    some(inner, 2, g)
    file = io.BytesIO()
    torch.save({"inner": inner.state_dict(), "rng": g.get_state()}, file)
    expected = some(inner, 3, g)
    for _ in range(2):
        file.seek(0)
        held = torch.load(file, weights_only=True)
        again, h = MADE[name]("linf"), rng(5)
        again.load_state_dict(held["inner"])
        h.set_state(held["rng"])
        assert torch.equal(some(again, 3, h), expected)
        h.set_state(held["rng"])
        twin = MADE[name]("linf")
        twin.load_state_dict(held["inner"])
        assert torch.equal(some(twin, 3, h), expected)
    assert not torch.equal(expected, x)


def test_a_state_that_was_not_yet_used_is_saved_again() -> None:
    model, (x, y), gan = shipped(), digits(8), Gan(4)
    attacked(gan, model, x, y, 0.1, rng())
    again = Gan(4)
    again.load_state_dict(gan.state_dict())
    assert again.state_dict().keys() == gan.state_dict().keys() != set()


def test_the_generator_leaves_the_order_of_the_samples() -> None:
    g = rng(3)
    before = g.get_state()
    attacked(Gan(4), shipped(), *digits(8), 0.1, g)
    assert torch.equal(g.get_state(), before)
