"""An attack that ran by itself while flatlens looked on: its calls of the model, sorted by sample, to be replayed.

`recording` runs an attack that is handed over; here somebody else has run it, so it cannot be run once more for a
sample whose calls cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.attacks.mapping import Call, UnmappableError, paths
from flatlens.attacks.protocol import EXPECTED_STEPS
from flatlens.attacks.recording import Replay, blank, check_range, check_shapes
from flatlens.errors import AttackError
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim


@dataclass
class Seen:
    """What was seen of an attack: an attack that is replayed, once `sort` has been called.

    Attributes:
        name: how it is called in results.
        eps: its radius, where it is known.
        norm: in which perturbations are measured.
        calls_per_step: as for `recording.recorded`.
        returned: what it returned, ``[n, …]`` on the CPU; None where nobody has told.
    """

    name: str
    eps: float | None
    norm: str
    calls_per_step: int
    returned: Tensor | None = None
    target: None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    _iterates: list[list[Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not isinstance(self.calls_per_step, int) or self.calls_per_step < 0:
            raise AttackError(f"calls_per_step = {self.calls_per_step}: needs a whole number, 0 = all at one point")

    def sort(self, calls: list[Call], x: Tensor, bounds: tuple[float, float]) -> None:
        """Give the calls to the samples ``x`` ``[n, …]``, which are on the CPU in the model's dtype.

        Raises:
            AttackError: there is nothing to replay, or what there is cannot be given to samples beyond doubt.
        """
        if not any(call.gradient for call in calls):
            made = f"{len(calls)} calls without one" if calls else "no call at all"
            raise AttackError(
                f"nothing to measure: in the watched block the model was given no input that requires a gradient "
                f"({made}); call the watched object itself, not its .forward, on x.requires_grad_()"
            )
        check_shapes(calls, x, self.name)
        try:
            self._iterates = paths(calls, x, calls_per_step=self.calls_per_step)
        except UnmappableError as error:
            raise AttackError(
                f"the calls in the watched block cannot be given to the {len(x)} samples ({error}); watch one batch "
                "at a time, in the order of x, or hand the attack over: fl.trace(…, attack=function)"
            ) from error
        check_range(self._iterates, x, x if self.returned is None else self.returned, bounds, self.name)

    @property
    def steps(self) -> int | None:
        """Points of the longest path, the clean input not counted; None before anything was seen."""
        if not self._iterates:
            return None
        return max(1, max(map(len, self._iterates)) + (self.returned is not None))

    @property
    def length(self) -> int:
        """The same, or as many as are usual."""
        return self.steps or EXPECTED_STEPS

    def describe(self) -> dict[str, Any]:
        """What a trace says of how it was made."""
        known = {"attack": self.name, "eps": self.eps, "norm": self.norm, "steps": self.steps}
        return {key: value for key, value in known.items() if value is not None}

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Not walked directly: what `record` returns walks."""
        raise AttackError(f"{self.name} is over; trace it with flatlens.watch")

    def record(self, model: nn.Module, batch: Batch, bounds: tuple[float, float]) -> tuple[Replay, dict[str, int]]:
        """What replays the samples of a batch, which are told by their ids; nothing is run."""
        here: Sequence[int] = batch.ids.tolist()
        found = [self._iterates[i] for i in here]
        if self.returned is None:
            return Replay(found), {"end-not-told": len(here)}
        returned = self.returned[torch.tensor(here)]
        return Replay(found, returned), {"blank": blank(returned, batch.x.cpu())}
