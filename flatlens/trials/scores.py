"""What a detector looks at: κ of the head, entropy, the top-2 gap, the length of the features; of each input alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.hessian.head import Head
from flatlens.hessian.softmax import softmax
from flatlens.victims.layers import HEAD
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass

KAPPA, ENTROPY, GAP, NORM = "kappa", "entropy", "gap", "feature_norm"
DETECTORS: dict[str, str] = {
    KAPPA: "relative flatness of the head, in closed form",
    ENTROPY: "entropy of the softmax, in nats",
    GAP: "the largest logit minus the second",
    NORM: "‖a‖₂ of the head's input",
}
"""Name of a detector -> what it measures."""
OF_THE_HEAD = (KAPPA, NORM)
"""Those that need a head in closed form."""


def entropy(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """−Σ p_k ln p_k of float64 logits, to full relative accuracy also where one p is all but 1.

    Args:
        logits: float64.
    """
    soft = softmax(logits)
    own = -torch.log_softmax(logits, 1)
    top = logits.argmax(1, keepdim=True)
    # −ln p is lost to rounding at the largest p alone; there it is −ln(1 − q).
    own = own.scatter(1, top, -torch.log1p(-soft.q.gather(1, top)))
    return torch.where(soft.p > 0, soft.p * own, 0).sum(1)


def measured(here: Pass, head: Head | None) -> dict[str, Tensor]:
    """All scores at a pass, each ``[n]`` float64; of a model whose head is in no closed form those of its logits."""
    if head is None:
        logits = wide(here.logits.detach())
        found: dict[str, Tensor] = {}
    else:
        a = here.taps[HEAD].input
        curvature = head(a, logits=here.logits)
        logits = torch.nn.functional.linear(wide(a.detach()), head.weight, head.bias)
        found = {KAPPA: curvature.relative_flatness, NORM: curvature.feature_norm_sq.sqrt()}
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return found | {ENTROPY: entropy(logits), GAP: first - second}
