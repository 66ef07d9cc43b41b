"""Planted gates: what they can do, by the mathematics of two-layer networks, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flatlens import models
from flatlens.claims import c11_closed_gates as c11
from flatlens.claims import planted
from flatlens.claims.planted import AROUND, EPS, GAIN, LEAD, OWN, REACH, RELU, SPREAD, SWIGLU, Planted

ACTS = (RELU, SWIGLU)
CLOSED = (c11.LIGHTLY, c11.WELL)
SEEDS = (0, 1, 2)
MIDDLE = torch.full((1, *planted.SHAPE), 0.5, dtype=torch.float64)


def made(act: str, seed: int, closed: float, **how: float) -> Planted:
    net = planted.planted(act, seed, closed, **how)  # type: ignore[arg-type]
    return Planted(net.model.double(), net.w.double(), closed)


def lead(net: Planted, x: Tensor) -> Tensor:
    """Of class 1 over class 0."""
    logits = net.model(x)
    return logits[:, 1] - logits[:, 0]


def gradient(net: Planted, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(lead(net, leaf).sum(), leaf)
    return found.flatten(1)


def silu_slope(z: float) -> float:
    s = 1 / (1 + float(torch.exp(torch.tensor(-z, dtype=torch.float64))))
    return s * (1 + z * (1 - s))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("around", "aligned"), [(False, 0.0), (True, 0.0), (False, 0.5)])
def test_open_units_are_linear_and_no_way_unless_they_are_made_one(seed: int, around: bool, aligned: float) -> None:
    net = made(RELU, seed, c11.WELL, around=around, aligned=aligned)
    x = planted.inputs(40, seed).double()
    x = x[net.gate(x) < 0]
    b = gradient(net, MIDDLE)[0]  # the gate is closed there
    assert torch.allclose(gradient(net, x), b.expand(len(x), -1), atol=1e-6)
    assert torch.allclose(lead(net, x), -LEAD + (x - 0.5).flatten(1) @ b, atol=1e-4)
    farthest = float(b.abs().sum()) * (EPS + SPREAD)
    if around:
        worst = lead(net, x + EPS * b.sign().reshape(planted.SHAPE))
        assert float(b.abs().sum()) * EPS > AROUND - OWN - 1e-6 and bool((worst > 0).all())
    else:
        assert farthest == pytest.approx(1.0, rel=1e-5) and farthest < LEAD


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("act", ACTS)
def test_the_label_changes_where_the_gate_is_opened_as_far_as_it_goes(act: str, closed: float, seed: int) -> None:
    net = made(act, seed, closed)
    x = planted.inputs(40, seed).double()
    farthest = x + EPS * net.w.sign().reshape(planted.SHAPE)
    assert torch.allclose(net.gate(farthest), net.gate(x) + REACH, atol=1e-4)
    assert bool((lead(net, farthest) > 0).all()) and bool((lead(net, x) < 0).all())
    assert float(farthest.min()) > 0 and float(farthest.max()) < 1  # nothing is clipped


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("closed", CLOSED)
def test_what_the_gates_gradient_is(closed: float, seed: int) -> None:
    """Of ReLU nothing; of SwiGLU SiLU's slope times w, which behind −1.28 points the wrong way."""
    b, both = (gradient(made(act, seed, closed), MIDDLE)[0] for act in ACTS)
    w = made(SWIGLU, seed, closed).w
    assert torch.allclose(both - b, GAIN * silu_slope(-closed) * w, atol=1e-5)
    assert (silu_slope(-closed) > 0) == (closed == c11.LIGHTLY)


@pytest.mark.parametrize("act", ACTS)
def test_weights_are_matched(act: str) -> None:
    def many(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    few = {kind: many(planted.planted(kind, 0, 1.0).model) for kind in ACTS}
    assert few == {RELU: 1074, SWIGLU: 1058}
    large = many(models.load(f"flatlens:mlp?act={act}&width={c11.WIDTH[act]}", shape=(1, 8, 8), classes=10).model)
    assert large == {RELU: 8970, SWIGLU: 8890}[act]


def test_softplus_lends_a_gradient_that_finds_the_way() -> None:
    net = planted.planted(RELU, 0, c11.WELL)
    x, y = planted.inputs(20, 0), torch.zeros(20, dtype=torch.long)
    from flatlens import attacks

    pgd = attacks.PGD(EPS, steps=c11.STEPS)
    (blocked, _), (found, _) = (c11._walked(pgd, model, x, y, 0) for model in (net.model, planted.smooth(net)))
    assert bool((net.model(found).argmax(1) == 1).all()) and bool((net.model(blocked).argmax(1) == 0).all())


@pytest.mark.parametrize("act", ACTS)
def test_which_units_are_open(act: str) -> None:
    model = models.load(f"flatlens:mlp?act={act}&width=5&depth=2", shape=(1, 8, 8), classes=3).model
    x = torch.rand(7, 1, 8, 8)
    found = c11._open(model, x)
    h = model.hidden1(x.flatten(1))
    first = h[:, -5:]  # of SwiGLU the gates come second
    assert found.shape == (7, 10) and torch.equal(found[:, :5], first > 0)
    h = torch.relu(h) if act == RELU else h[:, :5] * torch.nn.functional.silu(first)
    assert torch.equal(found[:, 5:], model.hidden2(h)[:, -5:] > 0)
