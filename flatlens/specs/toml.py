"""TOML files of settings, and ``--set a.b=c``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flatlens.errors import SpecError
from flatlens.specs.numerals import number as number
from flatlens.specs.numerals import shortened


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
            raise SpecError(f"'{file}' is not TOML: {error}; save it as UTF-8") from error
        why = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"cannot read '{shortened(str(file))}': {why}; name a TOML file") from error


def parse_toml(text: str, file: str | Path) -> dict[str, Any]:
    """The settings in the text of a TOML file.

    Raises:
        SpecError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOML's own, or a number of too many digits
        raise SpecError(f"'{file}' is not TOML: {error}") from error
    except RecursionError as error:
        raise SpecError(f"'{file}' has tables or lists within each other beyond what can be read") from error


def assign(values: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """``values`` with ``a.b=c`` settings put in; c is read as TOML, and as text where it is none.

    The attack's settings may be written with their table (``attack.eps=0.1``) or without.

    Raises:
        SpecError: a text that is not ``key=value``, or a recipe that is no table.
    """
    out = dict(values)
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise SpecError(f"--set '{text}' is not of the form key=value, for example --set attack.random_start=true")
        table, dot, name = key.strip().removeprefix("attack.").rpartition(".")
        if dot and table == "train":
            recipe = out.get("train") or {}
            if not isinstance(recipe, Mapping):
                raise SpecError(
                    f"--set '{shortened(text)}': train is {shortened(repr(recipe))}, and no table; give one of the two"
                )
            out["train"] = dict(recipe) | {name: _parse(value.strip())}
        else:
            out[f"{table}{dot}{name}"] = _parse(value.strip())
    return out


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (
        ValueError,
        RecursionError,
    ):  # no TOML, a number of too many digits, or lists within each other beyond reason
        return text
