"""Cells of a sweep -> one HTML file: a table of all runs, their curves on one scale, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from flatlens.records.schema import ATTACK
from flatlens.report import defences, defences_card, html_file, immunity_card, packing, sweep_data
from flatlens.report.modules import joined
from flatlens.report.roles import styles
from flatlens.report.sweep_data import CONTROL, DrawnCell

PROGRAM = "pages/sweep.js"
"""The module that is the page."""
WITHOUT_SCRIPT = 500
"""Rows of the table that are there before the program has run, or without it."""


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
    found = defences.folded(cells)
    data = sweep_data.page(cells, name) | {"defences": found}
    return html_file.document(
        "sweep.html",
        title=f"{name} · flatlens sweep",
        css=styles() + "\n" + html_file.asset("shell.css", "sweep.css"),
        data=packing.to_json(data),
        script=program(),
        kind="of-sweep",
        without="The table stands without a script, its first rows at least; choosing, sorting and figures need one.",
        plotly=plotly,
        name=escape(name),
        defences=defences_card.card(found),
        immunity=immunity_card.card(cells),
        table=_table(cells[:WITHOUT_SCRIPT], data["varying"]),
    )


@cache
def program() -> str:
    """The page's program: the same for every sweep."""
    return joined(PROGRAM) + "\nbegin();"


def _table(cells: Sequence[DrawnCell], varying: Sequence[Mapping[str, Any]]) -> str:
    """What was varied, how far each run is and how many valleys it has, for who has no script."""
    titles = [
        *(column["key"].replace("_", " ") for column in varying),
        "state",
        "valleys of the flipped",
        "the control's",
    ]
    rows = []
    for i, cell in enumerate(cells):
        settings = [column["values"][column["of"][i]] for column in varying]
        said = [*settings, cell.error or cell.state, _valleys(cell, ATTACK), _valleys(cell, CONTROL)]
        first, *rest = (escape(text) for text in said)
        name = f'<a href="{escape(link)}">{first}</a>' if (link := sweep_data.link_of(cell.page)) else first
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{text}</td>" for text in rest)}</tr>')
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"


def _valleys(cell: DrawnCell, path: str) -> str:
    """The share of a path at its first layer, with its interval; a dash where nothing flipped."""
    rows = () if cell.digest is None else cell.digest["rows"]
    share = next((row["valley_of_flipped"] for row in rows if row["path"] == path), None)
    if share is None or not share["n"]:
        return "–"
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
