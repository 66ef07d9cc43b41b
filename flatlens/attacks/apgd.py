"""Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): PGD with momentum that halves its steps when it gets stuck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flatlens.attacks.balls import Radius, ball, column, times
from flatlens.attacks.best import Best
from flatlens.attacks.gradient import Target, check_counts, plain_eps, radius
from flatlens.attacks.objectives import fooled, objective
from flatlens.errors import AttackError
from flatlens.records.schema import BEST
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim

MOMENTUM = 0.75
RHO = 0.75
"""A step size is halved when less than this share of the steps since the last checkpoint raised the objective."""
FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06
"""Checkpoints, as shares of the steps: the first period, by how much each is shorter, and the shortest."""


@dataclass(frozen=True)
class APGD:
    """Auto-PGD on one objective.

    z = Π(x + η · steepest(g)), x ← Π(x + α (z − x) + (1 − α) (x − x_before)), α = 0.75, η = 2·eps at first. At each
    checkpoint η is halved, and the path goes on from its best point, for those samples on which less than ρ = 0.75
    of the steps raised the objective, or whose best value has not risen since a checkpoint at which η was kept.

    The iterates are yielded as they come; then once more the best point, as a pass of kind ``best``: a point that
    fools the model before one that does not, then the highest objective. It is the attack's result.

    Args:
        eps: radius of the ball, in units of the input; one number, or one for each sample.
        norm: ``linf`` or ``l2``.
        steps: gradient steps, 100 as published.
        objective: ``ce``, ``dlr`` or ``margin``.
        target: ``None``, a label, ``next``, ``random`` or ``least-likely``.
        restarts: runs from new random starts; each is a path of its own in the tables.
        targets: 0, or as published for APGD-T 9: so many runs per restart, each aimed at another class (the most
            probable wrong one first), while success stays any label but the true one.
    """

    eps: float | Sequence[float] | Tensor = 8 / 255
    norm: str = "linf"
    steps: int = 100
    objective: str = "ce"
    target: Target = None
    restarts: int = 1
    targets: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", plain_eps(self.eps))
        if self.norm == "l1":
            raise AttackError("apgd has no norm 'l1'; there are: linf, l2. For l1 use pgd")
        ball(self.norm)
        objective(self.objective)
        check_counts(self.steps, self.restarts)
        if not isinstance(self.targets, Integral) or self.targets < 0:
            raise AttackError(f"targets = {self.targets}: needs a whole number of at least 0, for example 9")
        if self.targets and self.target is not None:
            raise AttackError(f"target = {self.target}: APGD-T chooses its targets itself; use apgd-ce or apgd-dlr")

    @property
    def name(self) -> str:
        """As on the command line."""
        if self.objective == "margin":
            return "apgd"
        return "apgd-t" if self.targets else f"apgd-{self.objective}"

    @property
    def length(self) -> int:
        """Iterates that are yielded after the clean input: the random start and the steps."""
        return self.steps + 1

    def runs(self, classes: int) -> int:
        """How often the attack is run: restarts × target classes."""
        return self.restarts * (min(self.targets, classes - 1) or 1)

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, the random start, each iterate, and then the best point."""
        clean = victim(batch.x, batch.y, final=True)
        yield clean
        aim = batch.target if not self.targets else self._aim(clean, rng.restart)
        ascends, eps = objective(self.objective, aim), radius(self.eps, batch)
        here = victim(self._start(batch, eps, victim, rng), batch.y)
        yield here
        result, best = Best(batch.x), Best(batch.x)
        result.see(clean.x, ascends(clean), fooled(clean, batch.target))
        pace = _Pace(ascends(here).detach(), times(2 * eps, torch.ones_like(pick(batch.x))).flatten(), self.steps)
        x = before = here.x.detach()
        gradient = best_gradient = torch.zeros_like(x)
        for step in range(self.steps + 1):
            value, last = ascends(here).detach(), step == self.steps
            result.see(here.x, value, fooled(here, batch.target))
            improved = value > best.score
            best.see(here.x, value, torch.zeros_like(improved))
            if last:
                break
            gradient = here.grad(ascends)
            best_gradient = torch.where(column(improved, x), gradient, best_gradient)
            if step:
                stuck = pace.look(value, best.score)
                x = torch.where(column(stuck, x), best.x, x)
                gradient = torch.where(column(stuck, x), best_gradient, gradient)
            moved, before = x - before, x
            x = self._step(x, gradient, moved, pace.size, MOMENTUM if step else 1.0, batch.x, eps, victim.bounds)
            here = victim(x, batch.y, final=step == self.steps - 1)
            yield here
        found = victim(result.x, batch.y, final=True)
        found.kind = BEST
        yield found

    def _step(
        self,
        x: Tensor,
        gradient: Tensor,
        moved: Tensor,
        size: Tensor,
        alpha: float,
        origin: Tensor,
        eps: Radius,
        bounds: tuple[float, float],
    ) -> Tensor:
        within = ball(self.norm)
        z = within.project(x + times(size, within.steepest(gradient)), origin, eps, bounds)
        return within.project(x + alpha * (z - x) + (1 - alpha) * moved, origin, eps, bounds)

    def _start(self, batch: Batch, eps: Radius, victim: Victim, rng: Noise) -> Tensor:
        """A random point of the ball's surface, as the published code has it."""
        draw = rng.uniform if self.norm == "linf" else rng.normal
        noise = draw(batch.ids, batch.x, "random-start")
        start = times(eps, noise / column(ball(self.norm).size(noise), noise))
        return ball(self.norm).project(batch.x + start, batch.x, eps, victim.bounds)

    def _aim(self, clean: Pass, run: int) -> Tensor:
        """The class that this run aims at: by the clean logits, the most probable wrong one first."""
        logits = clean.logits.detach()
        order = logits.scatter(1, clean.y.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True)
        return order[:, run % min(self.targets, logits.shape[1] - 1)]


class _Pace:
    """Each sample's step size, halved at checkpoints (Croce & Hein 2020, conditions 1 and 2)."""

    def __init__(self, value: Float[Tensor, " n"], size: Float[Tensor, " n"], steps: int) -> None:
        self.size = size
        self._last = self._best = value
        self._rises = torch.zeros_like(value)
        self._kept = torch.zeros_like(value, dtype=torch.bool)
        self._period, self._since = max(int(FIRST * steps), 1), 0
        self._shorter, self._shortest = max(int(SHORTER * steps), 1), max(int(SHORTEST * steps), 1)

    def look(self, value: Float[Tensor, " n"], best: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """See the objective after a step, and its best so far; return who goes back to the best point."""
        self._rises = self._rises + (value > self._last)
        self._last = value
        self._since += 1
        if self._since < self._period:
            return torch.zeros_like(self._kept)
        stuck = (self._rises <= RHO * self._period) | (self._kept & (self._best >= best))
        self.size = torch.where(stuck, self.size / 2, self.size)
        self._kept, self._best = ~stuck, best
        self._rises, self._since = torch.zeros_like(value), 0
        self._period = max(self._period - self._shorter, self._shortest)
        return stuck


def pick(x: Tensor) -> Tensor:
    """One number of each sample, ``[n, 1]``: for its device and type."""
    return x.flatten(1)[:, :1]


def APGDCE(  # noqa: N802
    eps: float = 8 / 255, norm: str = "linf", steps: int = 100, target: Target = None, restarts: int = 1
) -> APGD:
    """APGD on the cross-entropy (Croce & Hein 2020)."""
    return APGD(eps, norm, steps, "ce", target, restarts)


def APGDDLR(  # noqa: N802
    eps: float = 8 / 255, norm: str = "linf", steps: int = 100, target: Target = None, restarts: int = 1
) -> APGD:
    """APGD on the difference of logits ratio (Croce & Hein 2020); targeted DLR where there is a target."""
    return APGD(eps, norm, steps, "dlr", target, restarts)


def APGDT(  # noqa: N802
    eps: float = 8 / 255, norm: str = "linf", steps: int = 100, restarts: int = 1, targets: int = 9
) -> APGD:
    """APGD-T (Croce & Hein 2020): targeted DLR against each of the 9 most probable wrong classes.

    Every run is made for every sample, also for those that an earlier one fooled: each is a whole path.
    """
    return APGD(eps, norm, steps, "dlr", None, restarts, targets)
