"""Values of settings as people write them: read, checked and shown in one place.

Numbers are in ASCII digits, 8/255 too: other scripts' digits, ``1_000`` and the like are none.
"""

from __future__ import annotations

import re
from typing import Any

from flatlens.errors import SpecError

DEFAULT_LINF_EPS = 8 / 255
BEYOND = 2**63
"""The first whole number that neither TOML nor a table is sure to hold."""
PLACES = ("model", "data", "attack", "device")
"""Settings whose text may name a place on a disk."""
RADII = ("eps", "step_size")
"""Settings that are lengths in the space of inputs, which people count in levels of 255."""
LONGEST_TEXT = 100_000
"""Characters of a setting."""
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|nan)", re.IGNORECASE)
_LONGEST = 400
"""Characters of a number: more are no slip of the finger."""


def whole(text: str) -> int | None:
    """A whole number, or None."""
    text = text.strip(" ")
    return int(text) if len(text) <= _LONGEST and _WHOLE.fullmatch(text) else None


def number(text: str) -> float:
    """A number as people write it: ``0.3``, ``3e-1`` or ``8/255``.

    Raises:
        SpecError: it is none.
    """
    above, slash, below = text.partition("/")
    parts = [part.strip(" ") for part in ((above, below) if slash else (above,))]
    if all(len(part) <= _LONGEST and _NUMBER.fullmatch(part) for part in parts):
        try:
            return float(parts[0]) / float(parts[1]) if slash else float(parts[0])
        except ZeroDivisionError:
            pass
    raise SpecError(f"'{shortened(text)}' is not a number; write 0.3 or 8/255")


def shortened(text: str) -> str:
    """A text for a message, cut after 200 characters."""
    return text if len(text) <= 200 else f"{text[:200]}…"


def missing(key: str) -> str:
    """One line that says that a setting is missing, and which command lists its values."""
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


def plain(value: Any) -> Any:
    """A number of NumPy's or torch's as Python's own, an array of them as a tuple; anything else as it is."""
    if not hasattr(value, "ndim") or not hasattr(value, "tolist"):
        return value
    return value.item() if value.ndim == 0 else tuple(value.reshape(-1).tolist())


def check_text(key: str, value: str) -> None:
    """Refuse text that cannot be stored: with half a character (a file name that is no UTF-8), or the character 0."""
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
    """A value as people write it, whatever it is of: floats to six digits, lists with blanks, ``none`` for None."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown, value))
    return "none" if value is None else str(value)


def written(key: str, value: Any) -> str:
    """The value of a setting as people write it: radii as 8/255 where they are that.

    Args:
        key: the setting, as ``eps`` or ``train.eps``.
        value: its value.
    """
    return radius(value) if key.rpartition(".")[2] in RADII and isinstance(value, float) else shown(value)


def radius(value: float, digits: int = 6) -> str:
    """A radius or a length of a step: 8/255 where it is whole levels of 255 and no short decimal, such as 0.2."""
    levels = value * 255
    whole_levels = 0 < levels < 255 and abs(levels - round(levels)) < 1e-9 and round(value, 3) != value
    return f"{round(levels)}/255" if whole_levels else f"{value:.{digits}g}"
