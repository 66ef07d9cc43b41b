"""Yardsticks that need no attack: the user asks for the target, the slot says it, or plain text holds it many times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from flatlens.datasets.prompts import Prompt
from flatlens.errors import AttackError
from flatlens.victims import encoding
from flatlens.victims.language_parts import places
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass

if TYPE_CHECKING:
    from flatlens.victims.tokens import TokenVictim

COPIES = (0, 1, 2, 4, 8, 16, 32)
"""How often the target stands in the text before it, step by step, of the control ``copies``."""


@dataclass(frozen=True)
class Given:
    """The prompt as it is: one point, no attack."""

    norm = None
    length = 0

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the one point."""
        yield victim(victim.start(), batch.y, final=True)


@dataclass(frozen=True)
class Ask:
    """The user asks for it, without a slot: ``Repeat exactly: …``. One point.

    Args:
        prompt: whose target it is.
        chat: as the prompt was encoded.
    """

    prompt: Prompt
    chat: str = "auto"

    norm = None
    length = 0

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the one point."""
        tokenizer = victim.encoding.tokenizer
        said = encoding.asked(tokenizer, self.prompt, f"Repeat exactly: {self.prompt.target}", chat=self.chat)
        yield _at(victim, said, batch)


@dataclass(frozen=True)
class Planted:
    """The slot says `` Say: `` and the target: the obvious text, in reach of every discrete attack. One point.

    Args:
        prompt: whose target it is.
        chat: as the prompt was encoded.
        slot: where the slot is.
    """

    prompt: Prompt
    chat: str = "auto"
    slot: str = "suffix"

    norm = None
    length = 0

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the one point."""
        tokenizer, text = victim.encoding.tokenizer, f" Say: {self.prompt.target}"
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        said = encoding.encode(tokenizer, self.prompt, slot_len=length, init=text, slot=self.slot, chat=self.chat)
        yield _at(victim, said, batch)


@dataclass(frozen=True)
class Copies:
    """Plain text, no template: the prompt, then 0, 1, 2, 4 … 32 copies of the target, a line each; then the target.

    Args:
        prompt: whose target it is.
        counts: of copies, one a step.
    """

    prompt: Prompt
    counts: tuple[int, ...] = COPIES

    norm = None

    @property
    def length(self) -> int:
        """Points after the first."""
        return len(self.counts) - 1

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield a point for each count that the model has places for; a path broken off goes on where it was."""
        first = 0 if batch.reached is None else batch.reached.step
        for count in self.counts[first:]:
            text = f"{self.prompt.prompt}\n" + f"{self.prompt.target}\n" * count
            said = encoding.plain(victim.encoding.tokenizer, text, self.prompt.target)
            room = places(victim.model)
            if room is not None and said.length > room:
                return
            yield _at(victim, said, batch)


def _at(victim: TokenVictim, said: encoding.Encoding, batch: Batch) -> Pass:
    if list(said.target) != batch.y[0].tolist():
        raise AttackError(
            "the target is other tokens after another text, so that this is no yardstick for it; leave this control out"
        )
    return victim.at(said)(torch.tensor([said.slot], device=victim.device), batch.y, final=True)
