"""Paths that are no attack, walked beside one.

Any path that crosses a decision boundary confidently has a valley: claims about attacks stand beside these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from flatlens.attacks.balls import ball
from flatlens.errors import AttackError
from flatlens.forward import Batch, Forward, Victim
from flatlens.randomness import Noise


@dataclass(frozen=True)
class LineToOtherClass:
    """The straight line from the input to a clean image of another class, in ``steps`` equal steps."""

    steps: int = 40

    @property
    def length(self) -> int:
        """Points after the clean input."""
        return self.steps

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Forward]:
        """Yield x + (t / T) · (other − x), t = 0 … T."""
        if batch.other is None:
            raise AttackError("the line to another class needs data of at least two classes")
        yield from _ray(victim, batch, batch.other - batch.x, self.steps)


@dataclass(frozen=True)
class GaussianNoise:
    """A ray of Gaussian noise of the norm eps at its end, in ``steps`` equal steps, clipped to the bounds."""

    eps: float = 8 / 255
    norm: str = "linf"
    steps: int = 40

    @property
    def length(self) -> int:
        """Points after the clean input."""
        return self.steps

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Forward]:
        """Yield the point of the bounds that is nearest to x + (t / T) · δ, ‖δ‖ = eps, t = 0 … T."""
        noise = rng.normal(batch.ids, batch.x, "gaussian-noise")
        size = ball(self.norm).size(noise)
        yield from _ray(victim, batch, self.eps * noise / size.view(-1, *[1] * (noise.dim() - 1)), self.steps)


def _ray(victim: Victim, batch: Batch, delta: Tensor, steps: int) -> Iterator[Forward]:
    for t in range(steps + 1):
        yield victim((batch.x + t / steps * delta).clamp(*victim.bounds), batch.y, final=True)
