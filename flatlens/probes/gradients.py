"""The attack's own gradient, which is known one step after the pass that it was taken on.

A white-box attack ascends its objective S on the input. Where ∂S/∂x is 0, or turns about from step to step, the
attack stalls, whatever the landscape: gradient masking, to be told from a flat loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flatlens.probes import Columns, Path
from flatlens.records.schema import DISCRETE
from flatlens.victims.protocol import Pass
from flatlens.victims.taps import Tap


def zero_inputs(tap: Tap, n: int) -> dict[str, Tensor]:
    """The share of a layer's inputs that are exactly 0, ``[n]``: behind a ReLU, the units that pass no gradient."""
    entries = tap.input.reshape(n, -1)
    return {"zero_inputs": _zeros(entries)}


def dead_units(here: Pass, path: Path) -> Columns:
    """The share of ReLU units that pass no gradient, ``[n]``, where they were counted."""
    return {} if here.dead_share is None else {"dead_share": here.dead_share}


class GradientFlow:
    """Along one path: to be called with each pass once it is over, in order.

    Attributes:
        last: the direction of the last gradient, ``[n, …]`` flattened, of length 1; None where there was none.
    """

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def __call__(self, here: Pass, path: Path) -> Columns:
        """Columns of a pass that is over; NaN where no gradient was taken.

        Returns:
            ``input_grad_norm`` ‖∂S/∂x‖₂; ``grad_zero_share``, the share of entries that are exactly 0;
            ``grad_cosine``, the cosine between this gradient and that of the pass before, where both are of the whole
            batch; each ``[n]``.
        """
        # A text that a step was rounded to stands beside the path: the next gradient is compared with that step's.
        last, self.last = self.last, self.last if here.kind == DISCRETE else None
        if here.gradient is None:
            blank = torch.full((len(here.y),), torch.nan, device=here.x.device)
            return {"input_grad_norm": blank, "grad_zero_share": blank, "grad_cosine": blank}
        gradient = here.gradient.flatten(1)
        norm = gradient.norm(dim=1)
        cosine = torch.full_like(norm, torch.nan)
        if here.rows is None:
            # At length 1 first: the product of two small norms would underflow. 0 / 0 is NaN: no direction.
            self.last = gradient / norm.unsqueeze(1)
            if last is not None:
                cosine = torch.linalg.vecdot(self.last, last).clamp(-1, 1)
        return {"input_grad_norm": norm, "grad_zero_share": _zeros(gradient), "grad_cosine": cosine}


def _zeros(rows: Tensor) -> Tensor:
    share = (rows.shape[1] - rows.count_nonzero(dim=1)) / rows.shape[1]
    return share.to(rows.dtype)
