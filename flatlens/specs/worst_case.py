"""`demand_ball`: what a run must be of for its worst case to be measured, too: attacks within one radius. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from flatlens.errors import SpecError

NORMS = ("linf", "l2")
"""In which the attacks that robustness is judged by are known."""


def demand_ball(attack: str, norm: str | None, eps: float | Sequence[float] | None) -> float:
    """The radius that the worst case is taken within.

    Args:
        attack: its name.
        norm: in which its perturbations are measured; None where it does not say.
        eps: its radius; None where it has none.

    Raises:
        SpecError: it has no radius, one for each sample, or one in a norm that the worst case's attacks do not know.
    """
    if eps is None:
        raise SpecError(f"--worst-case: attack '{attack}' has no radius to attack within; use pgd")
    if norm not in NORMS:
        said = "no norm" if norm is None else f"norm {norm}"
        raise SpecError(f"--worst-case: attack '{attack}' has {said}, and it needs linf or l2")
    if not isinstance(eps, (int, float)):
        raise SpecError(f"--worst-case: attack '{attack}' has a radius for each sample; give one for all")
    return float(eps)
