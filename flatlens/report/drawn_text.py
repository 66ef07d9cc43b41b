"""The figures in a language model's words: its prompts have no labels, and a flip is that the target is said."""

from __future__ import annotations

import re
from typing import Any

Plain = dict[str, Any]

_WORDS = {
    "← prediction right": "← target not said",
    "prediction wrong →": "target said →",
    "<b>← right</b>": "<b>← not said</b>",
    "<b>wrong →</b>": "<b>said →</b>",
    "the uncanny valley: flat, and wrong": "the uncanny valley: flat, and flipped",
    "margin, wrong ↓": "margin, said ↑",
    "right ← margin → wrong": "margin of the target, said →",
    " samples<extra>": " prompts<extra>",
    "no sample flips": "no prompt flips",
    " samples flip": " prompts flip",
}
_PATTERN = re.compile("|".join(map(re.escape, _WORDS)))


def of_prompts(figure: Plain) -> Plain:
    """A figure of `flatlens.report.drawn` for a run of a language model; the numbers are shared with the first."""
    made: Plain = _said(figure)
    axis = made["layout"].get("xaxis", {})
    if axis.get("autorange") == "reversed":  # a margin that rises into the flip
        made["layout"] = made["layout"] | {"xaxis": {k: v for k, v in axis.items() if k != "autorange"}}
    return made


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _said(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)) and len(value) < 100:
        return [_said(part) for part in value]
    return _PATTERN.sub(lambda found: _WORDS[found.group()], value) if isinstance(value, str) else value
