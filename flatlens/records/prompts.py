"""A language model's prompts as a run keeps them (``prompts.json``), and a prompt at one step of a path. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatlens.files import borders
from flatlens.files.borders import DamageError
from flatlens.records import stored

PARTS = ("prefix", "slot", "tail", "target")


@dataclass(frozen=True)
class AtStep:
    """A prompt at one step of a path.

    Attributes:
        step: which.
        ids: the tokens of ``prefix``, ``slot``, ``tail`` and ``target``, by these names.
        pieces: what they look like.
        soft: the slot is no text: its tokens are the nearest ones.
    """

    step: int
    ids: Mapping[str, list[int]]
    pieces: Mapping[str, list[str]]
    soft: bool

    @property
    def slot(self) -> str:
        """The slot's text."""
        return "".join(self.pieces["slot"])

    @property
    def text(self) -> str:
        """The text of the whole prompt, without the target."""
        return "".join(text for part in PARTS[:-1] for text in self.pieces[part])

    def __str__(self) -> str:
        return self.text


def read(path: Path, files: Mapping[str, str] | None) -> tuple[dict[str, Any], ...]:
    """The prompts of a run, each with its tokens and what they look like.

    Raises:
        DamageError: the file is damaged.
    """
    found: Any = borders.read_json(stored.verify(path, files)).get("prompts")
    if not isinstance(found, list) or not all(_is_prompt(one) for one in found):
        raise DamageError(f"{path.name} tells no prompts")
    return tuple(found)


def _is_prompt(one: Any) -> bool:
    if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("id", "prompt", "target")):
        return False
    ids, pieces = one.get("ids"), one.get("pieces")
    if not isinstance(one.get("sample"), int) or not isinstance(ids, dict) or not isinstance(pieces, dict):
        return False
    for part in PARTS:
        numbers, texts = ids.get(part), pieces.get(part)
        if not isinstance(numbers, list) or not isinstance(texts, list) or len(numbers) != len(texts):
            return False
        if not all(isinstance(n, int) for n in numbers) or not all(isinstance(text, str) for text in texts):
            return False
    return True
