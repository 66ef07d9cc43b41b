"""The curvature of a loss with respect to the logits as a sum of outer products, one backward pass each.

∂²ℓ/∂z² = Σ_c ω_c d_c d_cᵀ. For cross-entropy, A = diag(p) − p pᵀ has a Cholesky factor in closed form
(Tanabe & Sagae 1992). With the classes by falling probability and Q_j = Σ_{i>j} p_i,

    d_j = e_j − Σ_{i>j} (p_i / Q_j) e_i,    ω_j = p_j Q_j / Q_{j−1},    j = 1 … K − 1,

class j against the average of all less probable ones. It has one direction fewer than classes, every d has a
length between 1 and √2 (a float32 backward pass never underflows), every number is a product of sums of terms of
one sign, taken from logarithms (right for any logit gap), and what is left after m directions is
Q_m · (diag(r) − r rᵀ), r = p / Q_m: the same matrix of a softmax over the rest, which can be sampled without bias.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flatlens.errors import UsageError, unknown
from flatlens.hessian.softmax import softmax
from flatlens.victims.precision import wide, wide_device

LOSSES = ("cross-entropy", "mse", "margin")

# exp(−1e5) is 0 in float64: a class whose logit is −inf gets probability 0 and stays out of every sum.
NEVER = -1e5


class Directions(NamedTuple):
    """∂ℓ/∂z and ∂²ℓ/∂z² of one loss at n points, float64.

    Attributes:
        vectors: d_c, ``[n, m + s, K]``; the last s are samples of the rest.
        weight: ω_c ≥ 0, ``[n, m + s]``.
        gradient: ∂ℓ/∂z = Σ_c gradient_c d_c, ``[n, m + s]``.
        residual: ∂ℓ/∂z itself, ``[n, K]``.
        samples: s, how many of the directions are samples; 0 where the sum is exact.
    """

    vectors: Float[Tensor, "n m K"]
    weight: Float[Tensor, "n m"]
    gradient: Float[Tensor, "n m"]
    residual: Float[Tensor, "n K"]
    samples: int


def directions(
    loss: str,
    logits: Float[Tensor, "n K"],
    y: Int[Tensor, " n"],
    *,
    exact_classes: int,
    samples: int,
    generator: torch.Generator,
) -> Directions:
    """The directions of one of `LOSSES`.

    Args:
        loss: ``cross-entropy``; ``mse``, ℓ = Σ_k (z_k − [k = y])², a sum and not a mean, so that ∂²ℓ/∂z² = 2 I; or
            ``margin``, ℓ = max_{j≠y} z_j − z_y, which has no curvature in the logits.
        logits: of any dtype; they are widened here.
        y: labels.
        exact_classes: up to this many directions are taken exactly, the most probable classes first.
        samples: how many draws stand for the rest; none where `exhausts` says that all directions are taken.
        generator: on the CPU; the same draws serve all n points, so that a path shows landscape and not noise.
    """
    z, y = wide(logits.detach()), y.to(wide_device(logits.device))
    label = F.one_hot(y, z.shape[1]).to(z)
    if loss == "margin":
        rival = F.one_hot(torch.where(label > 0, -torch.inf, z).argmax(1), z.shape[1]).to(z)
        vector, one = rival - label, z.new_ones(len(z), 1)
        return Directions(vector.unsqueeze(1), 0 * one, one, vector + 0 * z, 0)
    m = exhausts(loss, z.shape[1], exact_classes, samples)
    draws = torch.rand(samples if m is None else 0, generator=generator, dtype=torch.float64).to(z.device)
    found = _mse(z, label, m or exact_classes, draws) if loss == "mse" else _softmax(z, y, m or exact_classes, draws)
    return found if m is not None else _with_gradient(found)


def check_loss(loss: str) -> None:
    """Raise UsageError for a loss that is none of `LOSSES`."""
    if loss not in LOSSES:
        raise UsageError(unknown("loss", loss, LOSSES))


def exhausts(loss: str, classes: int, exact_classes: int, samples: int) -> int | None:
    """How many directions give the whole of ∂²ℓ/∂z², or None where it is cheaper to sample the rest."""
    rank = {"cross-entropy": classes - 1, "mse": classes, "margin": 1}[loss]
    return rank if rank <= exact_classes + samples else None


def _softmax(z: Tensor, y: Tensor, m: int, draws: Tensor) -> Directions:
    soft = softmax(z)
    label = F.one_hot(y, z.shape[1]).to(z)
    residual = torch.where(label > 0, -soft.q, soft.p)
    log_p, order = torch.log_softmax(z, 1).clamp(min=NEVER).sort(dim=1, descending=True)
    # log Q_{j−1} for j = 1 … K.
    log_q = log_p.flip(1).logcumsumexp(1).flip(1)
    weight = torch.exp(log_p[:, :m] + log_q[:, 1 : m + 1] - log_q[:, :m])
    rest = torch.exp((log_p.unsqueeze(1) - log_q[:, 1 : m + 1].unsqueeze(2)).clamp(max=0))
    vectors = torch.eye(m, z.shape[1], dtype=z.dtype, device=z.device) - rest.triu(1)
    if len(draws):
        tail = torch.exp(log_p - log_q[:, m : m + 1])
        tail[:, :m] = 0
        share = tail.cumsum(1)
        # The last class with a share that is not 0 takes what rounding leaves over.
        drawn = torch.searchsorted(share, (draws * share[:, -1:]).contiguous(), right=True).clamp(max=z.shape[1] - 1)
        vectors = torch.cat([vectors, F.one_hot(drawn, z.shape[1]).to(z) - tail.unsqueeze(1)], 1)
        mass = torch.exp(log_q[:, m : m + 1]) / len(draws)
        weight = torch.cat([weight, mass.expand(-1, len(draws))], 1)
    # p − e_y in these directions, y at rank r: p_j / Q_{j−1} before r, −Q_r / Q_{r−1} at r, 0 after.
    rank = (order == y.unsqueeze(1)).double().argmax(1, keepdim=True)
    place = torch.arange(weight.shape[1], device=z.device)
    ahead = torch.exp(log_p - log_q)[:, :m]
    at = -torch.exp(log_q[:, 1 : m + 1] - log_q[:, :m])
    gradient = F.pad(ahead, (0, len(draws))) * (place < rank) + F.pad(at, (0, len(draws))) * (place == rank)
    vectors = torch.zeros_like(vectors).scatter(2, order.unsqueeze(1).expand_as(vectors), vectors)
    # A logit of −inf is a class that cannot be; NaN and +inf are no prediction.
    blank = torch.where((torch.isnan(z) | (z == torch.inf)).any(1, keepdim=True), torch.nan, 1.0)
    return Directions(vectors, weight * blank, gradient * blank, residual * blank, len(draws))


def _mse(z: Tensor, label: Tensor, m: int, draws: Tensor) -> Directions:
    n, classes = z.shape
    order = z.argsort(dim=1, descending=True)
    drawn = m + (draws * (classes - m)).long().clamp(max=classes - m - 1) if len(draws) else draws.long()
    picked = torch.cat([order[:, :m], order[:, drawn]], 1)
    residual = 2 * (z - label)
    weight = torch.full((m + len(draws),), 2.0, dtype=z.dtype, device=z.device)
    weight[m:] *= (classes - m) / max(len(draws), 1)
    return Directions(
        F.one_hot(picked, classes).to(z),
        weight.expand(n, -1),
        residual.gather(1, picked),
        residual,
        len(draws),
    )


def _with_gradient(found: Directions) -> Directions:
    """One more direction, of weight 0, along ∂ℓ/∂z, which the m most probable classes need not span."""
    norm = found.residual.norm(dim=1, keepdim=True)
    unit = found.residual / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    return Directions(
        torch.cat([unit.unsqueeze(1), found.vectors], 1),
        F.pad(found.weight, (1, 0)),
        F.pad(norm, (0, found.weight.shape[1])),
        found.residual,
        found.samples,
    )
