"""How each path is drawn, in all pictures: its role gives the colour, its dash tells it from others of that role.

Three roles, three hues that no colour-blind reader confuses: the attack; controls that cross a boundary; noise.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from flatlens.records.schema import ATTACK

CROSSING = ("line-to-other-class", "line-to-end")
"""Controls that lead across a boundary on purpose."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
WORDS = {
    "line-to-other-class": "line to another class",
    "line-to-end": "line to its end",
    "gaussian-noise": "Gaussian noise",
    "uniform-noise": "uniform noise",
    "random-signs": "random signs",
}


class Look(NamedTuple):
    """How a path is drawn.

    Attributes:
        role: ``attack``, ``cross`` or ``noise``: names of colours.
        dash: of its line.
        name: for people.
    """

    role: str
    dash: str
    name: str


def looks(paths: tuple[str, ...]) -> dict[str, Look]:
    """How each path of a trace is drawn."""
    found: dict[str, Look] = {}
    for path in paths:
        role = "attack" if path == ATTACK else "cross" if path in CROSSING else "noise"
        alike = sum(look.role == role for look in found.values())
        found[path] = Look(role, DASHES[alike % len(DASHES)], WORDS.get(path, path))
    return found


@cache
def colours() -> dict[str, dict[str, str]]:
    """Theme -> name -> ``#rrggbb``."""
    text = (files("flatlens.report") / "assets" / "colours.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


def colour(name: str) -> str:
    """The light theme's; the page exchanges it for the dark one's."""
    return colours()["light"][name]


def fade(name: str, alpha: float) -> str:
    """A colour with an opacity, as ``rgba(…)``."""
    red, green, blue = (int(colour(name)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def styles() -> str:
    """The colours as CSS variables, for both themes."""
    out = []
    for theme, named in colours().items():
        selector = ":root" if theme == "light" else ':root[data-theme="dark"]'
        out.append(
            selector + " { " + " ".join(f"--{k}: {v};" for k, v in named.items()) + f" color-scheme: {theme}; }}"
        )
    return "\n".join(out)
