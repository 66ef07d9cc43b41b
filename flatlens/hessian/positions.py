"""The head's curvature where one sample has T predictions: the target tokens of a language model.

The loss is the mean cross-entropy over the T positions, so with a_t the head's input at position t, p_t the prediction
there and A_t = diag(p_t) − p_t p_tᵀ, the Hessian by the head's weight is H = (1/T) Σ_t A_t ⊗ a_t a_tᵀ. Its trace and κ
are means over the positions; its largest eigenvalue is not. Where the weight is the embedding too, the head's use of
it alone is meant.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.hessian import Curvature
from flatlens.hessian.head import same_logits
from flatlens.hessian.softmax import Others, others, top_eigenvalue
from flatlens.hessian.vocabulary import Blocks
from flatlens.victims.precision import wide

ENTRIES = 2**23
"""Numbers in one table of positions × classes at most (64 MB): longer batches go in groups of samples."""
ITERATIONS = 400


class AtPositions(NamedTuple):
    """Curvature of the mean loss of n samples, and what each of the T positions has to it, ``[n, T]`` each.

    NaN stands in the floating columns of a position whose logits are not finite, and in the mean of its sample.

    Attributes:
        mean: curvature of the mean cross-entropy over the positions. ``feature_norm_sq`` and
            ``confidence_term`` are means over the positions. ``scale_free`` and ``effective_rank`` are NaN: over
            several positions there is no one gap and no one A.
        nll: −log p of the target token, in nats.
        rank_of_target: how many tokens greedy decoding prefers to the target's; 0: it takes the target.
        greedy: the token that greedy decoding takes.
        margin: the target's logit minus the largest other one.
        gap: the largest logit minus the second largest.
        confidence: the largest probability.
        entropy: of the prediction, in nats.
        confidence_term: c = Σ p_k (1 − p_k).
        feature_norm_sq: ‖a‖².
        weight_variance: Σ p_k ‖w_k − w̄‖².
        trace: ‖a‖² · c.
        relative_flatness: κ = ‖a‖² · the weight variance.
        top_eigenvalue: λ_max of this position's own Hessian, ‖a‖² · λ_max(A).
    """

    mean: Curvature
    nll: Float[Tensor, "n t"]
    rank_of_target: Float[Tensor, "n t"]
    greedy: Int[Tensor, "n t"]
    margin: Float[Tensor, "n t"]
    gap: Float[Tensor, "n t"]
    confidence: Float[Tensor, "n t"]
    entropy: Float[Tensor, "n t"]
    confidence_term: Float[Tensor, "n t"]
    feature_norm_sq: Float[Tensor, "n t"]
    weight_variance: Float[Tensor, "n t"]
    trace: Float[Tensor, "n t"]
    relative_flatness: Float[Tensor, "n t"]
    top_eigenvalue: Float[Tensor, "n t"]


class HeadAtPositions:
    """Closed-form curvature of a language model's last Linear layer under the mean cross-entropy over positions.

    Args:
        linear: the layer whose output is the logits; its weight is referred to in its own dtype, not copied.
        block: rows of the weight that are widened to float64 at once; as many as fit in the cache when left out.
    """

    def __init__(self, linear: nn.Linear, *, block: int | None = None) -> None:
        self._blocks = Blocks(linear.weight, linear.bias, block=block)
        self.weight_norm: Tensor = self._blocks.norms_sq.sum().sqrt()
        self._longest = self._blocks.norms_sq.max().sqrt()
        bias = self._blocks.bias
        self._largest_bias = self._longest.new_zeros(()) if bias is None else bias.abs().max()

    def __call__(
        self,
        features: Float[Tensor, "n t i"],
        y: Int[Tensor, "n t"],
        *,
        logits: Float[Tensor, "n t k"] | None = None,
    ) -> AtPositions:
        """Curvature at the head's inputs ``features``; the logits are recomputed in float64.

        Args:
            features: the head's input at the positions whose logits predict the targets.
            y: the target tokens.
            logits: the model's own, to be compared with those recomputed. Greedy decoding goes by them.

        Raises:
            LayerError: the model's own logits are others: it caps or scales what its head gives.
        """
        group = max(1, ENTRIES // (features.shape[1] * len(self._blocks.weight)))
        found = [
            self._group(
                wide(features[i : i + group].detach()),
                y[i : i + group],
                None if logits is None else logits[i : i + group],
            )
            for i in range(0, len(features), group)
        ]
        return found[0] if len(found) == 1 else _joined(found)

    def _group(
        self, features: Float[Tensor, "n t i"], y: Int[Tensor, "n t"], logits: Float[Tensor, "n t k"] | None
    ) -> AtPositions:
        n, t = features.shape[:2]
        a = features.flatten(0, 1)
        label = y.to(a.device).flatten()
        own = self._blocks.logits(a)
        norm_sq = a.square().sum(1)
        given = own if logits is None else logits.detach().flatten(0, 1)
        if logits is not None:
            same_logits(own, given, norm_sq.sqrt() * self._longest + self._largest_bias, a.shape[1])
        seen = others(own)
        target = own.gather(1, label.unsqueeze(1)).squeeze(1)
        finite = torch.isfinite(norm_sq) & torch.isfinite(own.sum(1))
        # NaN reaches each column by itself, but for those that compare.
        blank = torch.where(finite, 1.0, torch.nan)
        c, variance = seen.confidence_term, seen.rest * self._blocks.variance_over_rest(seen)
        lam = norm_sq * top_eigenvalue(seen)
        rows = {
            "nll": blank * (seen.first - target + torch.log1p(seen.odds)),
            "rank_of_target": blank * _rank(given, label.to(given.device)).to(a.device),
            "greedy": given.argmax(1).to(a.device),
            "margin": blank * torch.where(label == seen.top, seen.gap, target - seen.first),
            "gap": blank * seen.gap,
            "confidence": blank * seen.p_top,
            "entropy": blank * _entropy(seen),
            "confidence_term": blank * c,
            "feature_norm_sq": blank * norm_sq,
            "weight_variance": blank * variance,
            "trace": blank * norm_sq * c,
            "relative_flatness": blank * norm_sq * variance,
            "top_eigenvalue": blank * lam,
        }
        at = {name: column.view(n, t) for name, column in rows.items()}
        whole = finite.view(n, t).all(1)
        top, slope = torch.full((2, n), torch.nan, dtype=a.dtype, device=a.device)
        for i in whole.nonzero().flatten().tolist():
            here = slice(i * t, (i + 1) * t)
            part = Others(*(column[here] for column in seen))
            coordinates = torch.linalg.qr(features[i].T, mode="r").R.T
            slope[i] = _gradient_norm(part, label[here], coordinates)
            top[i] = lam[i] if t == 1 else _top_eigenvalue(part, coordinates, lam[here])
        return AtPositions(mean=self._mean(at, top, slope), **at)

    def _mean(self, at: dict[str, Tensor], top: Float[Tensor, " n"], slope: Float[Tensor, " n"]) -> Curvature:
        trace = at["trace"].mean(1)
        zero, nothing = torch.zeros_like(trace), torch.full_like(trace, torch.nan)
        return Curvature(
            method="closed-form",
            exact=True,
            trace=trace,
            trace_se=zero,
            ggn_trace=trace,
            top_eigenvalue=top,
            relative_flatness=at["relative_flatness"].mean(1),
            relative_flatness_se=zero,
            relative_sharpness=self.weight_norm**2 * trace,
            weight_norm=self.weight_norm.expand_as(trace),
            feature_norm_sq=at["feature_norm_sq"].mean(1),
            confidence_term=at["confidence_term"].mean(1),
            scale_free=nothing,
            weight_grad_norm=slope,
            effective_rank=nothing,
        )


def _rank(logits: Float[Tensor, "n k"], label: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """How many tokens greedy decoding prefers: those of larger logits, and among equals those of lower index."""
    own = logits.gather(1, label.unsqueeze(1))
    before = torch.arange(logits.shape[1], device=logits.device) < label.unsqueeze(1)
    return ((logits > own) | ((logits == own) & before)).sum(1)


def _entropy(seen: Others) -> Float[Tensor, " n"]:
    """−Σ p log p in nats: of the top class against the others, and among these."""
    within = torch.special.entr(seen.q).sum(1)
    return seen.p_top * torch.log1p(seen.odds) + torch.special.entr(seen.rest) + seen.rest * within


def _gradient_norm(seen: Others, label: Int[Tensor, " t"], coordinates: Float[Tensor, "t r"]) -> Tensor:
    """‖(1/T) Σ_t (p_t − e_t) a_tᵀ‖_F, the inputs given by their coordinates in an orthonormal basis."""
    # In units of the largest 1 − p_t, for squares underflow.
    rest, p_top = seen.rest.unsqueeze(1), seen.p_top.unsqueeze(1)
    p = (rest * seen.q).scatter(1, seen.top.unsqueeze(1), p_top)
    miss = torch.where(label == seen.top, seen.rest, 1 - p.gather(1, label.unsqueeze(1)).squeeze(1))
    p.scatter_(1, label.unsqueeze(1), -miss.unsqueeze(1))
    scale = p.abs().max().clamp(min=torch.finfo(p.dtype).tiny)
    return torch.linalg.matrix_norm(coordinates.T @ (p / scale)) * scale / len(label)


def _top_eigenvalue(seen: Others, coordinates: Float[Tensor, "t r"], own: Float[Tensor, " t"]) -> Tensor:
    """λ_max of (1/T) Σ_t A_t ⊗ a_t a_tᵀ, by Lanczos on the span of the inputs.

    An eigenvector is Σ_j z_j e_jᵀ with e_j an orthonormal basis of the a_t; H takes Z ``[r, K]`` to Cᵀ Y / T with rows
    y_t = A_t (C Z)_t, C the coordinates. Only three vectors are kept: without reorthogonalisation Lanczos finds
    eigenvalues again and again, but the largest no less exactly.
    """
    t = len(own)
    scale = own.max() / t
    if not bool(scale > 0):
        return scale
    rest, top = seen.rest.unsqueeze(1), seen.top.unsqueeze(1)
    p = (rest * seen.q).scatter(1, top, seen.p_top.unsqueeze(1))
    # In units of H; 0 at the top, whose part is found from the others': p_top − p_top² would cancel.
    scaled = seen.q * (rest / own.max())

    def apply(z: Tensor) -> Tensor:
        u = coordinates @ z
        u -= u.gather(1, top)
        u *= scaled
        return coordinates.T @ u.addcmul_(p, u.sum(1, keepdim=True), value=-1)

    # From each position's top class; the noise keeps the start from being orthogonal to the answer.
    noise = torch.Generator().manual_seed(0)
    sizes = (coordinates.shape[1], p.shape[1])
    sides = [torch.randn(size, generator=noise, dtype=p.dtype).to(p.device) for size in sizes]
    first = coordinates.T @ torch.zeros_like(p).scatter_(1, top, 1.0) + 1e-2 * torch.outer(*sides)
    q = apply(first)
    q /= torch.linalg.matrix_norm(q)
    before, beta = torch.zeros_like(q), q.new_zeros(())
    diagonal: list[float] = []
    off: list[float] = []
    last = 0.0
    for step in range(1, ITERATIONS + 1):
        image = apply(q).sub_(before, alpha=float(beta))
        alpha = torch.dot(image.flatten(), q.flatten())
        image.sub_(q, alpha=float(alpha))
        beta = torch.linalg.matrix_norm(image)
        diagonal.append(float(alpha))
        if step > 1 or float(beta) < 1e-14:
            values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off))
            value, residual = float(values[-1]), float(beta) * abs(float(vectors[-1, -1]))
            # The value's error is at most residual² / (its distance from the next one), which is known as well by then.
            apart = value - float(values[-2]) if step > 1 else 0.0
            settled = residual**2 <= 1e-13 * value * apart or abs(value - last) <= 1e-15 * value
            if residual <= 1e-15 * value or (residual <= 1e-7 * value and settled):
                break
            last = value
        off.append(float(beta))
        before, q = q, image.div_(beta)
    return scale * value


def _tridiagonal(diagonal: list[float], off: list[float]) -> Float[Tensor, "j j"]:
    side = torch.tensor(off, dtype=torch.float64)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(side, 1) + torch.diag(side, -1)


def _joined(found: list[AtPositions]) -> AtPositions:
    """Groups of samples as one."""
    first = found[0]
    means = [part.mean for part in found]
    numbers = {
        name: torch.cat([getattr(mean, name) for mean in means])
        for name, value in vars(first.mean).items()
        if isinstance(value, Tensor)
    }
    mean = Curvature(method=first.mean.method, exact=first.mean.exact, **numbers)
    return AtPositions(mean, *(torch.cat(columns) for columns in zip(*(part[1:] for part in found), strict=True)))
