"""How models and data are named: ``scheme:path?option=value&option=value``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from flatlens.errors import UsageError, unknown


@dataclass(frozen=True)
class Uri:
    """A parsed name.

    Attributes:
        text: as it was typed.
        scheme: before the first colon; empty if there is none.
        path: between the colon and the question mark, taken literally.
        options: after the question mark, percent-decoded.
        error: what to raise for an option that cannot be.
    """

    text: str
    scheme: str
    path: str
    options: dict[str, str] = field(default_factory=dict)
    error: type[UsageError] = UsageError

    @property
    def file(self) -> Path:
        """``path`` as a place on disk."""
        return location(self.path)

    def only(self, known: Iterable[str]) -> None:
        """Raise unless every option is among ``known``."""
        names = list(known)
        for name in self.options:
            if name not in names:
                raise self.error(unknown("option", name, names, where=f"'{self.scheme}:{self.path}' has"))

    def without(self, *names: str) -> Uri:
        """The same name without these options."""
        return replace(self, options={key: value for key, value in self.options.items() if key not in names})

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """The option ``name``, which must be one of ``choices``."""
        value = self.options.get(name, default)
        if value not in choices:
            raise self.error(f"{unknown(name, value, choices, where='there are')} (in '{self.text}')")
        return value

    def whole(self, name: str, default: int, *, low: int, high: int) -> int:
        """The option ``name``, which must be a whole number from ``low`` to ``high``."""
        value = self.options.get(name, str(default))
        # isdecimal alone would let other scripts' digits pass; the length keeps int() from huge strings.
        if not (value.isascii() and value.isdecimal() and len(value) <= 12 and low <= int(value) <= high):
            raise self.error(f"{name}={value} in '{self.text}': needs a whole number from {low} to {high}")
        return int(value)


def parse(text: str, error: type[UsageError] = UsageError) -> Uri:
    """Take a name apart.

    The value of ``arch`` is itself a model's name and may have options of its own: with these it is everything that
    follows ``arch=`` (``arch=flatlens:cnn?act=gelu&width=8``), without it ends at the next ``&``; or it is
    percent-encoded.

    Args:
        text: for example ``idx:/data/mnist?split=test``.
        error: what to raise for a name that cannot be read, now or by the methods of the result.

    Raises:
        error: an option without a value, or one that is given twice.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        scheme, rest = "", text
    path, _, query = rest.partition("?")
    options: dict[str, str] = {}
    while query:
        name, equals, value = query.partition("=")
        if not equals or not name or "&" in name:
            bare = name.partition("&")[0]
            raise error(f"option '{bare}' in '{text}' has no value; write name=value, joined by &")
        if name in options:
            raise error(f"option '{name}' is given twice in '{text}'")
        first, _, rest = value.partition("&")
        if name == "arch" and (":" not in first or "?" in first):
            # A plain name has a colon; an encoded one has none.
            options[name], query = (value if ":" in value else unquote(value)), ""
        elif name == "arch":
            options[name], query = first, rest
        else:
            value, _, query = value.partition("&")
            options[name] = unquote(value)
    return Uri(text, scheme, path, options, error)


def location(text: str) -> Path:
    """``text`` as a place on disk, with ``~`` for the home folder."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path's own raises for an unknown user)
