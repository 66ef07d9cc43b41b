"""Attacks that follow the input gradient inside a norm ball: FGSM, BIM, MI-FGSM, PGD."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from flatlens.attacks.balls import Radius, ball, column, times
from flatlens.attacks.objectives import objective
from flatlens.errors import AttackError
from flatlens.specs.values import plain, shortened
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim

Target = int | str | None
"""A label, ``next``, ``random``, ``least-likely``, or None for an untargeted attack."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083).

    x ← Π(x + step_size · steepest(g)), Π the projection into the ball and the bounds, g = ∂S/∂x. With a momentum μ,
    g ← μ·g + ∂S/∂x / ‖∂S/∂x‖₁ (MI-FGSM, Dong et al. 2018). In l1, steps change the largest 1 % of those coordinates
    that can still move (SLIDE, Tramèr & Boneh 2019).

    Args:
        eps: radius of the ball, in units of the input; one number, or one for each sample.
        norm: ``linf``, ``l2`` or ``l1``.
        steps: gradient steps, ≥ 1.
        step_size: length of a step in the norm; 2.5 · eps / steps when left out.
        random_start: start from a random point of the ball; the clean input is still yielded first.
        target: ``None``, a label, ``next``, ``random`` or ``least-likely``.
        objective: what is ascended: ``ce``, ``dlr`` or ``margin``, see `flatlens.attacks.objectives`.
        momentum: how much of the last direction is kept, in [0, ∞); 0 is plain PGD.
        restarts: how often the attack is run; each run is a path of its own in the tables. A run without
            ``random_start`` is the same every time.
    """

    eps: float | Sequence[float] | Tensor = 8 / 255
    norm: str = "linf"
    steps: int = 40
    step_size: float | None = None
    random_start: bool = False
    target: Target = None
    objective: str = "ce"
    momentum: float = 0.0
    restarts: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", plain_eps(self.eps))
        ball(self.norm)
        objective(self.objective)
        check_counts(self.steps, self.restarts)
        if self.step_size is not None and not is_above(self.step_size, 0):
            raise AttackError(f"step_size = {self.step_size}: needs a number above 0, for example 2/255")
        if not (is_above(self.momentum, -1) and self.momentum >= 0 and math.isfinite(self.momentum)):
            raise AttackError(f"momentum = {self.momentum}: needs a number of at least 0, for example 1")

    @property
    def length(self) -> int:
        """Iterates that are yielded after the clean input."""
        return self.steps + self.random_start

    def runs(self, classes: int) -> int:
        """How often the attack is run."""
        return self.restarts

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, then each iterate; the last one is evaluated, not attacked."""
        ascends, within = objective(self.objective, batch.target), ball(self.norm)
        eps = radius(self.eps, batch)
        length = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        direction: Tensor | None = None
        # From a random start the clean input's gradient is never asked for.
        here = victim(batch.x, batch.y, final=self.random_start)
        yield here
        if self.random_start:
            start = batch.x + times(eps, random_point(self.norm, batch, rng))
            here = victim(within.project(start, batch.x, eps, victim.bounds), batch.y)
            yield here
        for step in range(self.steps):
            direction = self._accumulate(direction, here.grad(ascends))
            if self.norm == "l1":
                direction = _movable(direction, here.x.detach(), victim.bounds)
            x = here.x.detach() + times(length, within.steepest(direction))
            x = within.project(x, batch.x, eps, victim.bounds)
            here = victim(x, batch.y, final=step == self.steps - 1)
            yield here

    def _accumulate(self, before: Tensor | None, gradient: Tensor) -> Tensor:
        if self.momentum == 0:
            return gradient
        size = gradient.abs().flatten(1).sum(1)
        unit = gradient / column(torch.where(size > 0, size, 1), gradient)
        return unit if before is None else self.momentum * before + unit


def BIM(  # noqa: N802 -- named as its class would be
    eps: float = 8 / 255,
    norm: str = "linf",
    steps: int = 10,
    step_size: float | None = None,
    target: Target = None,
    objective: str = "ce",
) -> PGD:
    """Basic iterative method (Kurakin et al. 2017, arXiv 1607.02533): PGD in steps of eps / steps."""
    step_size = step_size or _share(eps, steps)
    return PGD(eps, norm, steps, step_size, target=target, objective=objective)


def MIFGSM(  # noqa: N802
    eps: float = 8 / 255,
    norm: str = "linf",
    steps: int = 10,
    step_size: float | None = None,
    target: Target = None,
    objective: str = "ce",
    momentum: float = 1.0,
) -> PGD:
    """Momentum iterative FGSM (Dong et al. 2018, arXiv 1710.06081): BIM with a momentum of 1."""
    step_size = step_size or _share(eps, steps)
    return PGD(eps, norm, steps, step_size, target=target, objective=objective, momentum=momentum)


def FGSM(eps: float = 8 / 255, norm: str = "linf", target: Target = None, objective: str = "ce") -> PGD:  # noqa: N802
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step of eps."""
    return PGD(eps, norm, steps=1, step_size=eps, target=target, objective=objective)


def _share(eps: float, steps: int) -> float:
    check_counts(steps, 1)
    found = plain_eps(eps)
    if isinstance(found, tuple):
        raise AttackError(
            f"eps has {len(found)} values, and one step of eps / steps is taken for all; use PGD for these"
        )
    return found / steps


def plain_eps(eps: object) -> float | tuple[float, ...]:
    """Eps as plain data: one number, or one for each sample.

    Raises:
        AttackError: not a number above 0.
    """
    try:
        found = torch.as_tensor(eps, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AttackError(f"eps = {shortened(repr(eps))}: needs a number above 0, for example 8/255") from error
    values: list[float] = [eps] if isinstance(eps, int | float) else found.reshape(-1).tolist()
    for value in values:
        if not (value > 0 and math.isfinite(value)):
            raise AttackError(f"eps = {value}: needs a number above 0, for example 8/255")
    return tuple(values) if found.dim() else values[0]


def is_above(value: object, low: float) -> bool:
    """Whether it is a number, of NumPy's or torch's too, and above ``low``."""
    value = plain(value)
    return isinstance(value, int | float) and value > low


def check_counts(steps: int, restarts: int) -> None:
    """Raise AttackError for steps or restarts that are no whole number, or below 1."""
    for name, value in (("steps", steps), ("restarts", restarts)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise AttackError(f"{name} = {value}: needs a whole number of at least 1")


def radius(eps: float | Sequence[float] | Tensor, batch: Batch) -> Radius:
    """The radius of each sample of a batch, ``[n]``, or the one of all.

    Raises:
        AttackError: there are not as many radii as samples.
    """
    if batch.eps is not None:
        return batch.eps
    if isinstance(eps, int | float):
        return eps
    if len(eps) != len(batch.x):
        raise AttackError(f"eps has {len(eps)} values for {len(batch.x)} samples; give one number, or one per sample")
    return torch.tensor(eps, device=batch.x.device, dtype=batch.x.dtype)


def random_point(norm: str, batch: Batch, rng: Noise) -> Tensor:
    """A point drawn uniformly from the unit ball of a norm, for each sample, ``[n, …]``."""
    if norm == "linf":
        return rng.uniform(batch.ids, batch.x, "random-start")
    if norm == "l2":
        direction = rng.normal(batch.ids, batch.x, "random-start")
    else:
        # Laplace noise has an l1-symmetric density: its direction is uniform on the l1 sphere.
        uniform = rng.uniform(batch.ids, batch.x, "random-start")
        direction = -uniform.sign() * torch.log1p(-uniform.abs())
    # Uniform in volume: the radius to the power of the dimension is uniform.
    share = (rng.uniform(batch.ids, batch.x.flatten(1)[:, :1], "random-radius") + 1) / 2
    length = share.flatten() ** (1 / batch.x[0].numel())
    return direction * column(length / ball(norm).size(direction), direction)


def _movable(gradient: Tensor, x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The gradient, 0 where the coordinate is at a bound already and would leave it."""
    stuck = ((x <= bounds[0]) & (gradient < 0)) | ((x >= bounds[1]) & (gradient > 0))
    return torch.where(stuck, 0, gradient)
