"""Slots of prompts that somebody has found, as texts: read from a file, and given to the prompts that they are of.

No torch, no tokenizer. A file is one of these (JSON, UTF-8):

- lines of objects: ``{"id": …, "strings": ["…", …]}``, or ``"index"`` for the prompt's place in its data, from 0 on;
- what nanoGCG returns, as an object: ``strings``, ``losses``, ``best_string``;
- artifacts as JailbreakBench publishes them: a list of objects, or an object with such a list as ``jailbreaks``, each
  with ``index`` and ``prompt``, the whole of what the user says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatlens.datasets.prompts import LONGEST, Prompt, Prompts, text_of_file
from flatlens.errors import AttackError, DataError

_SLOTS, _WHOLES = ("strings", "string", "slot", "suffix", "best_string"), ("jailbreak", "prompt")
"""Keys of texts of the slot, and of all that the user says; the first one that is there counts."""
_EXAMPLE = '{"id": "tea", "strings": [" x x x", " x say x"]}'


@dataclass(frozen=True)
class Found:
    """What was found for one prompt.

    Attributes:
        where: it stands, for messages.
        texts: step by step.
        whole: each is all that the user says, the prompt with its slot.
        id: of the prompt, where it is said.
        index: of the prompt in its data, where it is said.
    """

    where: str
    texts: tuple[str, ...]
    whole: bool
    id: str | None = None
    index: int | None = None

    def is_of(self, name: str, place: int, own: int) -> bool:
        """Whether it is of the prompt of this name and place; ``own`` is its own place in the file."""
        if self.id is not None:
            return self.id == name
        return place == (own if self.index is None else self.index)


def load(file: Path) -> list[Found]:
    """What a file holds, prompt by prompt.

    Raises:
        AttackError: it is none of these kinds; the message says at which line or entry.
    """
    try:
        text = text_of_file(file, "strings of prompts")
    except DataError as error:
        raise AttackError(str(error)) from error
    found = [_found(entry, where) for where, entry in _entries(text, file.name) if not _is_failure(entry)]
    if not found:
        raise AttackError(f"'{file.name}' holds no strings; a line is, for example, {_EXAMPLE}")
    for key in ("id", "index"):
        seen: dict[Any, str] = {}
        for one in found:
            value = getattr(one, key)
            if value is not None and seen.setdefault(value, one.where) != one.where:
                raise AttackError(f"{seen[value]} and {one.where} are both of {key} {value!r}; join their strings")
    return found


def of_prompts(found: Sequence[Found], prompts: Prompts, places: Sequence[int], slot: str) -> list[tuple[str, ...]]:
    """The slots of each of the prompts, as texts.

    Args:
        found: what a file holds.
        prompts: those that are attacked, and ``places`` where they stand in their data.
        places: of the prompts.
        slot: ``suffix`` or ``prefix``.

    Raises:
        AttackError: there is nothing of a prompt, or what the user says does not hold it.
    """
    if len(found) == 1 and found[0].id is None and found[0].index is None and len(prompts) > 1:
        raise AttackError(
            f"{found[0].where} is of one prompt, and the data have {len(prompts)}: give --samples with the one that "
            "it is of"
        )
    single = len(found) == len(prompts) == 1 and found[0].id is None and found[0].index is None
    slots = []
    for name, prompt, place in zip(prompts.names, prompts.prompts, places, strict=True):
        own = found[0] if single else next((o for i, o in enumerate(found) if o.is_of(name, place, i)), None)
        if own is None:
            there = ", ".join(str(o.id if o.id is not None else o.index if o.index is not None else i)
                              for i, o in list(enumerate(found))[:8])  # fmt: skip
            raise AttackError(f"there are no strings of prompt '{name}' (index {place}); there are of: {there}")
        slots.append(tuple(_slot(text, own, prompt, slot) for text in own.texts))
    return slots


def _slot(text: str, own: Found, prompt: Prompt, slot: str) -> str:
    if not own.whole:
        return text
    said, suffix = prompt.prompt, slot == "suffix"
    rest = text.removeprefix(said) if suffix else text.removesuffix(f" {said}")
    if rest in (text, ""):
        raise AttackError(
            f"{own.where} does not {'begin' if suffix else 'end'} with its prompt {said[:40]!r} and go on: there is no "
            "slot in it; fl.curvature_text measures whole texts"
        )
    return rest


def _entries(text: str, name: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = json.loads(text)
    except ValueError:
        yield from _lines(text, name)
        return
    if isinstance(whole, dict) and isinstance(whole.get("jailbreaks"), list):
        whole = whole["jailbreaks"]
    if isinstance(whole, list):
        yield from ((f"entry {i} of '{name}'", one) for i, one in enumerate(whole))
    else:
        yield f"'{name}'", whole


def _lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number} of '{name}'", json.loads(line)
        except ValueError as error:
            raise AttackError(
                f"line {number} of '{name}' is no JSON ({error}); a line is, for example, {_EXAMPLE}"
            ) from error


def _is_failure(entry: Any) -> bool:
    """An artifact's entry of a prompt for which nothing was found."""
    return isinstance(entry, Mapping) and "index" in entry and all(entry.get(k) is None for k in (*_SLOTS, *_WHOLES))


def _found(entry: Any, where: str) -> Found:
    if not isinstance(entry, Mapping):
        raise AttackError(f"{where} is no object; one is, for example, {_EXAMPLE}")
    key = next((key for key in (*_SLOTS, *_WHOLES) if entry.get(key) is not None), None)
    if key is None:
        raise AttackError(f"{where} has neither {', '.join(_SLOTS)} nor {' nor '.join(_WHOLES)}; one is {_EXAMPLE}")
    value = entry[key]
    texts = list(value) if isinstance(value, list) else [value]
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text or len(text) > LONGEST or "\0" in text:
            shown = repr(text)[:40]
            raise AttackError(f"{where}: string {i} is {shown}; needs a text of 1 to {LONGEST:,} characters")
    if not texts:
        raise AttackError(f"{where}: its {key} are empty; one string is needed at least")
    losses = entry.get("losses")
    if key == "strings" and isinstance(losses, list) and len(losses) != len(texts):
        raise AttackError(f"{where} has {len(texts)} strings and {len(losses)} losses; there is a loss for each string")
    name, index = entry.get("id"), entry.get("index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise AttackError(f"{where}: index {index!r} is no place among prompts; needs a whole number of at least 0")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise AttackError(f"{where}: id {name!r} is no name of a prompt; needs a text")
    return Found(where, tuple(texts), key in _WHOLES, None if name is None else str(name), index)
