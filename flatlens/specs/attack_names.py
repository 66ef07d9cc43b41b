"""The names of flatlens' own attacks, which may bear options: ``advgan?epochs=20&width=16`` (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatlens.errors import SpecError, unknown
from flatlens.specs.catalogue import ATTACKS, Entry
from flatlens.specs.uris import parse
from flatlens.specs.values import flag

_FLAGS = ("eps", "steps", "step_size", "random_start", "targeted", "objective", "momentum", "restarts")
"""What is set beside the name, and not in it."""


def base(name: str) -> str:
    """The name without its options."""
    return name.partition("?")[0]


def entry(name: str) -> Entry:
    """The row of the catalogue that a name stands for.

    Raises:
        SpecError: there is none.
    """
    if base(name) not in ATTACKS:
        raise SpecError(unknown("attack", base(name), ATTACKS, where="there are"))
    return ATTACKS[base(name)]


def options(name: str) -> dict[str, Any]:
    """The options that a name bears.

    Raises:
        SpecError: the attack has no such option, or its value cannot be.
    """
    known, found = entry(name).options, dict[str, Any]()
    for key, text in parse(name, SpecError).options.items():
        if key not in known:
            hint = f" {flag(key)} sets it." if key in _FLAGS else ""
            raise SpecError(unknown("option", key, known, where=f"attack '{base(name)}' has") + hint)
        found[key] = known[key].read(key, text, name)
    return found


def spelled(name: str, *, defaults: bool = False) -> str:
    """The one way in which a name is written: its options in the catalogue's order, each number in one form.

    Args:
        name: as it was typed.
        defaults: also write out the options that were left out.

    Returns:
        ``advgan?epochs=20&lr=0.005``; a name that is none of flatlens' own, as it is.
    """
    if base(name) not in ATTACKS or ":" in name or ("?" not in name and not defaults):
        return name
    known, given = entry(name).options, options(name)
    if defaults:
        given = {key: option.default for key, option in known.items()} | given
    return joined(base(name), {key: given[key] for key in known if key in given})


def joined(name: str, given: Mapping[str, int | float]) -> str:
    """A name with these options: ``advgan?epochs=20&lr=0.005``."""
    said = "&".join(f"{key}={repr(value).removesuffix('.0')}" for key, value in given.items())
    return f"{name}?{said}" if said else name


def arguments(name: str) -> dict[str, Any]:
    """The options that a name bears, as Python calls them."""
    known = entry(name).options
    return {known[key].argument or key: value for key, value in options(name).items()}
