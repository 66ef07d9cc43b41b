"""The attack's own gradient, which is known one step after the pass that it was taken on."""

from __future__ import annotations

import torch
from torch import Tensor

from flatlens.forward import Forward


def input_grad_norm(here: Forward) -> Tensor:
    """‖∂S/∂x‖₂ of the attack's objective S at a pass that is over, ``[n]``; NaN where no gradient was taken."""
    if here.gradient is None:
        return torch.full((len(here.y),), torch.nan, device=here.x.device)
    return here.gradient.flatten(1).norm(dim=1)
