"""Values of settings as people write them, checked and worded in one place."""

from __future__ import annotations

from typing import Any

from flatlens.errors import SpecError
from flatlens.specs.numerals import number as number
from flatlens.specs.numerals import shortened

DEFAULT_LINF_EPS = 8 / 255
BEYOND = 2**63
"""The first whole number that neither TOML nor a table is sure to hold."""


PLACES = ("model", "data", "attack", "device")
"""Settings whose text may name a place on a disk."""


LONGEST_TEXT = 100_000
"""Characters of a setting."""


def missing(key: str) -> str:
    """One line for one of `NEEDED` that is not given."""
    return f"{flag(key)} is missing; `flatlens {'datasets' if key == 'data' else f'{key}s'}` lists what there is"


def typed(key: str, value: Any, kinds: Any, to: type) -> Any:
    """``value`` as ``to``, if it is one of ``kinds``.

    Raises:
        SpecError: it is not.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and to is not bool):
        words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
        raise SpecError(f"{flag(key)} {shortened(repr(value))}: needs {words[to]}")
    if to is int and not -BEYOND < value < BEYOND:
        said = str(value) if abs(value) < BEYOND**2 else "of so many digits"
        raise SpecError(f"{flag(key)} {said}: needs a whole number below 2^63 = {BEYOND}")
    if to is str:
        check_text(key, value)
    try:
        return to(value)
    except OverflowError as error:
        raise SpecError(f"{flag(key)}: has more digits than a number can have; write 0.3 or 8/255") from error


def check_text(key: str, value: str) -> None:
    """Refuse what is no text: half a character, as the bytes of a name that is no UTF-8 become, or the character 0."""
    if ("\0" in value and key in PLACES) or any("\ud800" <= c <= "\udfff" for c in value):
        raise SpecError(
            f"{flag(key)} {shortened(value)!r}: holds what is no text, such as bytes that are no UTF-8; rename it"
        )
    if len(value) > LONGEST_TEXT:
        raise SpecError(
            f"{flag(key)} '{value[:60]}…': has {len(value):,} characters; at most {LONGEST_TEXT:,} are read"
        )


def flag(key: str) -> str:
    """The flag of the command line that sets ``key``."""
    return "--" + key.replace("_", "-")


def shown(value: Any) -> str:
    """A value as messages show it; what is not given is ``none``."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
