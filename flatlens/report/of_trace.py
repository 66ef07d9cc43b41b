"""How a `Trace` shows itself: the one door from records to their pictures."""

from __future__ import annotations

from pathlib import Path

from flatlens.records.trajectory import Trace
from flatlens.report import notebook, page


def write(trace: Trace, file: Path) -> Path:
    """Its page as a file."""
    return page.write([trace], file)


def framed(trace: Trace, height: int) -> notebook.View:
    """Its page in a frame of a notebook, ``height`` pixels high."""
    return notebook.View(trace, height)


def still(trace: Trace) -> str:
    """A picture and a table as HTML without a program."""
    return notebook.static(trace)
