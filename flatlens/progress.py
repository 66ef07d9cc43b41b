"""How far some work is, as it is told to whoever waits for it, and a bar that shows it."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Progress(NamedTuple):
    """How far the work is, in units that are about equally long, and what it is doing."""

    done: int
    total: int
    what: str


Report = Callable[[Progress], None]

OFTEN = 0.1
"""Seconds between two pictures of a bar in a notebook."""


@contextlib.contextmanager
def progress_bar(wanted: bool = True) -> Iterator[Report]:
    """A bar of how far some work is: in a notebook's output or on a terminal's stderr; elsewhere there is none.

    For example::

        with fl.progress_bar() as bar:
            trace = fl.trace(model, x, y, progress=bar)

    Args:
        wanted: whether to show it at all.

    Yields:
        what is given as ``progress`` to `trace`, `run`, `run_sweep`, `train`, `robustness` and others.
    """
    if wanted and _in_a_notebook():
        with _notebook_bar() as report:
            yield report
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    if not wanted or not console.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("loading", total=None)

        def advance(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, description=_printable(progress.what))

        yield advance


def _in_a_notebook() -> bool:
    """Whether a notebook's kernel runs this: an IPython shell that has one. Nothing is imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


@contextlib.contextmanager
def _notebook_bar() -> Iterator[Report]:
    """A bar of HTML, which every notebook shows without widgets; it goes when the work is done."""
    from IPython.display import HTML, display

    shown = display(HTML(_drawn(None, 0.0)), display_id=True)
    began = latest = time.monotonic()

    def advance(progress: Progress) -> None:
        nonlocal latest
        now = time.monotonic()
        if now - latest >= OFTEN or progress.done >= progress.total:
            latest = now
            shown.update(HTML(_drawn(progress, now - began)))

    try:
        yield advance
    finally:
        shown.update(HTML(""))


def _drawn(progress: Progress | None, seconds: float) -> str:
    """HTML of a bar after so many seconds."""
    if progress is None:
        return "<progress></progress> loading"
    done, total, what = progress
    left = f", {_clock(seconds * (total - done) / done)} left" if done else ""
    return (
        f'<progress value="{done}" max="{max(total, 1)}"></progress> {done / max(total, 1):.0%}{left} '
        f"<span>{html.escape(_printable(what))}</span>"
    )


def _clock(seconds: float) -> str:
    """``3:05``, or with hours ``1:03:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _printable(text: str) -> str:
    """``text`` with what could steer a terminal written out: names of files, models and layers are in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
