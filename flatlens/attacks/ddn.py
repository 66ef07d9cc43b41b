"""Decoupled direction and norm (Rony et al. 2019, arXiv 1811.09600): adversarial inputs of minimal l2 norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from flatlens.attacks.balls import ball, column
from flatlens.attacks.best import Best
from flatlens.attacks.gradient import Target, check_counts, is_above
from flatlens.attacks.objectives import fooled, objective
from flatlens.errors import AttackError
from flatlens.records.schema import BEST
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim

LAST_STEP = 0.01
"""The step size falls to this share of the first along half a cosine."""


@dataclass(frozen=True)
class DDN:
    """Searches the decision boundary from both sides: direction by the gradient, norm by success.

    δ ← δ + α · g/‖g‖, then δ ← ε · δ/‖δ‖ with ε ← (1 − γ)·ε where the point before was adversarial, else (1 + γ)·ε;
    clipped to the bounds; α falls from ``step_size`` to a hundredth of it along a cosine. There is no radius to give.

    The iterates are yielded as they come; then once more, as a pass of kind ``best``, the nearest adversarial one:
    the attack's result. Where none was adversarial it is the last iterate.

    Args:
        steps: gradient steps, ≥ 1; published with 100, 300 and 1,000.
        step_size: α of the first step, in units of the input; 1 as published.
        gamma: by what share ε grows or shrinks in a step, in (0, 1); 0.05 as published.
        init_norm: ε at the start; 1 as published.
        target: ``None``, a label, ``next``, ``random`` or ``least-likely``.
        objective: what the direction ascends: ``ce`` as published, ``dlr`` or ``margin``. Between several classes
            that are equally near, ce pulls to all of them at once; margin aims at one, and lands nearer there.
    """

    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    init_norm: float = 1.0
    target: Target = None
    objective: str = "ce"

    norm: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        check_counts(self.steps, 1)
        objective(self.objective)
        for name in ("step_size", "init_norm"):
            if not (is_above(getattr(self, name), 0) and math.isfinite(getattr(self, name))):
                raise AttackError(f"{name} = {getattr(self, name)}: needs a number above 0, for example 1")
        if not (is_above(self.gamma, 0) and self.gamma < 1):
            raise AttackError(f"gamma = {self.gamma}: needs a number between 0 and 1, for example 0.05")

    @property
    def length(self) -> int:
        """Iterates that are yielded after the clean input."""
        return self.steps

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, each iterate, and then the nearest adversarial one."""
        ascends, l2 = objective(self.objective, batch.target), ball("l2")
        result = Best(batch.x)
        here = victim(batch.x, batch.y)
        delta = torch.zeros_like(batch.x)
        eps = torch.full_like(batch.x.flatten(1)[:, 0], self.init_norm)
        low, high = victim.bounds
        # No point of the bounds is further away than this.
        furthest = l2.size(torch.maximum(batch.x - low, high - batch.x))
        for step in range(self.steps + 1):
            yield here
            success = fooled(here, batch.target)
            # Among points that are not adversarial there is no nearest: the score of the last one is the highest.
            score = torch.where(success, -l2.size(here.x.detach() - batch.x), torch.full_like(eps, step))
            result.see(here.x, score, success)
            if step == self.steps:
                break
            cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
            alpha = self.step_size * (LAST_STEP + (1 - LAST_STEP) * cosine)
            delta = delta + alpha * self._direction(here.grad(ascends), batch, rng, step)
            eps = torch.where(success, eps * (1 - self.gamma), eps * (1 + self.gamma)).minimum(furthest)
            delta = delta * column(eps / l2.size(delta).clamp(min=torch.finfo(eps.dtype).tiny), delta)
            x = (batch.x + delta).clamp(*victim.bounds)
            # What the bounds take away is gone: the next step starts from the point that was evaluated.
            delta = x - batch.x
            here = victim(x, batch.y, final=step == self.steps - 1)
        found = victim(result.x, batch.y, final=True)
        found.kind = BEST
        yield found

    def _direction(self, gradient: torch.Tensor, batch: Batch, rng: Noise, step: int) -> torch.Tensor:
        """The gradient at length 1; a random direction where it is exactly 0, as published."""
        size = gradient.flatten(1).norm(dim=1)
        unit = gradient / column(torch.where(size > 0, size, 1), gradient)
        if bool((size == 0).any()):
            noise = rng.normal(batch.ids, batch.x, f"zero-gradient-{step}")
            unit = torch.where(column(size == 0, unit), noise / column(ball("l2").size(noise), noise), unit)
        return unit
