"""The axis ``perturb_weights``: how the weights are made worse before the gradient that steps is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from flatlens.specs.options import Named


class WeightStep(Protocol):
    """A perturbation of all weights by their gradients."""

    def starts(self, epoch: int) -> bool:
        """Whether it is made in this epoch, counted from 0."""

    def deltas(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """What is added to each parameter; 0 where its gradient is 0."""


@dataclass(frozen=True)
class SAM:
    """δ = ρ g / ‖g‖, over all weights together (Foret et al. 2021, arXiv 2010.01412)."""

    rho: float = 0.05

    def starts(self, epoch: int) -> bool:
        """Always."""
        return True

    def deltas(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """‖δ‖ = ρ."""
        size = _length(gradients)
        return [_scaled(g, self.rho, size) for g in gradients]


@dataclass(frozen=True)
class ASAM:
    """δ = ρ w² g / ‖abs(w) g‖: each weight by its own size (Kwon et al. 2021, arXiv 2102.11600); 0 at w = 0."""

    rho: float = 0.5

    def starts(self, epoch: int) -> bool:
        """Always."""
        return True

    def deltas(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """‖δ / abs(w)‖ = ρ."""
        sized = [w.detach().abs() * g for w, g in zip(parameters, gradients, strict=True)]
        size = _length(sized)
        return [w.detach().abs() * _scaled(s, self.rho, size) for w, s in zip(parameters, sized, strict=True)]


@dataclass(frozen=True)
class AWP:
    """δ = γ ‖w‖ g / ‖g‖ for each matrix by itself, 0 for vectors (Wu et al. 2020, arXiv 2004.05884).

    The published code takes the direction from a copy of the model and one plain step of a second optimiser, scaled
    anew for each layer: that is this.
    """

    gamma: float = 0.005
    warmup: int = 0

    def starts(self, epoch: int) -> bool:
        """After the warm-up."""
        return epoch >= self.warmup

    def deltas(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """‖δ‖ = γ ‖w‖ for every matrix."""
        return [
            _scaled(g, self.gamma * w.detach().norm(), g.norm()) if w.dim() > 1 else torch.zeros_like(g)
            for w, g in zip(parameters, gradients, strict=True)
        ]


def _length(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.norm() for t in tensors]).norm()


def _scaled(tensor: Tensor, length: float | Tensor, size: Tensor) -> Tensor:
    """``tensor`` scaled by length / size; 0 where the size is 0."""
    return tensor * torch.where(size > 0, length / torch.where(size > 0, size, 1), 0)


@contextmanager
def moved(model: nn.Module, parameters: Sequence[nn.Parameter], deltas: Sequence[Tensor]) -> Iterator[None]:
    """The model at weights + deltas; afterwards the weights are what they were, to the bit, whatever happens inside.

    So are all buffers: the running statistics of norms move once a step, by the pass before.
    """
    kept = [*parameters, *model.buffers()]
    before = [tensor.detach().clone() for tensor in kept]
    try:
        with torch.no_grad():
            for parameter, delta in zip(parameters, deltas, strict=True):
                parameter.add_(delta)
        yield
    finally:
        with torch.no_grad():
            for tensor, old in zip(kept, before, strict=True):
                tensor.copy_(old)


def named(chosen: Named) -> WeightStep:
    """The perturbation of a name on the axis, with its options."""
    made: dict[str, Callable[..., WeightStep]] = {"sam": SAM, "asam": ASAM, "awp": AWP}
    return made[chosen.name](**chosen.options)
