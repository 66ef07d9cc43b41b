"""TOML files of settings, and ``--set a.b=c``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flatlens.errors import SpecError, one_line
from flatlens.specs.spelling import settings_of
from flatlens.specs.values import shortened


def read_toml(file: str | Path) -> dict[str, Any]:
    """The settings in a TOML file.

    Raises:
        SpecError: the file is missing or is not TOML.
    """
    return parse_toml(read_text(file), file)


def read_text(file: str | Path) -> str:
    """The text of a TOML file, which may be a pipe, that can be read but once.

    Raises:
        SpecError: the file is missing or is not text.
    """
    try:
        return Path(file).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise SpecError(f"'{file}' is not TOML: {one_line(error)}; save it as UTF-8") from error
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        raise SpecError(f"cannot read '{shortened(str(file))}': {why}; name a TOML file") from error


def parse_toml(text: str, file: str | Path) -> dict[str, Any]:
    """The settings in the text of a TOML file.

    Raises:
        SpecError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOML's own, or a number of too many digits
        raise SpecError(f"'{file}' is not TOML: {one_line(error)}") from error
    except RecursionError as error:
        raise SpecError(f"'{file}' has tables or lists within each other beyond what can be read") from error


_TABLES = ("train", "immunize")


def assign(values: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """``values`` with ``a.b=c`` settings put in; c is read as TOML, and as text where it is none.

    The attack's settings may be written with their table (``attack.eps=0.1``) or without.

    Raises:
        SpecError: a text is no assignment, or what it assigns to is no table.
    """
    out = settings_of(values)
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise SpecError(f"--set '{text}' is not of the form key=value, for example --set attack.random_start=true")
        table, dot, name = key.strip().partition(".")
        if dot and table in _TABLES:
            own = out.get(table) or {}
            if not isinstance(own, Mapping):
                raise SpecError(
                    f"--set '{shortened(text)}': {table} is {shortened(repr(own))}, and no table; give one of the two"
                )
            out[table] = dict(own) | {name: _parse(value.strip())}
        elif dot and table == "attack":
            out |= settings_of({"attack": {name: _parse(value.strip())}})
        else:
            out |= settings_of({key.strip(): _parse(value.strip())})
    return out


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (
        ValueError,
        RecursionError,
    ):  # no TOML, a number of too many digits, or lists within each other beyond reason
        return text
