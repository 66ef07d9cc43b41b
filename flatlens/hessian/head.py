"""The head's curvature in closed form: H = A ⊗ a aᵀ (`mathematics` of a linear layer under cross-entropy).

With a the head's input, p the prediction and A = diag(p) − p pᵀ, all measures follow from the logits and ‖a‖²,
which the attack's own forward pass has computed. They do not depend on the label.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.errors import LayerError
from flatlens.hessian import Curvature
from flatlens.hessian.scale_free import NORMAL, over_gap, without_top
from flatlens.hessian.softmax import Others, eigenvalues, gradient_norm, others, participation, softmax, top_eigenvalue
from flatlens.hessian.vocabulary import Blocks
from flatlens.victims.checks import ROUNDINGS
from flatlens.victims.precision import wide

Check = Callable[[], None]
"""Raises where something is not as it has to be."""
PAIRWISE_CLASSES = 4096
"""Up to this many classes the K×K distances between class weights are kept (128 MiB at most)."""


class Head:
    """Closed-form curvature of the last Linear layer under cross-entropy.

    Args:
        linear: the layer whose output is the logits.
    """

    def __init__(self, linear: nn.Linear) -> None:
        self.weight: Tensor = wide(linear.weight.detach())
        self.bias: Tensor | None = None if linear.bias is None else wide(linear.bias.detach())
        self.weight_norm = torch.linalg.matrix_norm(self.weight)
        self._longest = self.weight.norm(dim=1).max()
        self._largest_bias = self.weight.new_zeros(()) if self.bias is None else self.bias.abs().max()
        few = len(self.weight) <= PAIRWISE_CLASSES
        self._pairwise = _squared_distances(self.weight) if few else None
        self._blocks = None if few else Blocks(self.weight)

    def __call__(
        self,
        features: Float[Tensor, "n i"],
        y: Int[Tensor, " n"] | None = None,
        *,
        logits: Float[Tensor, "n k"] | None = None,
        spectrum: bool = False,
        later: list[Check] | None = None,
    ) -> Curvature:
        """Curvature at the head's inputs ``features``; the logits are recomputed in float64.

        Args:
            features: the head's input.
            y: labels, for the gradient's norm alone.
            logits: the model's own, to be compared with those recomputed.
            spectrum: also the eigenvalues.
            later: takes the comparison of the logits, to be called when it need not be waited for; made now when None.

        Raises:
            LayerError: the model's own logits are others: its head does more than W·a + b at these inputs.
        """
        a = wide(features.detach())
        own = torch.nn.functional.linear(a, self.weight, self.bias)
        norm_sq = (a * a).sum(1)
        if logits is not None:
            self._compare(own, logits, norm_sq.sqrt(), later)
        soft = softmax(own)
        c = soft.confidence_term
        trace = norm_sq * c
        seen = others(own)
        variance = self._weight_variance(soft.p, seen)
        zero = torch.zeros_like(trace)
        return Curvature(
            method="closed-form",
            exact=True,
            trace=trace,
            trace_se=zero,
            ggn_trace=trace,
            top_eigenvalue=norm_sq * top_eigenvalue(seen),
            relative_flatness=norm_sq * variance,
            relative_flatness_se=zero,
            relative_sharpness=self.weight_norm**2 * trace,
            weight_norm=self.weight_norm.expand_as(trace),
            feature_norm_sq=norm_sq,
            confidence_term=c,
            scale_free=over_gap(norm_sq * self._variance_over(c, variance, own), own),
            weight_grad_norm=norm_sq.sqrt() * (torch.full_like(c, torch.nan) if y is None else gradient_norm(soft, y)),
            effective_rank=participation(soft),
            spectrum=norm_sq.unsqueeze(1) * eigenvalues(soft) if spectrum else None,
        )

    def _compare(
        self,
        own: Float[Tensor, "n k"],
        logits: Float[Tensor, "n k"],
        norm: Float[Tensor, " n"],
        later: list[Check] | None,
    ) -> None:
        """Raise LayerError where the model's logits differ by more than the rounding of their dtype."""
        same_logits(own, logits, norm * self._longest + self._largest_bias, self.weight.shape[1], later=later)

    def _weight_variance(self, p: Float[Tensor, "n k"], seen: Others) -> Float[Tensor, " n"]:
        """Σ_k p_k ‖w_k − w̄‖² = ½ Σ_{j,k} p_j p_k ‖w_j − w_k‖²: the second form has terms of one sign only."""
        if self._pairwise is not None:
            return 0.5 * ((p @ self._pairwise) * p).sum(1)
        assert self._blocks is not None
        return seen.rest * self._blocks.variance_over_rest(seen)

    def _variance_over(
        self, c: Float[Tensor, " n"], variance: Float[Tensor, " n"], logits: Float[Tensor, "n k"]
    ) -> Float[Tensor, " n"]:
        """Σ p_k ‖w_k − w̄‖² / c, also where both have underflowed.

        With q = 1 − p_1 → 0 both are of order q, and the quotient tends to ½ Σ_{k≠1} r_k ‖w_k − w_1‖², r = p / q.
        """
        lost = c <= NORMAL
        if c.device.type != "cpu" and self._pairwise is not None:
            # Of all, for to ask a GPU which ones they are is to wait for it.
            top = logits.argmax(1)
            limit = 0.5 * (without_top(logits, top) * self._pairwise[top]).sum(1)
            return torch.where(lost, limit, variance / c)
        rows = lost.nonzero().squeeze(1)
        if not len(rows):
            return variance / c
        top = logits[rows].argmax(1)
        if self._pairwise is not None:
            distance = self._pairwise[top]
        else:
            distance = torch.stack([(self.weight - self.weight[k]).square().sum(1) for k in top])
        return (variance / c).index_copy(0, rows, 0.5 * (without_top(logits[rows], top) * distance).sum(1))


def same_logits(
    own: Float[Tensor, "n k"],
    logits: Float[Tensor, "n k"],
    scale: Float[Tensor, " n"],
    width: int,
    *,
    later: list[Check] | None = None,
) -> None:
    """Compare a head's logits with the model's, rounded in its dtype.

    Args:
        own: W·a + b in float64.
        logits: the model's.
        scale: a bound of the logits, ‖a‖ · max ‖w‖ + max |b|.
        width: how long a is.
        later: takes what asks and raises, for a GPU's answer is waited for; asked now when None.

    Raises:
        LayerError: they differ by more than the rounding.
    """
    error = (own - logits.detach().to(own.device, own.dtype)).abs().amax(1)
    # The model rounds the sums of a row as long as a; finite numbers may also overflow in its dtype.
    wrong = error > ROUNDINGS * torch.finfo(logits.dtype).eps * float(width) ** 0.5 * scale
    differs = (wrong & torch.isfinite(error)).any()

    def demand() -> None:
        if bool(differs):
            worst = float(torch.where(torch.isfinite(error), error, 0).max())
            raise LayerError(
                f"the head's logits W·a + b differ from the model's own by up to {worst:.2g} at some inputs: "
                "the model does more with them there (a branch, a clamp); its head cannot be probed"
            )

    if later is None:
        demand()
    else:
        later.append(demand)


def _squared_distances(weight: Float[Tensor, "k i"]) -> Float[Tensor, "k k"]:
    # Differences first: ‖w_j‖² + ‖w_k‖² − 2⟨w_j, w_k⟩ cancels for similar classes.
    return torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").square()
