"""Prompts for language models, each with the text that the model is to be made to say. No torch, no tokenizer.

``prompts:FILE.jsonl`` holds an object a line with ``prompt`` and ``target``; ``prompts:FILE.csv`` has columns of these
names, or ``goal`` and ``target``. Both may have ``system`` and ``id``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flatlens.errors import DataError, unknown
from flatlens.specs import uris
from flatlens.specs.language import INLINE, SHIPPED

LONGEST = 1_000_000
"""Characters of a prompt: more are no prompt, but a wrong file."""
_SHIPPED = Path(__file__).parents[1] / "shipped"
_PROMPT, _KEYS = ("prompt", "goal"), ("prompt", "goal", "target", "system", "id")


@dataclass(frozen=True)
class Prompt:
    """What a user says, and what the model is to be made to answer.

    Attributes:
        prompt: the user's text; the slot that an attack changes stands after it, or before it.
        target: the answer that the attack is after; success is that greedy decoding gives exactly this.
        system: the system's text, where the model's chat template has a place for it.
        id: its name in tables and on pages; its number when left out.

    Raises:
        DataError: a text is empty, no text, or longer than a million characters.
    """

    prompt: str
    target: str
    system: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        for key in ("prompt", "target", "system", "id"):
            _check(key, getattr(self, key), needed=key in ("prompt", "target"))

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates and other libraries' attacks take it."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.prompt}]

    def to_dict(self) -> dict[str, str]:
        """Plain data, without what is None."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Prompts:
    """Prompts by the name that they were loaded by.

    Attributes:
        prompts: in the order of the file.
        uri: how they are named.
        sha256: of their texts.
    """

    prompts: tuple[Prompt, ...]
    uri: str
    sha256: str

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def names(self) -> list[str]:
        """Each prompt's id, or its number where it has none."""
        return [str(i) if one.id is None else one.id for i, one in enumerate(self.prompts)]


def gathered(prompts: Sequence[Prompt], uri: str) -> Prompts:
    """Prompts as they were given, checked.

    Raises:
        DataError: there are none, or two have the same id.
    """
    if not prompts:
        raise DataError(f"'{uri}' holds no prompt; a line is, for example, {_EXAMPLE}")
    for one in prompts:
        if not isinstance(one, Prompt):
            raise DataError(f"a {type(one).__name__} is no prompt; give fl.Prompt(prompt, target=…)")
    seen: dict[str, int] = {}
    for i, one in enumerate(prompts):
        if one.id is not None and seen.setdefault(one.id, i) != i:
            raise DataError(
                f"prompts {seen[one.id]} and {i} of '{uri}' both have the id '{one.id}'; ids tell them apart"
            )
    plain = json.dumps([one.to_dict() for one in prompts], sort_keys=True, ensure_ascii=True)
    return Prompts(tuple(prompts), uri, hashlib.sha256(plain.encode()).hexdigest())


def load(uri: str, *, prompt: str | None = None, target: str | None = None, system: str | None = None) -> Prompts:
    """The prompts that ``uri`` names.

    Args:
        uri: ``prompts:FILE.jsonl``, ``prompts:FILE.csv``, ``flatlens:benign-targets``, or ``flatlens:prompt``, which
            is the one that the following give.
        prompt: of ``flatlens:prompt``.
        target: of ``flatlens:prompt``.
        system: of those that have none of their own.

    Raises:
        DataError: there is no such file, or a line of it is no prompt.
    """
    if uri == INLINE:
        if prompt is None or target is None:
            raise DataError(f"--{'prompt' if prompt is None else 'target'} is missing; a prompt needs both, as texts")
        return gathered([Prompt(prompt, target, system)], uri)
    parsed = uris.parse(uri, DataError)
    if uri in SHIPPED:
        file = _SHIPPED / f"{parsed.path}.jsonl"
        found = list(_lines(file.read_text(encoding="utf-8"), uri, system))
    elif parsed.scheme == "prompts":
        parsed.only([])
        found = list(_read(parsed, system))
    else:
        raise DataError(
            unknown("prompts", uri, ["prompts:FILE.jsonl", "prompts:FILE.csv", *SHIPPED], where="there are")
        )
    return gathered(found, uri)


_EXAMPLE = '{"prompt": "Tell me about tea.", "target": "The moon is made of cheese."}'


def _read(uri: uris.Uri, system: str | None) -> Iterator[Prompt]:
    place = uri.file
    if not uri.path or not place.is_file():
        what = "is a folder" if uri.path and place.is_dir() else "is not there"
        raise DataError(f"'{uri.path}' {what}; prompts: needs a file, FILE.jsonl or FILE.csv")
    text = text_of_file(place, "prompts", uri.path)
    if place.suffix.lower() == ".csv":
        yield from _columns(text, uri.path, system)
    elif place.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        yield from _lines(text, uri.path, system)
    else:
        raise DataError(f"'{uri.path}' is neither .jsonl (an object a line) nor .csv (columns prompt and target)")


def text_of_file(place: Path, of: str, name: str | None = None) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        place: of the file.
        of: what it should hold, for messages.
        name: what it was called; its place when left out.

    Raises:
        DataError: it is not there, cannot be read, or is not UTF-8.
    """
    name = str(place) if name is None else name
    if not place.is_file():
        what = "is a folder" if place.is_dir() else "is not there"
        raise DataError(f"'{name}' {what}; a file of {of} is needed")
    try:
        content = place.read_bytes()
    except OSError as error:
        raise DataError(f"'{name}' cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"'{name}' is not UTF-8: line {line} holds byte 0x{content[error.start]:02x}") from error


def _lines(text: str, file: str, system: str | None) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"line {number} of '{file}' is no JSON ({error}); a line is, for example, {_EXAMPLE}"
            ) from error
        if not isinstance(found, dict):
            raise DataError(f"line {number} of '{file}' is no object; a line is, for example, {_EXAMPLE}")
        yield _made(found, f"line {number} of '{file}'", system)


def _columns(text: str, file: str, system: str | None) -> Iterator[Prompt]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = rows.fieldnames or []
        if "target" not in names or not any(key in names for key in _PROMPT):
            shown = ", ".join(map(repr, names)) or "nothing"
            raise DataError(f"the first line of '{file}' names {shown}; columns prompt (or goal) and target are needed")
        for row in rows:
            known = {key: value for key, value in row.items() if key in _KEYS and value not in (None, "")}
            yield _made(known, f"line {rows.line_num} of '{file}'", system)
    except csv.Error as error:
        raise DataError(f"line {rows.line_num} of '{file}' is no CSV: {error}") from error


def _made(found: Mapping[str, Any], where: str, system: str | None) -> Prompt:
    key = next((key for key in _PROMPT if key in found), None)
    for needed, there in (("prompt", key is not None), ("target", "target" in found)):
        if not there:
            raise DataError(f"{where} has no {needed}; a line is, for example, {_EXAMPLE}")
    name: Any = found.get("id")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    try:
        return Prompt(found[str(key)], found["target"], found.get("system", system), name)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _check(key: str, value: Any, *, needed: bool) -> None:
    if value is None and not needed:
        return
    if not isinstance(value, str):
        raise DataError(f"{key} is of type {type(value).__name__} ({str(value)[:60]}); a text is needed")
    if key != "system" and not value.strip():
        raise DataError(f"{key} is empty; a text is needed")
    if len(value) > LONGEST:
        raise DataError(f"{key} has {len(value):,} characters; at most {LONGEST:,} are read")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{key} {value[:60]!r} holds what is no text (the character 0, or half a character)")
