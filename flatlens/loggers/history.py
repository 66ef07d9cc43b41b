"""What a tracker is told of a trace: numbers by step, the result in numbers, and the settings. No torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flatlens.records.digest import digest
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Floats

SHARES = ("flipped",)
MEDIANS = ("loss", "margin", "confidence", "input_grad_norm")
CURVATURE = ("relative_flatness", "trace", "scale_free")
RESULT = ("flipped", "valley_of_flipped", "valley_of_all", "flatter_than_clean", "settled", "rise", "depth", "lag")


def steps(trace: Trace) -> dict[str, list[float]]:
    """Numbers at each step from 0: ``attack/loss`` or ``attack/head/relative_flatness`` -> the median over samples.

    Of flags it is the share. NaN where no sample is left at a step, or the number is not finite.
    """
    found: dict[str, list[float]] = {}
    for path in trace.paths:
        for column in (*SHARES, *MEDIANS):
            if (values := _matrix(trace, column, path)) is not None:
                found[f"{path}/{column}"] = _each(values, share=column in SHARES)
        for layer in trace.layer_names:
            for column in CURVATURE:
                if (values := _matrix(trace, column, path, layer)) is not None:
                    found[f"{path}/{layer}/{column}"] = _each(values)
    return found


def result(trace: Trace) -> dict[str, float]:
    """The result: ``accuracy/clean``, ``attack/head/valley_of_flipped`` …, without what does not exist."""
    told = digest(trace)
    found = {f"accuracy/{name}": part["value"] for name, part in told["accuracy"].items()}
    for row in told["rows"]:
        found |= {f"{row['path']}/{row['layer']}/{name}": row[name]["value"] for name in RESULT if name in row}
    return {name: float(value) for name, value in found.items() if _finite(value)}


def settings(trace: Trace) -> dict[str, str]:
    """The specification as flat text."""
    return {name: str(value) for name, value in trace.spec.items()}


def _matrix(trace: Trace, column: str, path: str, layer: str | None = None) -> Floats | None:
    from flatlens.errors import FlatlensError

    try:
        values = (
            trace.matrix(column, path=path, layer=layer).values if layer else trace.matrix(column, path=path).values
        )
    except FlatlensError:  # a trace of another kind has no such column
        return None
    numbers = np.asarray(values, dtype=np.float64)
    return numbers if np.isfinite(numbers).any() else None


def _each(values: Floats, *, share: bool = False) -> list[float]:
    out = []
    for column in values.T:
        there = column[~np.isnan(column)]
        out.append(math.nan if not len(there) else float(there.mean() if share else np.median(there)))
    return out


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
