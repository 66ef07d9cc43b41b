"""What an attack is to the loop: anything that walks, or that is recorded and then replayed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import nn

from flatlens.victims.images import Batch, Forward, Victim
from flatlens.victims.noise import Noise


@runtime_checkable
class Attack(Protocol):
    """Anything that walks: yields the pass at the clean input first, at the final iterate last."""

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Forward]:
        """Walk from ``batch.x``."""


@runtime_checkable
class Recorder(Protocol):
    """An attack that does not yield: it is run once on the user's own model and then replayed."""

    def record(self, model: nn.Module, batch: Batch, bounds: tuple[float, float]) -> tuple[Attack, dict[str, int]]:
        """Run it. Returns what replays it, and counts of what a reader must know (code -> samples)."""
