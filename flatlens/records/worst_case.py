"""What a run's worst of several attacks left, in its manifest: where it stands, and how it is said. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEY = "worst_case"
"""Where it stands in a manifest: the fields of `flatlens.training.robustness.Robustness` as plain data."""


def told(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a manifest says of it; None where it was not asked for."""
    found = manifest.get(KEY)
    return found if isinstance(found, Mapping) else None


def line(found: Mapping[str, Any]) -> str:
    """One line: ``41.0 % [31.9, 50.8] of 100 are left by the worst of 4 attacks; not masked``."""
    worst = found["worst"]
    value, low, high = (100 * float(worst[part]) for part in ("value", "low", "high"))
    masked = "masked" if found["masked"] else "not masked"
    left = f"{value:.1f} % [{low:.1f}, {high:.1f}] of {worst['n']:,} are left"
    return f"{left} by the worst of {len(found['attacks'])} attacks; {masked}"
