"""The head's curvature where the loss is a mean over positions: of a language model, exactly, at each and of the mean.

With a_t the head's input at position t and A_t = diag(p_t) − p_t p_tᵀ, H = (1/T) Σ_t A_t ⊗ a_t a_tᵀ. Traces and κ are
means over the positions; the largest eigenvalue and the gradient's norm are not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.hessian import Curvature
from flatlens.hessian.head import same_logits
from flatlens.hessian.lanczos import lanczos
from flatlens.hessian.scale_free import without_top
from flatlens.hessian.softmax import Softmax, cross_entropy, softmax, top_eigenvalue
from flatlens.hessian.vocabulary import BLOCK, blocks, products, weight_variance
from flatlens.victims.precision import wide

DROPPED = 1e-14
"""Classes are left out of an eigenproblem up to this error, relative to the eigenvalue (second-order bound)."""
DENSE = 300
"""Up to this many rows the eigenproblem of the mean is solved densely."""
TOLERANCE = 1e-7
"""Of the eigenvector of the mean; the eigenvalue's error is its square."""
MOST = 300
"""Lanczos steps at most."""


class AtPositions(NamedTuple):
    """Curvature of the mean loss, ``[n]``, and at each position, ``[n, T]`` float64.

    Attributes:
        mean: of the mean of the positions' losses.
        nll: −log p of the target, in nats.
        rank_of_target: how many tokens the model prefers to the target; 0 = greedy decoding takes it.
        margin: the target's logit minus the largest other.
        confidence_term: c = Σ p_k (1 − p_k).
        feature_norm_sq: ‖a‖².
        weight_variance: Σ p_k ‖w_k − w̄‖².
        trace: ‖a‖² c, of the position's own loss.
        relative_flatness: κ = ‖a‖² Σ p_k ‖w_k − w̄‖².
        top_eigenvalue: λ_max of the position's own loss.
    """

    mean: Curvature
    nll: Float[Tensor, "n t"]
    rank_of_target: Float[Tensor, "n t"]
    margin: Float[Tensor, "n t"]
    confidence_term: Float[Tensor, "n t"]
    feature_norm_sq: Float[Tensor, "n t"]
    weight_variance: Float[Tensor, "n t"]
    trace: Float[Tensor, "n t"]
    relative_flatness: Float[Tensor, "n t"]
    top_eigenvalue: Float[Tensor, "n t"]


class HeadAtPositions:
    """Closed-form curvature of a language model's head under the mean cross-entropy over positions.

    Args:
        linear: the layer whose output is the logits; its weight stays in its own dtype.
        block: rows of the weight that are float64 at a time.
    """

    def __init__(self, linear: nn.Linear, *, block: int = BLOCK) -> None:
        self.weight = linear.weight.detach()
        self.bias = None if linear.bias is None else wide(linear.bias.detach())
        self._block = block
        squares = torch.cat([rows.square().sum(1) for _, rows in blocks(self.weight, block)])
        self.weight_norm = squares.sum().sqrt()
        self._longest = squares.max().sqrt()
        self._largest_bias = squares.new_zeros(()) if self.bias is None else self.bias.abs().max()

    def __call__(
        self,
        features: Float[Tensor, "n t i"],
        y: Int[Tensor, "n t"],
        *,
        logits: Float[Tensor, "n t k"] | None = None,
    ) -> AtPositions:
        """Curvature at the head's inputs; logits are recomputed in float64. NaN where a position is not finite.

        Args:
            features: the head's input at the positions that predict ``y``.
            y: the tokens to be predicted.
            logits: the model's own, compared with those recomputed; ranks are taken in them.

        Raises:
            LayerError: the model's own logits are others: soft-capped, scaled, or changed in another way.
        """
        # Sample by sample: [T, V] float64 is all that is held of a vocabulary.
        found = [
            self._sample(wide(a.detach()), label.to(a.device), None if logits is None else logits[i].detach())
            for i, (a, label) in enumerate(zip(features, y, strict=True))
        ]
        columns = {name: torch.stack([f[0][name] for f in found]) for name in found[0][0]}
        top, slope = torch.stack([f[1] for f in found]), torch.stack([f[2] for f in found])
        trace = columns["trace"].mean(1)
        nothing, zero = torch.full_like(trace, torch.nan), torch.zeros_like(trace)
        mean = Curvature(
            method="closed-form",
            exact=True,
            trace=trace,
            trace_se=zero,
            ggn_trace=trace,
            top_eigenvalue=top,
            relative_flatness=columns["relative_flatness"].mean(1),
            relative_flatness_se=zero,
            relative_sharpness=self.weight_norm**2 * trace,
            weight_norm=self.weight_norm.expand_as(trace),
            feature_norm_sq=columns["feature_norm_sq"].mean(1),
            confidence_term=columns["confidence_term"].mean(1),
            # Both are of a single position's logits: over several there is no one gap, and no one A.
            scale_free=nothing,
            weight_grad_norm=slope,
            effective_rank=nothing,
        )
        return AtPositions(mean=mean, **columns)

    def _sample(
        self, a: Float[Tensor, "t i"], y: Int[Tensor, " t"], logits: Float[Tensor, "t k"] | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The columns of one sample, and λ_max and the slope of its mean loss."""
        own = products(a, self.weight, self.bias, self._block)
        norm_sq = a.square().sum(1)
        if logits is not None:
            same_logits(own, logits, norm_sq.sqrt() * self._longest + self._largest_bias, a.shape[1])
        finite = torch.isfinite(norm_sq) & torch.isfinite(own).all(1)
        blank = torch.where(finite, 1.0, torch.nan).to(norm_sq)
        # What is not finite computes as a row of zeros, and is NaN at the end.
        a, norm_sq = torch.where(finite.unsqueeze(1), a, 0), torch.where(finite, norm_sq, 0)
        own = torch.where(finite.unsqueeze(1), own, 0)
        soft, top = softmax(own), own.argmax(1)
        rest = soft.q.gather(1, top.unsqueeze(1)).squeeze(1)
        c = soft.confidence_term
        variance = weight_variance(self.weight, top, rest, without_top(own, top), self._block)
        seen = own if logits is None else logits.to(own.device)
        target = own.gather(1, y.unsqueeze(1))
        ahead = (seen > seen.gather(1, y.unsqueeze(1))).sum(1)
        single = norm_sq * _top(soft)
        columns = {
            "nll": cross_entropy(own, y),
            "rank_of_target": ahead.to(own),
            "margin": (target - own.scatter(1, y.unsqueeze(1), -torch.inf).amax(1, keepdim=True)).squeeze(1),
            "confidence_term": c,
            "feature_norm_sq": norm_sq,
            "weight_variance": variance,
            "trace": norm_sq * c,
            "relative_flatness": norm_sq * variance,
            "top_eigenvalue": single,
        }
        whole = blank.sum()  # NaN where any position is
        coordinates = _coordinates(a)
        mean_top = single[0] if len(a) == 1 else _mean_top(soft, top, coordinates, norm_sq, single)
        gradient = soft.p.scatter(1, y.unsqueeze(1), -soft.q.gather(1, y.unsqueeze(1)))
        slope = torch.linalg.matrix_norm(gradient.T @ coordinates) / len(a)
        mark = whole * 0
        return {name: values * blank for name, values in columns.items()}, mean_top + mark, slope + mark


def _coordinates(a: Float[Tensor, "t i"]) -> Float[Tensor, "t m"]:
    """The rows of ``a`` in an orthonormal basis of their span: m = min(T, I), all inner products as they are."""
    return torch.linalg.qr(a.T, mode="r").R.T


def _top(soft: Softmax) -> Float[Tensor, " n"]:
    """λ_max(A), of the likely classes alone.

    A principal submatrix loses of its largest eigenvalue at most the squares of the rows left out, over it.
    """
    order = soft.p.argsort(dim=1, descending=True)
    p, q = soft.p.gather(1, order), soft.q.gather(1, order)
    floor = (p * q).amax(1, keepdim=True)
    after = (p / floor.clamp(min=torch.finfo(p.dtype).tiny)).square().flip(1).cumsum(1).flip(1)
    kept = max(2, int((after > DROPPED).sum(1).max()))
    return top_eigenvalue(Softmax(p[:, :kept], q[:, :kept]))


def _mean_top(
    soft: Softmax,
    top: Int[Tensor, " t"],
    coordinates: Float[Tensor, "t m"],
    norm_sq: Float[Tensor, " t"],
    single: Float[Tensor, " t"],
) -> Float[Tensor, ""]:
    """λ_max of (1/T) Σ_t A_t ⊗ a_t a_tᵀ, whose eigenvector is of the span of the a_t: K × m numbers."""
    floor = single.max()
    if not floor > 0:
        return floor
    scaled = norm_sq.unsqueeze(1) * soft.p / floor
    importance = scaled.sum(0).square()
    # The tops' rows of A are small though their p is not; they are always kept.
    importance[top] = torch.inf
    values, order = importance.sort(descending=True)
    kept = order[: max(2, int((values.flip(0).cumsum(0).flip(0) > DROPPED).sum()))]
    at = (kept.unsqueeze(0) == top.unsqueeze(1)).to(torch.int8).argmax(1, keepdim=True)
    # p of the other classes; the top's part follows from A·1 = 0, so that nothing of size 1 cancels in saturation.
    others = (soft.p[:, kept] / floor).scatter(1, at, 0.0)
    # The classes left out are 0 in x, but have their part in pᵀx.
    lost = soft.p.index_fill(1, kept, 0.0).sum(1, keepdim=True) / floor
    p_top = soft.p[:, kept].gather(1, at)
    count = len(norm_sq)

    def product(x: Float[Tensor, "k m"]) -> Float[Tensor, "k m"]:
        v = coordinates @ x.T
        first = v.gather(1, at)
        v = v - first
        inner = (others * v).sum(1, keepdim=True) - lost * first
        out = others * (v - floor * inner)
        return out.scatter(1, at, -p_top * inner).T @ coordinates / count

    shape = (len(kept), coordinates.shape[1])
    size = shape[0] * shape[1]
    if size <= DENSE:
        identity = torch.eye(size, dtype=others.dtype, device=others.device)
        matrix = torch.stack([product(e.view(shape)).flatten() for e in identity])
        return torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1] * floor
    first = torch.randn(1, size, generator=torch.Generator().manual_seed(0), dtype=others.dtype).to(others.device)
    found = lanczos(lambda x: product(x.view(shape)).view(1, -1), first, tolerance=TOLERANCE, most=MOST)
    return found.value[0] * floor
