"""How far some work is, as it is told to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """How far the work is, in units that are about equally long, and what it is doing."""

    done: int
    total: int
    what: str


Report = Callable[[Progress], None]
