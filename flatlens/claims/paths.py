"""Attacks' paths of a case, as traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import STANDARD
from flatlens.claims.nets import Case

if TYPE_CHECKING:
    from flatlens.records.trajectory import Trace


def along(
    case: Case,
    attack: Any = None,
    *,
    kind: str = STANDARD,
    kinds: tuple[str, ...] = (),
    steps: int = 40,
    step_size: float | None = None,
    controls: tuple[str, ...] = (),
    layers: tuple[str, ...] = ("head",),
    eps: float | None = None,
) -> Trace:
    """The trace of an attack on one of a case's networks, from the samples that are right.

    Args:
        case: the network.
        attack: what walks; PGD in linf of the case's radius when left out.
        kind: which of the networks is attacked.
        kinds: which networks must be right at a sample; the attacked one when left out.
        steps: of PGD.
        step_size: of PGD.
        controls: beside the attack.
        layers: that are probed.
        eps: radius of PGD, when not the case's own.
    """
    from flatlens import attacks
    from flatlens.measure.trace import trace

    x, y, _ = case.right(*(kinds or (kind,)))
    if attack is None:
        attack = attacks.PGD(eps=case.eps if eps is None else eps, steps=steps, step_size=step_size)
    return trace(
        case.model(kind), x, y, attack=attack, controls=list(controls), layers=list(layers), seed=case.seed,
        images="none", bounds=case.data.bounds,
    )  # fmt: skip


def to_peak(trace: Trace) -> NDArray[np.float64]:
    """L2 from the clean input to where the head's κ is largest on the attack's path, ``[n]``; NaN if not finite."""
    valley, length = trace.valley(), trace.matrix("l2").values
    at = np.take_along_axis(length, np.maximum(valley.peak_step, 0)[:, None], 1)[:, 0]
    return np.where(valley.finite, at, np.nan)
