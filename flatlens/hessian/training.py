"""Relative flatness of the head as a loss: in closed form, differentiable in every weight of the network.

The published flatness-aware minimisation cuts the graph at the Hessian, so that its gradient reaches the head alone;
it also divides the trace by the number of features d: its λ is the weight of this penalty times d.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.errors import LayerError
from flatlens.victims.precision import wide

MOST_CLASSES = 4096
"""Up to this many classes the distances between all class weights are held (64 MiB in single precision)."""


def head_flatness(
    logits: Float[Tensor, "n k"], features: Float[Tensor, "n d"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, " n"]:
    """κ of the head for each sample: ‖a‖² · ½ Σ_{j,k} p_j p_k ‖w_j − w_k‖², differentiable in all three arguments.

    It is relative flatness (Petzka et al. 2021, arXiv 2001.00939, Def. 3) of the last Linear layer under
    cross-entropy, Σ_{s,s'} ⟨w_s, w_s'⟩ Tr(H_{s,s'}), in a form whose terms have one sign: nothing cancels, also where
    the network is certain. On a pass that is made anyway it costs no further one.

    Args:
        logits: W a + b, with their graph.
        features: the head's inputs a, with theirs.
        weight: the head's weight W.

    Returns:
        ``[n]``, at least 0, in the units of the loss.

    Raises:
        LayerError: shapes that are those of no Linear layer, a single class, or more than 4,096.

    Example:
        ``loss = (F.cross_entropy(z, y, reduction="none") + 0.01 * fl.head_flatness(z, a, head.weight)).mean()``
    """
    shapes = [list(t.shape) for t in (logits, features, weight)]
    fits = all(len(shape) == 2 for shape in shapes)
    if not fits or [shapes[0][0], shapes[0][1], shapes[1][1]] != [shapes[1][0], *shapes[2]]:
        raise LayerError(
            f"logits {shapes[0]}, features {shapes[1]} and weight {shapes[2]}: needs [n, K], [n, d] and [K, d] of one "
            "Linear layer"
        )
    if not 2 <= len(weight) <= MOST_CLASSES:
        raise LayerError(f"a head of {len(weight):,} classes: its flatness as a loss needs 2 to {MOST_CLASSES:,}")
    found: Tensor = _Flatness.apply(logits, features, weight)
    return found


class _Flatness(torch.autograd.Function):
    """The closed form with its gradient in closed form: a quarter of the operations that autograd would take."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        parts = _parts(logits, features, weight)
        ctx.save_for_backward(logits, features, weight, *parts)
        return (parts.norm * parts.spread).to(logits)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, ...]:
        logits, features, weight, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of the derivative is asked for
            parts = _parts(logits, features, weight)
            value = (parts.norm * parts.spread).to(logits)
            return torch.autograd.grad(value, (logits, features, weight), given[0], create_graph=True)
        parts, twice = _Parts(*saved), 2 * wide(given[0])
        scaled = (twice * parts.norm).unsqueeze(1) * parts.p
        by_logits = scaled * (parts.half - parts.spread.unsqueeze(1))
        by_features = (twice * parts.spread).unsqueeze(1) * wide(features)
        by_weight = (scaled.sum(0).unsqueeze(1) * parts.v).addmm_(parts.p.T @ scaled, parts.v, alpha=-1)
        return by_logits.to(logits), by_features.to(features), by_weight.to(weight)


class _Parts(NamedTuple):
    """p ``[n, K]``, ½ Σ_k p_k ‖w_j − w_k‖² ``[n, K]``, its mean by p ``[n]``, ‖a‖² ``[n]``, W centred ``[K, d]``."""

    p: Tensor
    half: Tensor
    spread: Tensor
    norm: Tensor
    v: Tensor


def _parts(logits: Tensor, features: Tensor, weight: Tensor) -> _Parts:
    # In double precision: ‖w_j‖² + ‖w_k‖² − 2⟨w_j, w_k⟩ cancels for classes whose weights are alike, the more so the
    # farther they lie from 0; and a certain answer's probabilities are small.
    p, v, a = wide(logits).softmax(1), wide(weight), wide(features)
    v = v - v.mean(0)
    products = v @ v.T
    size = 0.5 * products.diagonal()  # of the same products, so that a class lies at exactly 0 from itself
    half = p @ (size + size.unsqueeze(1) - products).clamp_(min=0)
    return _Parts(p, half, torch.linalg.vecdot(half, p), torch.linalg.vecdot(a, a), v)


__all__ = ["MOST_CLASSES", "head_flatness"]
