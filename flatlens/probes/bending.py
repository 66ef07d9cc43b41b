"""How the loss bends along the path: its second and third derivative in the direction of the step that led here.

Between two iterates the logits go from z' to z. Where the network is linear along the step (as ReLU networks are but
for kinks), the cross-entropy along it is log Σ exp(z + s v) minus a linear term, v = z − z', and its derivatives by s
are the cumulants of v under the prediction p: the second is the variance, the third the third central moment. The
second is what sharpness is of; the third says whether it is still growing. Both follow from logits that are there.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.probes import Columns, Path
from flatlens.records.schema import ITERATE
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass


class Bending:
    """Along one path: to be called with each pass once it is over, in order."""

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def __call__(self, here: Pass, path: Path) -> Columns:
        """Second and third derivative of the loss along the step that led here, in nats per step² and step³.

        Returns:
            ``path_second`` and ``path_third``, each ``[n]`` float64; NaN at the clean input, where no step has led, at
            a best point, and where one of the two passes is of some samples only.
        """
        logits = wide(here.logits.detach())
        whole = here.rows is None and here.kind == ITERATE
        last, self._last = self._last, logits if whole else None
        if last is None or not whole:
            blank = torch.full((len(here.y),), torch.nan, dtype=logits.dtype, device=logits.device)
            return {"path_second": blank, "path_third": blank}
        second, third = cumulants(logits, logits - last)
        return {"path_second": second, "path_third": third}


def cumulants(logits: Float[Tensor, "n k"], v: Float[Tensor, "n k"]) -> tuple[Tensor, Tensor]:
    """Variance and third central moment of v under softmax(logits), each ``[n]``."""
    p = logits.softmax(1)
    # Centred on the top class first, so that in saturation nothing of the size of v is subtracted from itself.
    v = v - v.gather(1, logits.argmax(1, keepdim=True))
    off = v - (p * v).sum(1, keepdim=True)
    return (p * off.square()).sum(1), (p * off.pow(3)).sum(1)
