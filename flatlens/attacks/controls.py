"""Paths that are no attack, walked beside one.

Any path that crosses a decision boundary confidently has a valley: claims about attacks stand beside these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from flatlens.attacks.balls import ball, column, times
from flatlens.attacks.gradient import plain_eps, radius
from flatlens.errors import AttackError
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim


@dataclass(frozen=True)
class LineToOtherClass:
    """The straight line from the input to a clean image of another class, in ``steps`` equal steps."""

    steps: int = 40

    @property
    def length(self) -> int:
        """Points after the clean input."""
        return self.steps

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield x + (t / T) · (other − x), t = 0 … T."""
        if batch.other is None:
            raise AttackError("the line to another class needs data of at least two classes")
        yield from _ray(victim, batch, batch.other - batch.x, self.steps)


@dataclass(frozen=True)
class LineToEnd:
    """The straight line from the input to the attack's own result, in ``steps`` equal steps.

    What differs between it and the attack is owed to the attack's way, not to where it leads.
    """

    steps: int = 40

    @property
    def length(self) -> int:
        """Points after the clean input."""
        return self.steps

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield x + (t / T) · (end − x), t = 0 … T."""
        if batch.end is None:
            raise AttackError("the line to the end needs an attack beside it; name it as a control")
        yield from _ray(victim, batch, batch.end - batch.x, self.steps)


@dataclass(frozen=True)
class _NoiseRay:
    """A ray of noise of the norm eps at its end, in ``steps`` equal steps, clipped to the bounds."""

    eps: float | Sequence[float] | Tensor = 8 / 255
    norm: str = "linf"
    steps: int = 40

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", plain_eps(self.eps))

    @property
    def length(self) -> int:
        """Points after the clean input."""
        return self.steps

    def _walk(self, victim: Victim, batch: Batch, noise: Tensor) -> Iterator[Pass]:
        delta = times(radius(self.eps, batch), noise / column(ball(self.norm).size(noise), noise))
        yield from _ray(victim, batch, delta, self.steps)


class GaussianNoise(_NoiseRay):
    """A ray of Gaussian noise of the norm eps at its end, in ``steps`` equal steps, clipped to the bounds."""

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the point of the bounds that is nearest to x + (t / T) · δ, ‖δ‖ = eps, t = 0 … T."""
        return self._walk(victim, batch, rng.normal(batch.ids, batch.x, "gaussian-noise"))


class UniformNoise(_NoiseRay):
    """A ray of uniform noise of the norm eps at its end, in ``steps`` equal steps, clipped to the bounds.

    Each coordinate is drawn from [−1, 1); then all are scaled to the norm.
    """

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the point of the bounds that is nearest to x + (t / T) · δ, ‖δ‖ = eps, t = 0 … T."""
        return self._walk(victim, batch, rng.uniform(batch.ids, batch.x, "uniform-noise"))


@dataclass(frozen=True)
class RandomSigns:
    """A walk with the attack's steps in random directions, projected as the attack is.

    A step goes where PGD would go if the gradient were white noise: random signs in linf, a random direction in l2,
    a few random coordinates in l1.
    """

    eps: float | Sequence[float] | Tensor = 8 / 255
    norm: str = "linf"
    steps: int = 40
    step_size: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", plain_eps(self.eps))

    @property
    def length(self) -> int:
        """Points after the clean input."""
        return self.steps

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, then each point of the walk."""
        within, eps = ball(self.norm), radius(self.eps, batch)
        length = 2.5 * eps / self.steps if self.step_size is None else self.step_size
        x = batch.x
        yield victim(x, batch.y, final=True)
        for step in range(self.steps):
            noise = rng.normal(batch.ids, batch.x, f"random-signs-{step}")
            x = within.project(x + times(length, within.steepest(noise)), batch.x, eps, victim.bounds)
            yield victim(x, batch.y, final=True)


def _ray(victim: Victim, batch: Batch, delta: Tensor, steps: int) -> Iterator[Pass]:
    # As it is: a clean input may lie outside of the bounds, and 0 · inf is none.
    yield victim(batch.x, batch.y, final=True)
    for t in range(1, steps + 1):
        yield victim((batch.x + t / steps * delta).clamp(*victim.bounds), batch.y, final=True)
