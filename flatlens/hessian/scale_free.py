"""κ / (c · gap²): curvature without what the confidence and the scale of the logits make of it.

c = Σ p_k (1 − p_k), gap = the largest logit minus the second. κ and κ/c change when all logits are multiplied by s (κ/c
as s²), this does not. At the head it tends in saturation to ½ (‖a‖ ‖w_1 − w_2‖ / gap)², which is half the square of
‖a‖ over the distance to the boundary in feature space.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

NORMAL = 1e-290
"""A confidence term below this is close to the end of float64's range, where its digits go."""


def scale_free(
    kappa: Float[Tensor, " n"], confidence: Float[Tensor, " n"], logits: Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """κ / (c · gap²) from κ and c; NaN where the gap is 0 or c is below `NORMAL`, since κ is lost there as well."""
    return over_gap(torch.where(confidence > NORMAL, kappa / confidence, torch.nan), logits)


def over_gap(values: Float[Tensor, " n"], logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """``values`` / gap²; NaN where two classes tie."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    gap = first - second
    # Twice by the gap: its square would underflow, or overflow, where the quotient does not.
    return torch.where(gap > 0, values / gap / gap, torch.nan)


def without_top(logits: Float[Tensor, "n k"], top: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """The distribution over the other classes, p_k / (1 − p_top), 0 at the top; right however saturated p is."""
    return torch.softmax(logits.scatter(1, top.unsqueeze(1), -torch.inf), dim=1)
