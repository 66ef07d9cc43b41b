"""How far each sample is from the boundary, as DDN finds it: the yardstick of claims about distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flatlens.claims.nets import Case

STEPS = 100
"""Of DDN, as published."""


class Nearest(NamedTuple):
    """The nearest adversarial input found: its distance in l2 ``[n]``, NaN where none was found, and itself."""

    distance: NDArray[np.float64]
    x: NDArray[np.float32]


def nearest(case: Case, model: nn.Module, x: Tensor, y: Tensor, *, steps: int = STEPS) -> Nearest:
    """What DDN on the margin finds around each sample: an upper bound of its distance to the boundary.

    The margin, not the cross-entropy: its gradient does not vanish, and DDN looks at its direction alone.

    Args:
        case: whose seed and bounds are used.
        model: the network.
        x: samples that it is right at, ``[n, …]``.
        y: their labels.
        steps: of DDN.
    """
    from flatlens import attacks
    from flatlens.measure.trace import trace

    found = trace(
        model, x, y, attack=attacks.DDN(steps=steps, objective="margin"), seed=case.seed, images="key",
        bounds=case.data.bounds,
    )  # fmt: skip
    flipped = found.result("flipped").astype(bool)
    return Nearest(np.where(flipped, found.result("l2"), np.nan), found.x_adv)


def radius(distance: NDArray[np.float64]) -> float:
    """The median distance of those that were turned; 1 where none was, and everything is as good."""
    turned = distance[~np.isnan(distance)]
    return float(np.median(turned)) if len(turned) else 1.0
