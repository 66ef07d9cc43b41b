"""Names with options, ``NAME?option=value&option=value``, each option with a default and a range. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flatlens.errors import SpecError, UsageError, unknown
from flatlens.specs import uris
from flatlens.specs.values import number, shortened, whole


@dataclass(frozen=True)
class Option:
    """An option: its default, whose type is its own, and what it may be.

    Attributes:
        default: a whole number, a number or a word.
        about: what it is, in a few words.
        above, low: a number must be above the one, and at least the other.
        below, high: it must be below the one, and at most the other.
        words: a word must be one of these.
        argument: what Python calls it, where that differs.
    """

    default: int | float | str
    about: str
    above: float = -math.inf
    low: float = -math.inf
    below: float = math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()
    argument: str | None = None

    def read(self, name: str, text: str, where: str) -> int | float | str:
        """The value that ``text`` says.

        Raises:
            SpecError: it is none that the option may have.
        """
        if isinstance(self.default, str):
            if text not in self.words:
                raise SpecError(f"{unknown(name, text, self.words, where='there are')} (in '{where}')")
            return text
        value: float | None
        if isinstance(self.default, int):
            value = whole(text)
        else:
            try:
                value = number(text)
            except SpecError:
                value = None
        # inf and nan lie between no finite ends, and a whole number of 400 digits is none that math.isfinite takes.
        inside = value is not None and self.above < value < self.below and self.low <= value <= self.high
        if value is None or not inside:
            said = f"{name}={shortened(text)} in '{shortened(where)}'"
            raise SpecError(f"{said}: needs {self.range()}, for example {self.default}")
        return value

    def range(self) -> str:
        """What a number may be, in words."""
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{kind} from {self.low:g} to {self.high:g}"
        ends = {"above": self.above, "of at least": self.low, "below": self.below, "of at most": self.high}
        return f"{kind} {' and '.join(f'{word} {end:g}' for word, end in ends.items() if math.isfinite(end))}"


@dataclass(frozen=True)
class Entry:
    """What can be named: one line about it, with its source, and its options."""

    summary: str
    options: Mapping[str, Option] = field(default_factory=dict)

    def defaults(self) -> dict[str, Any]:
        """Every option with its default."""
        return {name: option.default for name, option in self.options.items()}


@dataclass(frozen=True)
class Named:
    """A name with its options, all of them, those that were left out at their defaults."""

    name: str
    options: Mapping[str, Any]


def read(kind: str, text: str, entries: Mapping[str, Entry], also: Iterable[str] = ()) -> Named:
    """What ``text`` names, with its options.

    Args:
        kind: what it should be the name of, for the message.
        text: ``name`` or ``name?option=value&option=value``.
        entries: what there is.
        also: names that exist beside these and have no options, for the list in the message.

    Raises:
        SpecError: there is no such name, it has no such option, or an option cannot be so.
    """
    name, _, query = text.partition("?")
    if name not in entries:
        raise SpecError(unknown(kind, name, [*also, *entries], where="there are"))
    entry = entries[name]
    try:
        # With a scheme of its own, though an empty one: else a colon in a value would be taken for the end of one.
        given = uris.parse(f":?{query}").options if query else {}
    except UsageError as error:
        raise SpecError(str(error).replace(f"':?{query}'", f"'{text}'")) from error
    for option in given:
        if option not in entry.options:
            has = f"'{name}' has" if entry.options else f"'{name}' has no options"
            raise SpecError(unknown("option", option, entry.options, where=has))
    return Named(
        name,
        {
            option: known.read(option, given[option], text) if option in given else known.default
            for option, known in entry.options.items()
        },
    )


def written(found: Named, entries: Mapping[str, Entry]) -> str:
    """The shortest text that `read` reads as ``found``: what is at its default is left out, in the entry's order."""
    changed = [
        f"{name}={value}" for name, value in found.options.items() if value != entries[found.name].options[name].default
    ]
    return f"{found.name}?{'&'.join(changed)}" if changed else found.name
