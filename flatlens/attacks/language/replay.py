"""Slots that are there already, measured as if an attack had yielded them: a file's strings, a recorded attack's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from flatlens.datasets import strings
from flatlens.datasets.prompts import Prompts
from flatlens.datasets.strings import Found
from flatlens.errors import AttackError
from flatlens.records.schema import Caution
from flatlens.victims.encoding import Encoding, text_of
from flatlens.victims.language_parts import demand_room
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass

if TYPE_CHECKING:
    from flatlens.victims.tokens import TokenVictim

SHOWN = 5
"""Texts that a caution names, at most."""


@dataclass(frozen=True, eq=False)
class Replay:
    """Slots of each prompt, step by step, the start first.

    Attributes:
        name: as a trace tells it.
        slots: prompt's number in its data -> its slots: tokens ``[S]``, or embeddings ``[S, d]`` of what is no text.
        discrete: whether all of them are tokens.
    """

    name: str
    slots: Mapping[int, Sequence[Tensor]]
    discrete: bool = True

    norm = None

    @property
    def length(self) -> int:
        """Of the longest path, the start not counted."""
        return max(map(len, self.slots.values())) - 1

    def describe(self) -> dict[str, Any]:
        """What a trace says of how it was made."""
        return {"steps": self.length}

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield each slot. No gradient is taken."""
        first = 0 if batch.reached is None else batch.reached.step
        for slot in self.slots[int(batch.ids[0])][first:]:
            yield victim(slot.unsqueeze(0), batch.y, final=True)


class Fitted(NamedTuple):
    """What is replayed on prompts, their tokens there, and what a reader must know of it."""

    attack: Replay
    encodings: list[Encoding]
    cautions: tuple[Caution, ...]


@dataclass(frozen=True, eq=False)
class Strings:
    """Slots as texts, not yet given to their prompts; made by `from_file`."""

    name: str
    found: Sequence[Found]

    def on(
        self, model: Any, prompts: Prompts, places: Sequence[int], encodings: Sequence[Encoding], slot: str
    ) -> Fitted:
        """What is replayed on these prompts: each text's own tokens, in the place of the slot.

        Raises:
            AttackError: there is nothing of a prompt, or a text holds a control token.
            ModelError: the model has no places for a text.
        """
        slots: dict[int, list[Tensor]] = {}
        texts = strings.of_prompts(self.found, prompts, places, slot)
        for name, place, encoding, own in zip(prompts.names, places, encodings, texts, strict=True):
            slots[place] = [torch.tensor(encoding.slot), *(_ids(encoding, text, i, name) for i, text in enumerate(own))]
            longest = max(slots[place], key=len)
            demand_room(
                model, replace(encoding, slot=tuple(longest.tolist())), model.get_output_embeddings().out_features
            )
        return Fitted(Replay(self.name, slots), list(encodings), strays(prompts, places, encodings, slots))


def from_file(file: Path, name: str) -> Strings:
    """The strings of a file (`flatlens.datasets.strings`).

    Raises:
        AttackError: it holds none.
    """
    return Strings(name, strings.load(file))


def strays(
    prompts: Prompts, places: Sequence[int], encodings: Sequence[Encoding], slots: Mapping[int, Sequence[Tensor]]
) -> tuple[Caution, ...]:
    """A caution that names those slots whose text in the whole prompt is other tokens."""
    lost = []
    for name, place, encoding in zip(prompts.names, places, encodings, strict=True):
        for step, ids in enumerate(slots[place]):
            if not ids.is_floating_point() and not bool(encoding.exact(ids.unsqueeze(0))[0]):
                lost.append(f"prompt '{name}' step {step} {text_of(encoding.tokenizer, ids.tolist())!r:.60}")
    if not lost:
        return ()
    more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    count = sum(map(len, slots.values()))
    return (
        Caution(
            "not-retokenised",
            f"{len(lost)} of {count} slots are other tokens once their text is put into the whole prompt: "
            f"{', '.join(lost[:SHOWN])}{more}; they are measured at their own tokens, which no text gives",
        ),
    )


def _ids(encoding: Encoding, text: str, number: int, name: str) -> Tensor:
    tokenizer = encoding.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    held = next((i for i in ids if i in special and text_of(tokenizer, [i]).strip()), None)
    if held is not None:
        raise AttackError(
            f"string {number} of prompt '{name}' holds {text_of(tokenizer, [held])!r}, which the tokenizer reads as a "
            "control token; leave that string out"
        )
    if not ids:
        raise AttackError(f"string {number} of prompt '{name}', {text!r}, has no tokens; leave it out")
    return torch.tensor(ids)
