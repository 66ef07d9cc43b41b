"""The algebraically largest eigenvalues of many symmetric matrices at once, by Lanczos with full reorthogonalisation.

Each sample has a matrix and directions of its own, and one Hessian-vector product serves all. Power iteration would
find the eigenvalue of largest modulus, which may be a negative one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.victims.precision import wide

ITERATIONS = 60
ROUNDINGS = 10
"""Of a product, in units of the matrix' norm and the dtype's precision."""


class Krylov(NamedTuple):
    """What n Lanczos runs found.

    Attributes:
        value: the largest eigenvalues, ``[n]`` float64; NaN where a product was not finite.
        error: how far off each may be, ``[n]``: what the iteration left, and the rounding of products with a matrix
            whose norm may be much larger.
        basis: orthonormal vectors, ``[n, j, d]``; 0 from where a run was over.
    """

    value: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    basis: Float[Tensor, "n j d"]


def lanczos(
    apply: Callable[[Tensor], Tensor],
    first: Float[Tensor, "n d"],
    *,
    tolerance: float,
    least: int = 1,
    most: int = ITERATIONS,
) -> Krylov:
    """Run until the largest eigenvalue of each of n symmetric matrices has settled.

    Args:
        apply: multiplies n vectors ``[n, d]``, each by its own matrix.
        first: where to begin.
        tolerance: its square is the relative error of the eigenvalue that is aimed at: the error is about r² / ‖A‖,
            with r the residual ‖A v − λ v‖.
        least: iterations to make in any case, unless a run has seen its whole space.
        most: iterations to stop after; never more than d.
    """
    n, d = first.shape
    most = min(most, d)
    eps, tiny = torch.finfo(first.dtype).eps, torch.finfo(first.dtype).tiny
    q = first / first.norm(dim=1, keepdim=True).clamp(min=tiny)
    basis = first.new_empty(n, 0, d)
    t = wide(first.new_zeros(n, most + 1, most + 1))
    value = wide(first.new_full((n,), torch.nan))
    error = value
    over = torch.zeros(n, dtype=torch.bool, device=value.device)
    for j in range(most):
        basis = torch.cat([basis, q.unsqueeze(1)], 1)
        image = apply(q)
        t[:, j, j] = wide((image * q).sum(1))
        # Twice is enough (Kahan, in Parlett 1980): once leaves rounding of the size of what was removed.
        for _ in range(2):
            image = image - ((basis @ image.unsqueeze(2)).transpose(1, 2) @ basis).squeeze(1)
        beta = image.norm(dim=1)
        block = t[:, : j + 1, : j + 1]
        finite = torch.isfinite(block).flatten(1).all(1)
        values, vectors = torch.linalg.eigh(torch.where(finite.reshape(-1, 1, 1), block, 0.0))
        value = torch.where(over, value, torch.where(finite, values[:, -1], torch.nan))
        size = values.abs().amax(1).clamp(min=tiny)
        left = wide(beta) * vectors[:, -1, -1].abs()
        error = torch.where(over, error, left.square() / size + ROUNDINGS * eps * values.abs().amax(1))
        # A vanishing β closes the space: what the first vector can reach has been seen.
        over |= ~finite | (wide(beta) <= 30 * eps * size)
        # Relative to the eigenvalue, down to what rounding leaves: it may be small beside negative ones.
        settled = left <= tolerance * (size * values[:, -1].abs().clamp(min=30 * eps * size)).sqrt()
        # Beyond `least`, every run ends by itself: a sample's numbers do not depend on its batch.
        over |= settled & (j + 1 >= least)
        if over.all():
            break
        t[:, j, j + 1] = t[:, j + 1, j] = torch.where(over, 0.0, wide(beta))
        q = torch.where(over.unsqueeze(1).to(q.device), 0.0, image / beta.clamp(min=tiny).unsqueeze(1))
    return Krylov(value, error, basis)
