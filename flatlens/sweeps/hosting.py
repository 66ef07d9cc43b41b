"""A sweep's page, and those of its cells, as a folder that any web server can show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flatlens.errors import RunError
from flatlens.sweeps import finished as results
from flatlens.sweeps.folder import DONE, Sweep

INDEX = "index.html"


def save(sweep: Sweep, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Draw a sweep into a folder: ``index.html``, ``cells/KEY/report.html``, and the ``plotly.min.js`` of them all.

    The pages are drawn from the tables, and not copied: what lies in the sweep's folder may be anybody's. A cell that
    is damaged has a row and no page.

    Raises:
        RunError: the folder holds other things.
        ResourceError: it cannot be written.
    """
    from flatlens.report import html_file, page, sweep_page

    demand_free(folder)
    found = []
    cells = results.listed(sweep, folder)
    for number, cell in enumerate(cells):
        progress(number, len(cells))
        link = None
        if cell.state == DONE and cell.error is None:
            link = f"cells/{cell.key}/report.html"
            try:
                page.write([results.trace(sweep, cell.key)], folder / link, plotly=f"../../{html_file.PLOTLY}")
            except RunError as error:
                cell, link = cell._replace(error=str(error), digest=None), None
        found.append(cell._replace(page=link))
    html_file.save_plotly(folder)
    return sweep_page.write(found, folder / INDEX, name=sweep.path.resolve().name, plotly=html_file.PLOTLY)


def demand_free(folder: Path) -> None:
    """Refuse a folder that holds something else than such pages.

    Raises:
        RunError: it does.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--folder '{folder}' is a file; name a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise RunError(f"--folder '{folder}' holds other files; name a new or an empty folder")
