"""The axis ``penalty``: what is added to the loss of each sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flatlens.hessian.training import head_flatness
from flatlens.specs.options import Named
from flatlens.training.losses import cross_entropy
from flatlens.training.passes import Pass

TRAINED_ON, CLEAN = "trained-on", "clean"


class Penalty(Protocol):
    """A penalty on a pass."""

    @property
    def at(self) -> str:
        """At which inputs: those that are trained on, attacked where there is an attack, or the clean ones."""

    @property
    def head(self) -> bool:
        """Whether it needs the head."""

    @property
    def slope(self) -> bool:
        """Whether it needs inputs with a gradient."""

    def __call__(self, model: nn.Module, here: Pass, eps: float) -> Float[Tensor, " n"]:
        """What is added for each sample."""


@dataclass(frozen=True)
class FAM:
    """λ κ: relative flatness of the head, through every weight (`flatlens.hessian.training.head_flatness`)."""

    weight: float = 0.01
    at: str = TRAINED_ON
    head = True
    slope = False

    def __call__(self, model: nn.Module, here: Pass, eps: float) -> Float[Tensor, " n"]:
        """λ κ of each sample."""
        assert here.features is not None and here.head is not None
        return self.weight * head_flatness(here.logits, here.features, here.head.weight)


@dataclass(frozen=True)
class InputGradient:
    """λ ε ‖∂ℓ/∂x‖ in the dual norm: what an attack of radius ε gains to first order (Simon-Gabriel et al. 2019).

    Drucker & LeCun 1992 penalise the same gradient's square, Ross & Doshi-Velez 2018 as well.
    """

    weight: float = 1.0
    norm: str = "linf"
    at = TRAINED_ON
    head = False
    slope = True

    def __call__(self, model: nn.Module, here: Pass, eps: float) -> Float[Tensor, " n"]:
        """λ ε ‖∂ℓ/∂x‖₁ in linf, ‖·‖₂ in l2."""
        loss = cross_entropy(here.logits, here.y).sum()
        (gradient,) = torch.autograd.grad(loss, here.x, create_graph=True)
        flat = gradient.flatten(1)
        if self.norm == "linf":
            return self.weight * eps * flat.abs().sum(1)
        # The root's slope at 0 is infinite, and 0 · ∞ is NaN: where the gradient is 0 the penalty is 0, and its slope.
        square = flat.square().sum(1)
        return self.weight * eps * torch.where(square > 0, square.clamp(min=torch.finfo(square.dtype).tiny).sqrt(), 0)


@dataclass(frozen=True)
class Spectral:
    """½ λ Σ_l σ(W_l)²: squared largest singular values of all weight matrices (Yoshida & Miyato 2017).

    A convolution's weight ``[O, C, …]`` counts as the matrix ``[O, C · …]``, as there.
    """

    weight: float = 0.01
    at = TRAINED_ON
    head = False
    slope = False

    def __call__(self, model: nn.Module, here: Pass, eps: float) -> Float[Tensor, " n"]:
        """The same for all samples."""
        matrices = [p.flatten(1) for p in model.parameters() if p.dim() > 1]
        total = torch.stack([_largest_square(m) for m in matrices]).sum() if matrices else here.logits.new_zeros(())
        return (0.5 * self.weight * total).expand(len(here.logits))


def _largest_square(matrix: Tensor) -> Tensor:
    """σ² of a matrix, by the smaller of its Gram matrices: eigenvalues are cheaper than singular values."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    if not torch.isfinite(gram).all():
        return gram.sum() * torch.nan  # LAPACK would raise an error of its own
    return torch.linalg.eigvalsh(gram)[-1]


def named(chosen: Named, norm: str) -> Penalty:
    """The penalty of a name on the axis, with its options."""
    made: dict[str, Callable[..., Penalty]] = {"fam": FAM, "gradient": InputGradient, "spectral": Spectral}
    return made[chosen.name](**chosen.options, **({"norm": norm} if chosen.name == "gradient" else {}))
