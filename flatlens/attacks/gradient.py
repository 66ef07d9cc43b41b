"""Attacks that follow the input gradient inside a norm ball: FGSM, BIM, PGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from flatlens.attacks.balls import ball
from flatlens.errors import AttackError
from flatlens.forward import Batch, Forward, Victim
from flatlens.randomness import Noise

Target = int | str | None
"""A label, ``next``, ``random``, ``least-likely``, or None for an untargeted attack."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083).

    x ← Π(x + step_size · steepest(∂S/∂x)), Π the projection into the ball and the bounds; S is the cross-entropy of
    the label, or, where the batch has targets, minus that of the target.

    Args:
        eps: radius of the ball, in units of the input.
        norm: ``linf`` or ``l2``.
        steps: gradient steps, ≥ 1.
        step_size: length of a step in the norm; 2.5 · eps / steps when left out.
        random_start: start from a random point of the ball; the clean input is still yielded first.
        target: ``None``, a label, ``next``, ``random`` or ``least-likely``.
    """

    eps: float = 8 / 255
    norm: str = "linf"
    steps: int = 40
    step_size: float | None = None
    random_start: bool = False
    target: Target = None

    def __post_init__(self) -> None:
        ball(self.norm)
        if not (self.eps > 0 and math.isfinite(self.eps)):
            raise AttackError(f"eps = {self.eps}: needs a number above 0, for example 8/255")
        if self.steps < 1:
            raise AttackError(f"steps = {self.steps}: needs a whole number of at least 1")
        if not self._step > 0:
            raise AttackError(f"step_size = {self.step_size}: needs a number above 0, for example 2/255")

    @property
    def _step(self) -> float:
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    @property
    def length(self) -> int:
        """Iterates that are yielded after the clean input."""
        return self.steps + self.random_start

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Forward]:
        """Yield the clean input, then each iterate; the last one is evaluated, not attacked."""
        # From a random start the clean input's gradient is never asked for.
        here = victim(batch.x, batch.y, final=self.random_start)
        yield here
        if self.random_start:
            here = victim(self._project(batch.x + self._random(batch, rng), batch.x, victim), batch.y)
            yield here
        for step in range(self.steps):
            x = here.x.detach() + self._step * ball(self.norm).steepest(here.grad(_objective(batch.target)))
            here = victim(self._project(x, batch.x, victim), batch.y, final=step == self.steps - 1)
            yield here

    def _project(self, x: Tensor, origin: Tensor, victim: Victim) -> Tensor:
        return (origin + ball(self.norm).shrink(x - origin, self.eps)).clamp(*victim.bounds)

    def _random(self, batch: Batch, rng: Noise) -> Tensor:
        if self.norm == "linf":
            return self.eps * rng.uniform(batch.ids, batch.x, "random-start")
        # Uniform in the l2 ball: a random direction, and a radius whose volume is uniform.
        direction = ball(self.norm).steepest(rng.normal(batch.ids, batch.x, "random-start"))
        radius = (rng.uniform(batch.ids, batch.x.flatten(1)[:, :1], "random-radius") + 1) / 2
        radius = radius ** (1 / batch.x[0].numel())
        return self.eps * direction * radius.view(-1, *[1] * (batch.x.dim() - 1))


def BIM(  # noqa: N802 -- named as its class would be
    eps: float = 8 / 255, norm: str = "linf", steps: int = 10, step_size: float | None = None, target: Target = None
) -> PGD:
    """Basic iterative method (Kurakin et al. 2017, arXiv 1607.02533): PGD in steps of eps / steps."""
    return PGD(eps, norm, steps, step_size or eps / max(steps, 1), target=target)


def FGSM(eps: float = 8 / 255, norm: str = "linf", target: Target = None) -> PGD:  # noqa: N802
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step of eps."""
    return PGD(eps, norm, steps=1, step_size=eps, target=target)


def _objective(target: Tensor | None) -> Callable[[Forward], Tensor]:
    """What the attack ascends: the loss of the label, or log p(target)."""
    if target is None:
        return lambda here: here.loss
    return lambda here: -F.cross_entropy(here.logits, target, reduction="none")
