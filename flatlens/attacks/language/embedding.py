"""`Embedding`: the slot's embeddings follow the gradient freely; they need not be those of any text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flatlens.attacks.language import begin, counted, log_likelihood
from flatlens.errors import AttackError
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass

if TYPE_CHECKING:
    from flatlens.victims.tokens import TokenVictim


@dataclass(frozen=True)
class Embedding:
    """Embedding attack (Schwinn et al. 2024, arXiv 2402.09063): each place takes a step of fixed length downhill.

    Args:
        steps: of the path, ≥ 1.
        step_size: length of each place's step, in l2, in mean norms of the embedding's rows.
        ball: how far each place may go from its start, in the same unit; any distance when left out.
    """

    steps: int = 100
    step_size: float = 0.05
    ball: float | None = None

    norm = None
    discrete = False

    def __post_init__(self) -> None:
        counted("steps", self.steps)
        for name in ("step_size", "ball"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise AttackError(f"{name} = {value}: needs a number above 0, in mean norms of the embedding's rows")

    @property
    def length(self) -> int:
        """Iterates that are yielded after the start."""
        return self.steps

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the start, then each iterate."""
        unit = victim.row_norm()
        first, x = begin(batch, tokens=False)
        for step in range(first, self.steps):
            # At the start the slot is text.
            here = victim(batch.tokens if step == 0 and batch.tokens is not None else x, batch.y)
            yield here
            x = here.x.detach() + self.step_size * unit * self.direction(here, batch, rng, step)
            if self.ball is not None:
                x = batch.x + _within(x - batch.x, self.ball * unit)
        yield victim(x, batch.y, final=True)

    def direction(self, here: Pass, batch: Batch, rng: Noise, step: int) -> Tensor:
        """Where each place goes, at length 1: ``[n, S, d]``; 0 where the gradient is."""
        return _unit(here.grad(log_likelihood))


def _unit(vectors: Tensor) -> Tensor:
    norm = vectors.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, vectors / norm, 0.0)


def _within(delta: Tensor, radius: float) -> Tensor:
    norm = delta.norm(dim=-1, keepdim=True)
    return torch.where(norm > radius, delta * (radius / norm), delta)
