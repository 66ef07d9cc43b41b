"""Two-layer networks with a planted gate: a hidden unit, closed at the start, without which no label can change.

All inputs are of class 0. With e = x − ½, the lead of class 1 in the logits is ::

    −LEAD + b·e + GAIN · gate(w·e − closed)

where b is what open units add up to, linear on all that can be reached: it takes at most 1 of the lead, which is 2.
So a label changes only by way of the gate. At x + eps · sign(w) it does, but for a few inputs with the gate closed
very far. ``around`` gives b another open direction that takes the whole lead by itself. The gate is a unit of the
network's activation: max(0, ·), or value 1 times SiLU. Inputs whose gate happens to be open are told by `Planted.gate`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlens.models.zoo.blocks import SwiGLU
from flatlens.victims.noise import stream

RELU, SWIGLU = "relu", "swiglu"
SHAPE = (1, 8, 8)
FEATURES = 64
EPS, SPREAD = 0.2, 0.2
"""Radius of the attack in linf, and how far inputs lie from ½: no point that is reached is clipped."""
LEAD, GAIN, OWN, AROUND, REACH = 2.0, 2.0, 0.5, 3.0, 6.0
"""In logits: the lead; what the gate's opening by 1 takes of it; what b takes at most within eps; what the way around
takes; and by how much the gate's input rises at most within eps."""
WIDTH = {RELU: 16, SWIGLU: 8}
"""Hidden units: 1,074 weights and biases, and 1,058."""
OPEN = 1.2785
"""An input of SiLU at which it is about 1."""


class Planted(NamedTuple):
    """A network, and its gate: ``w`` ``[64]``, and how far it is closed at x = ½."""

    model: nn.Sequential
    w: Tensor
    closed: float

    def gate(self, x: Tensor) -> Tensor:
        """The gate's input at points ``[n, 1, 8, 8]``, ``[n]``; below 0 it is closed."""
        return (x - 0.5).flatten(1) @ self.w - self.closed


def inputs(n: int, seed: int) -> Tensor:
    """Uniform in ½ ± `SPREAD`, ``[n, 1, 8, 8]``."""
    return 0.5 + SPREAD * (2 * torch.rand(n, *SHAPE, generator=stream(seed, "planted-inputs")) - 1)


def planted(act: str, seed: int, closed: float, *, around: bool = False, aligned: float = 0.0) -> Planted:
    """A network with a planted gate; of one seed all have the same w, and without ``aligned`` the same b.

    Args:
        act: ``relu`` or ``swiglu``.
        seed: of w, b and the units that make b.
        closed: how far the gate is closed at x = ½, in units of its input.
        around: whether open units lead to the other class by themselves.
        aligned: the share of b that is w's direction, 0 to 1; the rest has nothing to do with it.
    """
    rng = stream(seed, "planted")
    w, own, other = (_of_length(torch.randn(FEATURES, generator=rng), size) for size in (REACH, OWN, AROUND))
    b = _of_length((1 - aligned) * own / OWN + aligned * w / REACH, OWN)
    b = b + other if around else b
    units = WIDTH[act] - 1
    parts = torch.randn(units, FEATURES, generator=rng) * b.abs().mean()
    parts = parts - parts.mean(0) + b / units  # they add up to b
    lift = parts.abs().sum(1)  # more than ½, the farthest that any input lies off ½: these units are always open
    value = torch.cat([parts, w[None]]), torch.cat([lift, torch.tensor([-closed])])
    if act == SWIGLU:
        none = torch.zeros(units + 1, FEATURES)
        unit = 1 / nn.functional.silu(torch.tensor(OPEN))
        weight = torch.cat([parts * unit, none[:1], none[:units], w[None]])
        bias = torch.cat([lift * unit, torch.ones(1), torch.full((units,), OPEN), torch.tensor([-closed])])
    else:
        weight, bias = value
    hidden = _linear(weight, bias - weight.sum(1) / 2)
    lead = torch.cat([torch.ones(units), torch.tensor([GAIN])])
    head = _linear(torch.stack([-lead, lead]) / 2, (LEAD + lift.sum()) / 2 * torch.tensor([1.0, -1.0]))
    layers = [nn.Flatten(), hidden, nn.ReLU() if act == RELU else SwiGLU(), head]
    return Planted(nn.Sequential(*layers).eval().requires_grad_(False), w, closed)


def smooth(net: Planted) -> nn.Sequential:
    """The network of ReLU with softplus in its place: its gradient always points to where the gate opens."""
    layers = [nn.Softplus() if isinstance(layer, nn.ReLU) else layer for layer in net.model]
    return nn.Sequential(*layers).eval()


def _of_length(direction: Tensor, size: float) -> Tensor:
    """A direction so long that a step of eps in linf raises its product by ``size`` at most."""
    return direction * (size / EPS / direction.abs().sum())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made
