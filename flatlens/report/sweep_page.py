"""Cells of a sweep -> one HTML file: a table of all runs, their curves on one scale, and what differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path

from flatlens.report import html_file, packing, sweep_data
from flatlens.report.modules import joined
from flatlens.report.roles import styles
from flatlens.report.sweep_data import DrawnCell

PROGRAM = "pages/sweep.js"
"""The module that is the page."""


def write(cells: Sequence[DrawnCell], file: Path, *, name: str, plotly: str | None = None) -> Path:
    """Draw a sweep, finished or not, and return where its page is.

    The page is written under a temporary name and renamed when it is complete.

    Args:
        cells: all cells of the sweep, in its order.
        file: where to.
        name: the sweep's name.
        plotly: the URL, relative to the page, of a plotly.min.js (`page.save_plotly`) to link; None puts plotly into
            the page, which then needs no other file.

    Raises:
        ResourceError: the file cannot be written.
    """
    return html_file.save(document(cells, name=name, plotly=plotly), Path(file))


def document(cells: Sequence[DrawnCell], *, name: str, plotly: str | None = None) -> str:
    """The page as text."""
    return html_file.document(
        "sweep.html",
        title=f"{name} · flatlens sweep",
        css=styles() + "\n" + html_file.asset("shell.css", "sweep.css"),
        data=packing.to_json(sweep_data.page(cells, name)),
        script=program(),
        kind="of-sweep",
        without="The table and the figures need a script; the runs' own pages, in cells/, have a picture without.",
        plotly=plotly,
        name=escape(name),
    )


@cache
def program() -> str:
    """The page's program: the same for every sweep."""
    return joined(PROGRAM) + "\nbegin();"
