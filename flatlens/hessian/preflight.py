"""What can be known of a victim's layers before the first step, by measuring and not by their names.

A layer's Hessian equals its Gauss–Newton matrix where everything after it is piecewise linear. Two things must say so:
the Hessian-vector product of ⟨v, z⟩ with respect to the layer's output is exactly 0.0 for random v at a few points, and
the graph behind the layer consists of nodes that cannot bend (`bends`): an ELU is straight for positive inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from flatlens.errors import LayerError
from flatlens.hessian.bends import bending
from flatlens.hessian.columns import Columns
from flatlens.victims.checks import first_input
from flatlens.victims.graph import Graph, place
from flatlens.victims.memory import is_out_of_memory
from flatlens.victims.noise import stream
from flatlens.victims.protocol import Needs, Pass, Victim

VECTORS = 2
SAMPLES = 2


class Findings(NamedTuple):
    """What the preflight saw.

    Attributes:
        smooth: layers whose tail bends.
        once: layers whose tail cannot be differentiated twice.
        needs: how passes must be made for these layers to be measured.
    """

    smooth: set[str]
    once: set[str]
    needs: Needs


class Tails(NamedTuple):
    """Layers whose tail bends, and layers whose tail cannot be differentiated twice."""

    smooth: set[str]
    once: set[str]


def preflight(victim: Victim, layers: dict[str, Columns], x: Tensor, *, seed: int = 0) -> Findings:
    """Check every layer and find out which Hessians have a part beyond Gauss–Newton.

    Args:
        victim: its layers are looked at on passes that are made here.
        layers: by name.
        x: a few inputs, ``[n, …]``.
        seed: of the random vectors and points.

    Raises:
        LayerError: a layer does not compute W·a + b, does not depend on the input, or mixes samples.
    """
    if not layers:
        return Findings(set(), set(), Needs())
    points = _points(victim, x, seed)
    y = torch.zeros(len(points), dtype=torch.long, device=victim.device)
    here = _checked_pass(victim.needing(Needs(graph=True, twice=True)), layers, points, y)
    copied = frozenset(tap.layer.name for tap in here.taps.values() if tap.overwritten)
    _check_samples(here, layers)
    found = _bends(here, list(layers), seed)
    graph = Graph(here.logits)
    bent = {name for name in layers if bending(graph, place(here.taps[name].output)) is not None}
    smooth = found.smooth | (bent - found.once)
    return Findings(smooth, found.once, Needs(graph=True, twice=bool(smooth), copied=copied))


def _points(victim: Victim, x: Tensor, seed: int) -> Tensor:
    """The inputs, and as many random ones around them: a unit that is asleep at one point is not at all of them."""
    few = x[:SAMPLES]
    if not few.is_floating_point():
        return victim.place(few.repeat(2, *[1] * (few.dim() - 1)))
    low, high = victim.bounds
    noise = torch.rand(few.shape, generator=stream(seed, "preflight", 0), dtype=torch.float64).to(few)
    return victim.place(torch.cat([few, (few + (low + (high - low) * noise)) / 2]))


def _checked_pass(victim: Victim, layers: dict[str, Columns], x: Tensor, y: Tensor) -> Pass:
    handles = []
    for columns in layers.values():

        def check(
            _: nn.Module,
            args: tuple[Tensor, ...],
            given: dict[str, Tensor],
            output: Tensor,
            columns: Columns = columns,
        ) -> None:
            columns.check(first_input(args, given).detach(), output.detach())

        handles.append(columns.module.register_forward_hook(check, with_kwargs=True))
    try:
        here = victim(x, y)
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in here.taps or here.taps[name].edge is None:
            raise LayerError(f"layer '{name}' does not depend on the input; only layers on the way can be probed", name)
    return here


def _check_samples(here: Pass, layers: dict[str, Columns]) -> None:
    """What one sample's logits depend on must lie in one piece of the layer's output: per-sample curvature needs it."""
    n = len(here.logits)
    cotangent = torch.zeros_like(here.logits)
    cotangent[1] = torch.randn(cotangent.shape[1], generator=stream(0, "samples", 0)).to(cotangent)
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
                f"for {n} samples); curvature per sample needs [n, …]",
                tap.layer.name,
            )


def _bends(here: Pass, names: list[str], seed: int) -> Tails:
    """For which layers the second derivative of ⟨v, z⟩ by the layer's output is anything but exactly 0.0.

    All layers at once: another layer's second derivative reaches a layer only through a tail that bends as well.

    Raises:
        RuntimeError: memory ran out.
    """
    found = Tails(set(), set())
    try:
        for index in range(VECTORS):
            for kept, seen in zip(found, _bent(here, names, seed, index), strict=True):
                kept.update(seen)
    except RuntimeError as error:  # "derivative for … is not implemented"
        if is_out_of_memory(error):
            raise
        if len(names) == 1:
            return Tails(set(), set(names))
        parts = [_bends(here, [name], seed) for name in names]
        return Tails(set().union(*(p.smooth for p in parts)), set().union(*(p.once for p in parts)))
    return found


def _bent(here: Pass, names: list[str], seed: int, index: int) -> Tails:
    n, like = len(here.logits), here.logits
    finite = torch.isfinite(like).all(1)

    def normal(name: str, shape: torch.Size) -> Tensor:
        random = stream(seed, f"preflight of {name}", index)
        return torch.randn(shape, generator=random, dtype=torch.float64).to(like.device, like.dtype)

    scalar = (like * normal("logits", like.shape)).sum()
    places = [here.taps[name].output for name in names]
    with torch.enable_grad():
        slopes = torch.autograd.grad(scalar, places, create_graph=True, allow_unused=True)
    # Without a graph of its own, the slope is one number wherever the layer's output moves.
    bending = {name: s for name, s in zip(names, slopes, strict=True) if s is not None and s.requires_grad}
    once = {name for name, slope in bending.items() if _stops(slope)}
    if not bending:
        return Tails(set(), once)
    curved = torch.autograd.grad(
        list(bending.values()),
        places,
        [normal(name, s.shape) for name, s in bending.items()],
        retain_graph=True,
        allow_unused=True,
    )
    # NaN where the logits are finite (0 · inf in a derivative) is not 0 either.
    smooth = {
        name
        for name, c in zip(names, curved, strict=True)
        if c is not None and bool((c.reshape(n, -1)[finite] != 0).any())
    }
    return Tails(smooth - once, once)


def _stops(slope: Tensor) -> bool:
    """Whether a function that refuses a second derivative is part of the slope.

    Autograd raises only when the walk meets the place where such a function stands in the graph; the ways that lead
    through it are missing without a word, and what is missing would be taken for 0.
    """
    seen: set[Node] = set()
    waiting = [slope.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name().rpartition("::")[2] in ("Error", "NotImplemented"):
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False
