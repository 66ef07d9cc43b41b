"""The attack's own gradient, which is known one step after the pass that it was taken on.

A white-box attack ascends its objective S on the input. Where ∂S/∂x is 0, or turns about from step to step, the
attack stalls, whatever the landscape: gradient masking, to be told from a flat loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flatlens.forward import Forward
from flatlens.probes import Columns


def gradient_flow(here: Forward, before: Tensor | None) -> Columns:
    """At a pass that is over: NaN where no gradient was taken.

    Args:
        here: the pass.
        before: the gradient of the step before it, ``[n, …]``, if there is one.

    Returns:
        ``input_grad_norm`` ‖∂S/∂x‖₂; ``grad_zero_share``, the share of entries that are exactly 0; ``grad_cosine``,
        the cosine between this gradient and that of the step before; each ``[n]``.
    """
    if here.gradient is None:
        return no_flow(len(here.y), here.x.device)
    gradient = here.gradient.flatten(1)
    norm = gradient.norm(dim=1)
    cosine = torch.full_like(norm, torch.nan)
    if before is not None:
        last = before.flatten(1)
        # Each at length 1 first: the product of two small norms would underflow. 0 / 0 is NaN: no direction.
        cosine = ((gradient / norm.unsqueeze(1)) * (last / last.norm(dim=1, keepdim=True))).sum(1).clamp(-1, 1)
    return {
        "input_grad_norm": norm,
        "grad_zero_share": (gradient == 0).to(norm.dtype).mean(1),
        "grad_cosine": cosine,
    }


def no_flow(n: int, device: torch.device) -> Columns:
    """The same columns of a pass on which no gradient was taken."""
    blank = torch.full((n,), torch.nan, device=device)
    return {"input_grad_norm": blank, "grad_zero_share": blank, "grad_cosine": blank}
