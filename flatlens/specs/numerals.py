"""Numbers as people type them, in ASCII digits: other scripts' digits, ``1_000`` and the like are none (no torch)."""

from __future__ import annotations

import re

from flatlens.errors import SpecError

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
    """A value for a message."""
    return text if len(text) <= 200 else f"{text[:200]}…"
