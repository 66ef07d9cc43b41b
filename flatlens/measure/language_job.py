"""`LanguageJob`: the trace of a language model, prepared. A batch is one prompt.

It has what `flatlens.measure.job.Job` has, as far as a run uses it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatlens.attacks.protocol import Attack
from flatlens.datasets.prompts import Prompts
from flatlens.errors import ResourceError
from flatlens.hessian.fisher import FisherSampled
from flatlens.hessian.positions import HeadAtPositions
from flatlens.measure.job import versions
from flatlens.measure.loop import Piece
from flatlens.measure.prompt_walk import PromptWalk
from flatlens.models import guard
from flatlens.probes.inner_layers import InnerLayers
from flatlens.progress import Report
from flatlens.records.schema import Caution
from flatlens.records.trajectory import Trace
from flatlens.victims.encoding import Encoding
from flatlens.victims.language_parts import Parts
from flatlens.victims.layers import Layer
from flatlens.victims.tokens import TokenVictim


@dataclasses.dataclass
class LanguageJob:
    """A trace of a language model, prepared.

    Attributes:
        model: the user's; frozen while prompts are measured, and afterwards as it was.
        parts: of the model.
        prompts: all of them, and ``encodings`` their tokens.
        ids: of the prompts in their data, ``[n]``: they identify their noise.
        attack: what walks.
        controls: names of the paths beside it.
        settings: ``seed``, ``positions``, ``slot``, ``chat``, ``stop_after``, ``chunk`` and ``slot_len`` of the run.
        writable: which tokens an attack may write, ``[V]``.
    """

    model: Any
    parts: Parts
    prompts: Prompts
    encodings: Sequence[Encoding]
    ids: Tensor
    attack: Attack
    controls: tuple[str, ...]
    settings: Mapping[str, Any]
    writable: Tensor
    preflight: tuple[Caution, ...] = ()
    first: TokenVictim | None = None
    surface: bool = False
    layers: Mapping[str, Layer] = dataclasses.field(default_factory=dict)
    """Those that are measured beside the head, by ``probes`` random probes."""
    probes: int = 16

    @functools.cached_property
    def measure(self) -> HeadAtPositions:
        """Of the head's curvature; the same for all prompts."""
        return HeadAtPositions(self.parts.head)

    @property
    def batches(self) -> int:
        """One for each prompt."""
        return len(self.encodings)

    @property
    def batch_size(self) -> int:
        """Candidates that are evaluated together."""
        return int(self.settings["chunk"])

    @property
    def length(self) -> int:
        """Steps of the attack's path, the start not counted."""
        return self.attack.length

    def victim(self, index: int) -> TokenVictim:
        """The model at one of the prompts."""
        if index == 0 and self.first is not None:
            return self.first
        return TokenVictim(
            self.model, self.encodings[index], chunk=self.batch_size, parts=self.parts, writable=self.writable
        )

    def inner(self, index: int, victim: TokenVictim) -> InnerLayers | None:
        """Of the layers beside the head at one of the prompts; None where there are none."""
        if not self.layers:
            return None
        key = (self.settings["seed"], int(self.ids[index]), "fisher")
        return InnerLayers(victim, self.layers, FisherSampled(self.layers, probes=self.probes, key=key))

    def cautions(self, notes: Mapping[str, int], wrong: int) -> tuple[Caution, ...]:
        """What was found before the attack, and of how many prompts the prefix had to be computed at each pass."""
        plain = notes.get("uncached", 0)
        said = (
            f"the prefix of {plain} of {self.batches} prompts is computed anew at every pass, for with a cache the "
            "model's features were others: the numbers are right, and take longer"
        )
        return (*self.preflight, *([Caution("uncached", said)] if plain else []))

    def learnt(self, trace: Trace, notes: Mapping[str, int]) -> dict[str, Any]:
        """Nothing: no attack on language models learns."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """What a manifest says of how the numbers came about."""
        return versions() | {
            "device": str(self.parts.head.weight.device),
            "threads": torch.get_num_threads(),
            "head": self.parts.name,
            "classes": int(self.parts.head.weight.shape[0]),
            "samples": self.batches,
            "seed": self.settings["seed"],
            "prompts": self.prompts.names,
        }

    def texts(self) -> list[dict[str, Any]]:
        """What ``prompts.json`` holds: each prompt, its tokens and what they look like."""
        found = []
        for i, (one, encoding) in enumerate(zip(self.prompts.prompts, self.encodings, strict=True)):
            ids = {name: list(getattr(encoding, name)) for name in ("prefix", "slot", "tail", "target")}
            known = {"sample": int(self.ids[i]), "id": self.prompts.names[i], **one.to_dict()}
            found.append({**known, "ids": ids, "pieces": encoding.pieces})
        return found

    def pieces(
        self, wanted: Sequence[int], progress: Report | None, opened: Callable[[int], Path] | None = None
    ) -> Iterator[tuple[int, Piece]]:
        """The wanted prompts, one after the other.

        Args:
            wanted: their numbers.
            progress: called after every step.
            opened: where a prompt that is under way is kept, so that it can be gone on with.

        Yields:
            number and rows of each.

        Raises:
            ResourceError: memory ran out.
        """  # noqa: DOC501 (other errors go through)
        for index in wanted:
            try:
                walker = PromptWalk(self, index, progress, None if opened is None else opened(index))
                with walker.victim.held():
                    found = walker.piece()
            except (MemoryError, RuntimeError) as error:
                if not guard.is_out_of_memory(error):
                    raise
                smaller = max(1, self.batch_size // 2)
                raise ResourceError(
                    f"out of memory at prompt {index}; run again with --batch-size {smaller}: that is another run, for "
                    "candidates' losses depend in their last bits on how many are computed together"
                ) from error
            yield index, found
