"""R_well and R_ill of the features of a batch, to be descended by a whole network: with a graph, and without a scale.

`terms` has them for a matrix S, where a step is preconditioned and needs no scale. A network has no such step, and
R_well and R_ill change with the scale of the features: S is therefore divided by its mean eigenvalue, and their
logarithms are descended, whose gradients are of one size wherever the network is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Term = Callable[[Tensor, Tensor, float], Tensor]


def log_well(x: Float[Tensor, "n d"], ridge: float) -> Float[Tensor, ""]:
    """Log R_well(S), S = XᵀX/n divided by its mean eigenvalue, + ρI; falls as S becomes well conditioned."""
    values = _eigenvalues(x, ridge)
    return torch.log(0.5 * values[-1] ** 2 - 0.5 * (values**2).mean())


def log_ill(x: Float[Tensor, "n d"], ridge: float) -> Float[Tensor, ""]:
    """Log R_ill(S), S as in `log_well`; falls as S becomes ill conditioned."""
    values = _eigenvalues(x, ridge)
    return -torch.log(0.5 * (values**2).mean() - 0.5 * values[0] ** 2)


def _eigenvalues(x: Tensor, ridge: float) -> Tensor:
    """Ascending, in double precision, which not every device has: they are squares, and the smallest ones matter."""
    wide = x.cpu().double()
    k = wide.T @ wide / len(wide)
    if not torch.isfinite(k).all():
        return torch.full((len(k),), torch.nan, dtype=k.dtype)
    # A network that has lost all its features has a mean of 0.
    mean = torch.diagonal(k).mean().clamp(min=torch.finfo(torch.float64).tiny)
    values: Tensor = torch.linalg.eigvalsh(k / mean + ridge * torch.eye(len(k), dtype=k.dtype))
    return values


METHODS: dict[str, Term] = {
    "alg1": lambda primary, harmful, ridge: log_well(primary, ridge) + log_ill(harmful, ridge),
    "r-ill": lambda primary, harmful, ridge: log_ill(harmful, ridge),
}
"""Method -> what is added to the useful task's loss, from the features of a batch of both tasks."""
