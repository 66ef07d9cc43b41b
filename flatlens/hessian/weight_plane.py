"""The loss and κ of one sample over a plane of the head's weight, in closed form.

The plane is W + s·q âᵀ + t·r âᵀ, with a the head's input and â = a/‖a‖: both directions act on a alone, so that the
logits move by ‖a‖ (s·q + t·r), and everything follows from W, a and the two vectors q and r of the classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flatlens.hessian.softmax import Softmax, cross_entropy, matrix, softmax

PAIRWISE_CLASSES = 4096
"""Up to this many classes the distances between all pairs of class weights are kept."""
EIGH_CLASSES = 1024
"""Of more classes than this, the eigenvectors are those of the most probable ones alone."""
NUMBERS = 2**22
"""Probabilities that are held at a time (32 MiB)."""


class OverPlane(NamedTuple):
    """Κ, the loss in nats, and the logits, at each point of the plane."""

    kappa: Float[Tensor, "t s"]
    loss: Float[Tensor, "t s"]
    logits: Float[Tensor, "t s k"]


def eigenvectors(soft: Softmax) -> Float[Tensor, "k 2"]:
    """The unit eigenvectors of A = diag(p) − p pᵀ for one sample's two largest eigenvalues, in this order.

    With them, q âᵀ are those of the Hessian A ⊗ a aᵀ. The sign is not determined.
    """
    classes = soft.p.shape[1]
    kept = soft.p[0].topk(min(classes, EIGH_CLASSES)).indices.sort().values
    a = matrix(Softmax(soft.p[:, kept], soft.q[:, kept]))[0]
    # At unit scale: in saturation the entries are so small that their squares would underflow.
    vectors = torch.linalg.eigh(a / a.abs().max().clamp(min=torch.finfo(a.dtype).tiny)).eigenvectors
    return a.new_zeros(classes, 2).index_copy(0, kept, vectors[:, -2:].flip(1))


def over_plane(
    weight: Float[Tensor, "k i"],
    bias: Float[Tensor, " k"] | None,
    a: Float[Tensor, " i"],
    label: int,
    q: Float[Tensor, " k"],
    r: Float[Tensor, " k"],
    s: Float[Tensor, " s"],
    t: Float[Tensor, " t"],
    *,
    distances: Float[Tensor, "k k"] | None = None,
) -> OverPlane:
    """Κ and loss at W + s·q âᵀ + t·r âᵀ for all pairs of ``s`` and ``t``; all float64.

    Args:
        weight: W.
        bias: of the head.
        a: the head's input.
        label: of the sample.
        q: the first direction, on the classes.
        r: the second.
        s: how far along the first.
        t: how far along the second.
        distances: ‖w_j − w_k‖², as `squared_distances` gives them; None for very many classes.
    """
    size = a.norm()
    along = weight @ (a / size)
    move = (s.view(1, -1, 1) * q + t.view(-1, 1, 1) * r).flatten(0, 1)
    logits = F.linear(a, weight, bias) + size * move
    across = None
    if distances is not None:
        # What of the distances is not along a, and so does not change over the plane.
        across = (distances - (along.unsqueeze(1) - along).square()).clamp(min=0)
    rest = weight - along.unsqueeze(1) * (a / size)
    spreads = []
    for part, moved in zip(*(x.split(max(1, NUMBERS // len(weight))) for x in (logits, move)), strict=True):
        p = softmax(part).p
        within = _spread(p, rest) if across is None else 0.5 * ((p @ across) * p).sum(1)
        spreads.append(within + _variance(p, along + moved))
    shape = (len(t), len(s))
    loss = cross_entropy(logits, torch.full((len(logits),), label))
    return OverPlane((size.square() * torch.cat(spreads)).view(shape), loss.view(shape), logits.view(*shape, -1))


def squared_distances(weight: Float[Tensor, "k i"]) -> Float[Tensor, "k k"] | None:
    """‖w_j − w_k‖² of all pairs of classes; None where they are too many."""
    if len(weight) > PAIRWISE_CLASSES:
        return None
    return torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").square()


def _variance(p: Float[Tensor, "n k"], values: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Σ p_k (v_k − v̄)². Relative to the most probable class, nothing large is subtracted in saturation."""
    v = values - values.gather(1, p.argmax(1, keepdim=True))
    return (p * (v - (p * v).sum(1, keepdim=True)).square()).sum(1)


def _spread(p: Float[Tensor, "n k"], weight: Float[Tensor, "k i"]) -> Float[Tensor, " n"]:
    """Σ p_k ‖w_k − w̄‖², without the distances of all pairs."""
    out, first = torch.empty_like(p[:, 0]), p.argmax(1)
    for top in first.unique().tolist():
        rows = first == top
        v = weight - weight[top]
        out[rows] = p[rows] @ v.square().sum(1) - (p[rows] @ v).square().sum(1)
    return out
