"""What an immunization found: an extractor, its ratios, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from flatlens.hessian.condition import Floats
from flatlens.immunity.ceiling import Ratios
from flatlens.records.schema import Caution

HISTORY = pa.schema([("step", pa.int32()), ("eta", pa.float64()), *((name, pa.float64()) for name in Ratios._fields)])
"""A row a step that was tried: the length of the next one, and what the extractor reached."""


class Change(NamedTuple):
    """A condition number without θ and with it."""

    before: float
    after: float


@dataclass(frozen=True)
class Immunized:
    """An extractor, and what it does; all ratios are of condition numbers, without units.

    Attributes:
        method: how θ was found.
        theta: ``[d, d]``; a sample's features x become xθ. Its scale changes nothing.
        i: κ(K_H(θ)) / κ(K_H(I)): by how much the harmful task is worse conditioned; above 1 is wanted.
        ii: κ(K_P(θ)) / κ(K_P(I)): the same of the primary task; below 1 is wanted.
        rir: i / ii, the relative immunization ratio.
        bound: the ceiling of ``rir``, which no linear extractor exceeds. It is the defender's upper limit.
        heldout: i, ii and rir on samples that θ has not seen; None where none were held out.
        stop: why it ended: ceiling, target, steps, stalled (no step is left to accept) or not-immunizable.
        harmful: the condition number of the harmful task, before and after.
        primary: that of the primary task.
        steps: how many steps were tried.
        ridge: ρ; ρ·tr(K)/d·I is a part of both Hessians.
        samples: how many of each task θ was found on: primary, harmful.
        history: a row for each step that was tried; None for the method ceiling.
        attackers: how fast the probes are learnt with θ and without, by several attackers (`attackers.SCHEMA`); None
            where there are no targets.
        cautions: what makes the figures misleading.
        finetuning: the whole network fine-tuned on the harmful task (`fine_tuning.SCHEMA`); None where it was not asked
            for.
    """

    method: str
    theta: Floats = field(repr=False)
    i: float
    ii: float
    rir: float
    bound: float
    heldout: Ratios | None
    stop: str
    harmful: Change
    primary: Change
    steps: int
    ridge: float
    samples: tuple[int, int]
    history: pa.Table | None = field(repr=False)
    attackers: pa.Table | None = field(repr=False)
    cautions: tuple[Caution, ...] = field(repr=False)
    finetuning: pa.Table | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, as plain data, without θ and the tables."""
        told: dict[str, Any] = {
            name: getattr(self, name) for name in ("method", "i", "ii", "rir", "bound", "stop", "steps", "ridge")
        }
        told["heldout"] = None if self.heldout is None else self.heldout._asdict()
        told |= {"harmful": self.harmful._asdict(), "primary": self.primary._asdict(), "samples": list(self.samples)}
        return told | {"cautions": [caution._asdict() for caution in self.cautions]}
