"""The page's program: its ES modules, joined into one script that needs no build and no network.

What ships is the source. Two shapes are understood, ``import { a, b } from "./x.js";`` and ``export`` before a
declaration (or a list of names at the end); any other is refused, and so are two modules that use one name.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import PurePosixPath

_IMPORT = re.compile(r'^import \{ ([\w$, ]+) \} from "(\.[./\w-]+\.js)";\n', re.M)
_DECLARED = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) ([\w$]+)", re.M)
_LISTED = re.compile(r"^export \{[\w$, ]*\};\n", re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let|class) )", re.M)


def joined(entry: str) -> str:
    """The module ``entry`` (such as ``pages/run.js``) and all that it imports, in the order in which they are needed.

    Raises:
        ValueError: a module is written in a shape that is not understood, or a name is taken twice.
    """
    order: list[str] = []
    _visit(PurePosixPath(entry), order, ())
    taken: dict[str, str] = {}
    for name in order:
        for declared in _DECLARED.findall(_source(name)):
            if taken.setdefault(declared, name) != name:
                raise ValueError(f"{name} and {taken[declared]} both declare '{declared}'; joined they share one scope")
    return "\n".join(_plain(name) for name in order)


def _visit(path: PurePosixPath, order: list[str], above: tuple[str, ...]) -> None:
    name = str(path)
    if name in above:
        raise ValueError(f"{' → '.join([*above, name])}: modules import each other in a circle")
    if name in order:
        return
    for _, target in _IMPORT.findall(_source(name)):
        _visit(_resolved(path.parent, target), order, (*above, name))
    order.append(name)


def _resolved(folder: PurePosixPath, target: str) -> PurePosixPath:
    parts: list[str] = []
    for part in (folder / target).parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return PurePosixPath(*parts)


def _source(name: str) -> str:
    return (files("flatlens.report") / "assets" / name).read_text(encoding="utf-8")


def _plain(name: str) -> str:
    text = _EXPORT.sub("", _LISTED.sub("", _IMPORT.sub("", _source(name))))
    if left := re.search(r"^(import|export)\b.*", text, re.M):
        raise ValueError(f"{name}: '{left.group()}' is no shape of import or export that is understood")
    return text
