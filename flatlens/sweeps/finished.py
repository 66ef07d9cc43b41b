"""What the finished cells of a sweep hold, each by itself: manifest, digest, trace; and the page of them all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flatlens.errors import RunError, unknown
from flatlens.files.borders import DamageError
from flatlens.records import digest as digests
from flatlens.records import runs, worst_case
from flatlens.records.trajectory import Trace
from flatlens.sweeps.folder import DONE, STATES, Sweep
from flatlens.sweeps.opening import damaged

if TYPE_CHECKING:
    from flatlens.report.sweep_data import DrawnCell


def keys(sweep: Sweep) -> list[str]:
    """The keys of the finished cells, in the order of the plan."""
    there = sweep.keys("cells")
    return [key for key in sweep.plan if key in there]


def manifest(sweep: Sweep, key: str) -> dict[str, Any]:
    """The manifest of a finished cell."""
    try:
        return runs.load(sweep.cell(key)).manifest
    except RunError as error:
        raise damaged(sweep.cell(key), error.__cause__ or error) from error


def digest(sweep: Sweep, key: str) -> dict[str, Any]:
    """The digest of a finished cell."""
    return figures(sweep, key)[1]


def figures(sweep: Sweep, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the digest of a finished cell.

    Raises:
        RunError: the cell is damaged.
    """  # noqa: DOC501 (a function makes the error)
    about = manifest(sweep, key)
    try:
        return about, digests.read(sweep.cell(key), about.get("files"))
    except DamageError as error:
        raise damaged(sweep.cell(key), error) from error


def trace(sweep: Sweep, key: str) -> Trace:
    """The trace of a finished cell, by its key or the first digits of it."""
    key = full_key(sweep, key)
    if not sweep.is_done(key):
        failure = sweep.failure(key)
        why = "" if failure is None else f": {failure.error}"
        raise RunError(f"cell {key} of the sweep in '{sweep.path}' is not finished{why}; `flatlens status` says more")
    try:
        return runs.load(sweep.cell(key)).trace()
    except RunError as error:
        raise damaged(sweep.cell(key), error.__cause__ or error) from error


def full_key(sweep: Sweep, text: str) -> str:
    """The key that is meant by its first digits."""
    if text in sweep.plan:
        return text
    found = [key for key in sweep.plan if text and key.startswith(text)]
    if not found:
        raise RunError(unknown("cell", text, sweep.plan, where="the sweep has"))
    if len(found) > 1:
        raise RunError(
            f"'{text}' begins the keys of {len(found)} cells, {found[0]} and {found[1]} among them; add digits"
        )
    return found[0]


def draw(sweep: Sweep, file: Path) -> Path:
    """Draw the sweep, finished or not, on one page. A cell whose digest cannot be read is drawn without figures."""
    from flatlens.report import sweep_page

    return sweep_page.write(listed(sweep, file.parent), file, name=sweep.path.resolve().name)


def document(sweep: Sweep) -> str:
    """The page of a sweep as text, which links each finished cell's page as ``cells/KEY/report.html``."""
    from flatlens.report import sweep_page

    cells = [
        cell._replace(page=f"cells/{cell.key}/report.html" if cell.state == DONE else None)
        for cell in listed(sweep, sweep.path)
    ]
    return sweep_page.document(cells, name=sweep.path.resolve().name)


def listed(sweep: Sweep, folder: Path) -> list[DrawnCell]:
    """All cells as the sweep's page has them; links lead from ``folder``, to pages that are there."""
    from flatlens.report.sweep_data import DrawnCell

    state = sweep.state()
    states = {key: name for name in STATES for key in getattr(state, name)}
    cells = []
    for key, spec in sweep.plan.items():
        if states[key] == DONE:
            error = None
            try:
                about, found = figures(sweep, key)
            except RunError as damage:
                about, found, error = {}, None, str(damage)
            link = _link(sweep.cell(key) / "report.html", folder)
            told = {name: about.get(name) for name in ("trained", "immunized", worst_case.KEY)}
            cells.append(DrawnCell(key, spec, found, link, DONE, error, about.get("seconds"), **told))
        else:
            failure = sweep.failure(key)
            error = None if failure is None else failure.error
            cells.append(DrawnCell(key, spec, None, None, states[key], error))
    return cells


def _link(page: Path, folder: Path) -> str | None:
    """A page's address for a link in a page that lies in ``folder``."""
    if not page.is_file():
        return None
    return quote(Path(os.path.relpath(page, folder)).as_posix())
