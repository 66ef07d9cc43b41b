"""What all loggers need: their library, and one line where it cannot write."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flatlens.errors import LoggerError, one_line
from flatlens.extras import need


def client(module: str, extra: str) -> Any:
    """A tracker's library, imported.

    Raises:
        LoggerError: it is not installed.
    """
    return need(module, extra, f"'--log {extra}' and its class", LoggerError)


@contextlib.contextmanager
def writing(name: str, place: Path) -> Iterator[None]:
    """Whatever goes wrong in a library becomes one line: a logger must never cost a run.

    Raises:
        LoggerError: it could not write.
    """
    try:
        yield
    except LoggerError:
        raise
    except Exception as error:  # a library may raise anything
        raise LoggerError(f"{name} could not write to '{place}': {one_line(error, kind=True)}") from error


def finite(values: Iterable[float]) -> list[tuple[int, float]]:
    """(step, value) of those that trackers can show."""
    return [(step, value) for step, value in enumerate(values) if math.isfinite(value)]


def by_step(series: Mapping[str, list[float]]) -> list[tuple[int, dict[str, float]]]:
    """The same numbers, step by step."""
    found: dict[int, dict[str, float]] = {}
    for tag, values in series.items():
        for step, value in finite(values):
            found.setdefault(step, {})[tag] = value
    return sorted(found.items())
