"""Every claim that there is, in order: its name and the file it stands in. No torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flatlens.claims.claim import Claim
from flatlens.errors import SpecError, unknown

FILES = {
    "C1": "c01_peak_at_the_flip",
    "C2": "c02_flat_valley",
    "C3": "c03_robust_training",
    "C4": "c04_attacks_and_noise",
    "C5": "c05_language_models",
    "C6": "c06_flatness_bounds_the_loss",
    "C7": "c07_scaled_weights",
    "C8": "c08_detection",
    "C9": "c09_wider_basin",
    "C10": "c10_immunization",
    "C11": "c11_closed_gates",
    "C12": "c12_adversarial_training",
    "C13": "c13_scale_widens_the_basin",
    "C14": "c14_loss_is_no_flip",
    "C15": "c15_generalization",
    "C16": "c16_what_robustness_takes",
}
"""Name -> the file of `flatlens.claims` that has ``CLAIM`` and ``measure``."""
ALL = "all"


def module(name: str) -> Any:
    """The file of a claim."""
    return import_module(f"flatlens.claims.{FILES[name]}")


def claim(name: str) -> Claim:
    """A claim by its name."""
    found: Claim = module(name).CLAIM
    return found


def named(names: list[str] | tuple[str, ...]) -> list[str]:
    """Claims by what was typed, in their order; all where none is.

    Raises:
        SpecError: there is no such claim.
    """
    if not names or ALL in (name.lower() for name in names):
        return list(FILES)
    wanted = set()
    for name in names:
        key = name.upper()
        if key not in FILES:
            raise SpecError(unknown("claim", name, [*FILES, ALL], where="there are"))
        wanted.add(key)
    return [name for name in FILES if name in wanted]
