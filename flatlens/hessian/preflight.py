"""What can be known of a victim's layers before the first step, by measuring and not by their names.

A layer's Hessian equals its Gauss–Newton matrix where everything after it is piecewise linear. Then, and only then, is
the Hessian-vector product of ⟨v, z⟩ with respect to the layer's output exactly 0.0, for any v, at any point.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlens.errors import LayerError
from flatlens.forward import Forward, Victim
from flatlens.hessian.columns import Columns
from flatlens.hessian.hutchinson import Residual, generator

VECTORS = 2
SAMPLES = 4


class Findings(NamedTuple):
    """What the preflight saw: layers whose tail bends, and those whose tail cannot be differentiated twice."""

    smooth: set[str]
    once: set[str]


def preflight(victim: Victim, layers: dict[str, Columns], x: Tensor, *, seed: int = 0) -> Findings:
    """Check every layer and find out which Hessians have a part beyond Gauss–Newton.

    Leaves `Victim.copied` and `Victim.twice` as the layers need them.

    Args:
        victim: its layers are looked at on passes that are made here.
        layers: by name.
        x: a few inputs, ``[n, …]``.
        seed: of the random vectors and points.

    Raises:
        LayerError: a layer does not compute W·a + b, does not depend on the input, or mixes samples.
    """
    if not layers:
        return Findings(set(), set())
    points = _points(victim, x, seed)
    y = torch.zeros(len(points), dtype=torch.long, device=victim.device)
    victim.twice = True
    here = _checked_pass(victim, layers, points, y)
    for tap in here.taps.values():
        if tap.overwritten:
            victim.copied.add(tap.layer.name)
    _check_samples(here, layers)
    found = Findings(set(), set())
    for name, columns in layers.items():
        try:
            if _bends(here, columns, seed):
                found.smooth.add(name)
        except (RuntimeError, NotImplementedError):  # "derivative for … is not implemented", once_differentiable
            found.once.add(name)
    victim.twice = bool(found.smooth)
    return found


def _points(victim: Victim, x: Tensor, seed: int) -> Tensor:
    """The inputs, and as many random ones around them: a unit that is asleep at one point is not at all of them."""
    few = x[:SAMPLES]
    if not few.is_floating_point():
        return victim.place(few.repeat(2, *[1] * (few.dim() - 1)))
    low, high = victim.bounds
    noise = torch.rand(few.shape, generator=generator(seed, "preflight", 0), dtype=torch.float64).to(few)
    return victim.place(torch.cat([few, (few + (low + (high - low) * noise)) / 2]))


def _checked_pass(victim: Victim, layers: dict[str, Columns], x: Tensor, y: Tensor) -> Forward:
    handles = []
    for columns in layers.values():

        def check(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, columns: Columns = columns) -> None:
            columns.check(args[0].detach(), output.detach())

        handles.append(columns.module.register_forward_hook(check))
    try:
        here = victim(x, y)
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in here.taps or here.taps[name].edge is None:
            raise LayerError(f"layer '{name}' does not depend on the input; only layers on the way can be probed")
    return here


def _check_samples(here: Forward, layers: dict[str, Columns]) -> None:
    """What one sample's logits depend on must lie in one piece of the layer's output: per-sample curvature needs it."""
    n = len(here.logits)
    cotangent = torch.zeros_like(here.logits)
    cotangent[1] = torch.randn(cotangent.shape[1], generator=generator(0, "samples", 0)).to(cotangent)
    taps = [here.taps[name] for name in layers]
    places = [tap.output for tap in taps]
    deltas = torch.autograd.grad(here.logits, places, cotangent, retain_graph=True, allow_unused=True)
    for tap, delta in zip(taps, deltas, strict=True):
        whole = len(tap.value) % n == 0 and tap.output_shape[0] % n == 0
        if whole and delta is not None:
            pieces = delta.reshape(n, -1)
            whole = not pieces[torch.arange(n) != 1].any()
        if not whole:
            raise LayerError(
                f"layer '{tap.layer.name}' mixes samples, or has no samples in front (output {tuple(tap.output_shape)} "
                f"for {n} samples); curvature per sample needs [n, …]"
            )


def _bends(here: Forward, columns: Columns, seed: int) -> bool:
    """Whether the second derivative of ⟨v, z⟩ by the layer's output is anything but exactly 0.0."""
    n, (shape, dtype) = len(here.logits), (here.taps[columns.name].output_shape, here.logits.dtype)
    finite = torch.isfinite(here.logits).all(1)
    for index in range(VECTORS):
        random = generator(seed, f"preflight of {columns.name}", index)
        v = torch.randn(here.logits.shape, generator=random, dtype=torch.float64).to(here.logits.device)
        u = torch.randn(shape, generator=random, dtype=torch.float64).to(here.logits.device, dtype)
        curved = Residual(here, [columns.name], v).product(columns.name, u).reshape(n, -1)
        # NaN where the logits are finite (0 · inf in a derivative) is not 0 either.
        if bool((curved[finite] != 0).any()):
            return True
    return False
