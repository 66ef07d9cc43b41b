"""The figures in other words where a flip is more than a wrong prediction: a target is said, or a class is reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flatlens.records.trajectory import Trace

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
_OF_TARGETS = {
    "← prediction right": "← target not reached",
    "prediction wrong →": "target reached →",
    "<b>← right</b>": "<b>← not yet</b>",
    "<b>wrong →</b>": "<b>reached →</b>",
    "no sample flips": "no sample reaches its target",
    " samples flip": " samples reach their target",
}


def of_targets(figure: Plain) -> Plain:
    """A figure of `flatlens.report.drawn` for a targeted attack, of which a flip is that its own class is predicted."""
    made: Plain = _said(figure, _OF_TARGETS)
    return made


def of_prompts(figure: Plain) -> Plain:
    """A figure of `flatlens.report.drawn` for a run of a language model; the numbers are shared with the first."""
    made: Plain = _said(figure, _WORDS)
    axis = made["layout"].get("xaxis", {})
    if axis.get("autorange") == "reversed":  # a margin that rises into the flip
        made["layout"] = made["layout"] | {"xaxis": {k: v for k, v in axis.items() if k != "autorange"}}
    return made


def worded(trace: Trace) -> Callable[[Plain], Plain]:
    """How a trace's figures say what a flip is."""
    if trace.of_language:
        return of_prompts
    return of_targets if trace.spec.get("targeted") is not None else lambda figure: figure


def _said(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _said(part, words) for key, part in value.items()}
    if isinstance(value, (list, tuple)) and len(value) < 100:
        return [_said(part, words) for part in value]
    if isinstance(value, str):
        for before, after in words.items():
            value = value.replace(before, after)
    return value
