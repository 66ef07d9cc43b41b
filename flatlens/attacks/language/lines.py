"""Controls of soft slots: the straight line to what the attack found, and steps in random directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from flatlens.attacks.language import begin, log_likelihood
from flatlens.attacks.language.embedding import Embedding, _unit
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass

if TYPE_CHECKING:
    from flatlens.victims.tokens import TokenVictim


@dataclass(frozen=True)
class LineToEnd:
    """The straight line from the start to the attack's own result, in as many steps.

    Args:
        steps: of the path.
    """

    steps: int = 100

    norm = None
    discrete = False

    @property
    def length(self) -> int:
        """Iterates that are yielded after the start."""
        return self.steps

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the points of the line."""
        assert batch.end is not None
        first, _ = begin(batch, tokens=False)
        for step in range(first, self.steps + 1):
            point = batch.x + (batch.end - batch.x) * (step / self.steps)
            yield victim(batch.tokens if step == 0 and batch.tokens is not None else point, batch.y, final=True)


@dataclass(frozen=True)
class RandomDirection(Embedding):
    """The embedding attack's steps along random directions, drawn anew at each step."""

    def direction(self, here: Pass, batch: Batch, rng: Noise, step: int) -> Tensor:
        """A random direction of length 1 for each place."""
        here.grad(log_likelihood)  # for the columns beside the attack's
        return _unit(rng.normal(batch.ids, here.x.detach(), f"direction {step}"))
