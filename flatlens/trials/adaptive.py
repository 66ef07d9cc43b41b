"""Attacks that know of the detector: they end where κ of the head is what it is at clean inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from flatlens.attacks.balls import ball, column, times
from flatlens.hessian.head import Head
from flatlens.hessian.training import head_flatness
from flatlens.trials.walking import Right
from flatlens.victims.checks import first_input
from flatlens.victims.layers import HEAD
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Batch, Pass, Victim

POINTS, FINER = 64, 16
"""Points of the segment that are looked at; then, around the nearest, so many between its neighbours."""
LOWEST = 1e-300
"""κ below this is taken for this: its logarithm must be finite."""
LAST_STEP = 0.01
"""The last step of the attack by gradient, as a share of the first."""
PENALTY = 1.0
"""λ of the attack by gradient, in nats per squared nat."""

Kappa = Callable[[Pass], Tensor]
"""κ of the head at a pass, ``[n]`` float64."""


class Ended(NamedTuple):
    """Points ``[n, …]``, whether the user's own model is wrong there ``[n]``, and |log₁₀ κ − log₁₀ t| there ``[n]``."""

    x: Tensor
    wrong: Tensor
    decades: Tensor


def log10(kappa: Tensor) -> Tensor:
    """log₁₀ κ, of at least 1e-300."""
    return kappa.clamp(min=LOWEST).log10()


def matched(victim: Victim, batch: Batch, end: Tensor, wanted: Tensor, kappa: Kappa, right: Right) -> Ended:
    """On the segment from the clean input to an attack's end, the flipped point whose κ is nearest to what is wanted.

    Args:
        victim: the model made ready, its head tapped.
        batch: the samples.
        end: what the attack has found, ``[n, …]``.
        wanted: κ that each sample is to have, ``[n]``.
        kappa: measures a pass.
        right: the user's own model's judgement.
    """
    best = Ended(end, ~right(end, batch.y), torch.full_like(wanted, torch.inf))
    at = torch.ones_like(wanted)
    nearest = at.clone()

    def look(share: Tensor) -> None:
        nonlocal best, nearest
        x = batch.x + times(share.to(batch.x.dtype), end - batch.x)
        far = (log10(kappa(victim(x, batch.y, final=True))) - log10(wanted)).abs()
        far = torch.where(right(x, batch.y), torch.inf, far)
        better = far < best.decades
        best = Ended(
            torch.where(column(better, x), x, best.x), best.wrong | better, torch.where(better, far, best.decades)
        )
        nearest = torch.where(better, share, nearest)

    for step in range(1, POINTS + 1):
        look(at * (step / POINTS))
    middle = nearest.clone()
    for step in range(-FINER, FINER + 1):
        if step:
            look((middle + step / FINER / POINTS).clamp(0, 1))
    return best


@contextmanager
def features(victim: Victim) -> Iterator[list[Tensor]]:
    """What the head is given in each pass, with its graph, the last one at the end; taps keep no graph.

    Yields:
        A list that holds the last pass's.
    """
    kept: list[Tensor] = []

    def keep(_: torch.nn.Module, args: tuple[Tensor, ...], given: dict[str, Tensor]) -> None:
        kept[:] = [first_input(args, given)]

    hook = victim.layers[HEAD].module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield kept
    finally:
        hook.remove()


def descended(
    victim: Victim, batch: Batch, start: Ended, eps: float, norm: str, steps: int, wanted: Tensor, right: Right
) -> Ended:
    """Ascend ce − λ (ln κ − ln t)² in the ball, κ of the head in closed form; keep the flipped iterate nearest in κ.

    It begins where the segment has led, for from the clean input κ is a wall: it is largest where classes tie, and the
    penalty keeps the path on this side of it. Steps fall from eps / 10 to a hundredth of that along half a cosine.

    Args:
        victim: the model made ready, its head tapped.
        batch: the samples.
        start: what `matched` has found.
        eps: radius of the ball.
        norm: ``linf`` or ``l2``.
        steps: how many.
        wanted: κ that each sample is to have, ``[n]``.
        right: the user's own model's judgement.
    """
    head = Head(victim.layers[HEAD].module)  # type: ignore[arg-type]
    goal, within = wanted.clamp(min=LOWEST).log(), ball(norm)

    with features(victim) as kept:

        def log_kappa() -> Tensor:
            a = wide(kept[0])
            return (
                head_flatness(torch.nn.functional.linear(a, head.weight, head.bias), a, head.weight)
                .clamp(min=LOWEST)
                .log()
            )

        def ascends(here: Pass) -> Tensor:
            return here.loss.double() - PENALTY * (log_kappa() - goal).square()

        best, x = start, start.x
        for step in range(steps + 1):
            here = victim(x, batch.y, final=step == steps)
            far = (log_kappa().detach() - goal).abs() / math.log(10)
            better = ~right(x, batch.y) & (~best.wrong | (far < best.decades))
            best = Ended(
                torch.where(column(better, x), x.detach(), best.x), best.wrong | better,
                torch.where(better, far, best.decades),
            )  # fmt: skip
            if step < steps:
                length = eps / 10 * (LAST_STEP + (1 - LAST_STEP) * (1 + math.cos(math.pi * step / steps)) / 2)
                moved = x.detach() + times(length, within.steepest(here.grad(ascends)))
                x = within.project(moved, batch.x, eps, victim.bounds)
    return best
