"""The pages that the server shows: a run's or a sweep's own file where that can be trusted, else drawn when asked for.

A page lies in a folder that may be anybody's, and would run with this server's cookie. It is sent as it is only if its
program is flatlens' own, to the last character, and it is sent with a policy that lets no other program run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path

from flatlens.errors import RunError
from flatlens.files.borders import DamageError, inside, plain_file
from flatlens.records import immunized, runs, unfinished
from flatlens.records.immunized import FINETUNING, SUMMARY
from flatlens.report import html_file
from flatlens.sweeps import finished as results
from flatlens.sweeps import folder as sweeps
from flatlens.viewer.found import FINISHED, Folder, Found

REPORT = "report.html"
MOST_COMPARED = 24
LARGEST = 256 << 20
"""Bytes of a page."""
CACHE = 96 << 20
"""Bytes of drawn pages that are kept."""


class Pages:
    """The pages of what a folder holds; what was drawn is kept as long as its files do not change."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._turns: dict[Hashable, threading.Lock] = {}
        self._turn = threading.Lock()

    def run(self, found: Found) -> bytes:
        """The page of a finished run, or of a cell.

        Raises:
            RunError: it is damaged, or a link stands in the way.
        """
        path = self.folder.where(found)
        own = _own_file(path / REPORT, *_run_programs())
        return own if own is not None else self._drawn((found.key, found.signature), lambda: _runs([path]))

    def immunity(self, found: Found) -> bytes:
        """The page of an immunization.

        Raises:
            RunError: it is damaged, or a link stands in the way.
        """
        path = self.folder.where(found)
        own = _own_file(path / REPORT, _immunity_program()) if _is_newest(path, SUMMARY, FINETUNING) else None
        return own if own is not None else self._drawn((found.key, found.signature), lambda: _immunity(path))

    def picture(self, found: Found) -> bytes:
        """The page of a run under way, of its finished batches.

        Raises:
            RunError: there is none yet, or the run is damaged.
        """
        path = self.folder.where(found)
        known = (found.key, found.signature, found.row.get("done"))
        return self._drawn(known, lambda: _so_far(path))

    def sweep(self, found: Found) -> bytes:
        """The page of a sweep, finished or not.

        Raises:
            RunError: it is damaged.
        """
        path = self.folder.where(found)
        if found.row["state"] == FINISHED and _is_newest(path, "cells"):
            own = _own_file(path / REPORT, _sweep_program())
            if own is not None:
                return own
        return self._drawn((found.key, found.signature), lambda: results.document(sweeps.load_sweep(path)))

    def comparison(self, chosen: Sequence[Found]) -> bytes:
        """Several finished runs on one page.

        Raises:
            RunError: one of them is damaged.
        """
        paths = [self.folder.where(one) for one in chosen]
        return self._drawn(tuple((one.key, one.signature) for one in chosen), lambda: _runs(paths))

    def _drawn(self, known: Hashable, draw: Callable[[], str]) -> bytes:
        with self._turn:
            turn = self._turns.setdefault(known, threading.Lock())
        with turn:  # whoever asks for the same meanwhile waits for it, and does not draw it again
            if (page := self._find(known)) is None:
                page = draw().encode("utf-8", "backslashreplace")
                self._keep(known, page)
        with self._turn:
            self._turns.pop(known, None)
        return page

    def _find(self, known: Hashable) -> bytes | None:
        with self._turn:
            if known in self._kept:
                self._kept.move_to_end(known)
            return self._kept.get(known)

    def _keep(self, known: Hashable, page: bytes) -> None:
        with self._turn:
            self._kept[known] = page
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > CACHE:
                self._kept.popitem(last=False)


@cache
def policy() -> str:
    """What a page of a run, a sweep or an immunization may do: run flatlens' own programs, and connect to nothing."""
    from flatlens.report import page, sweep_page

    own = (
        html_file.inline(html_file.asset(html_file.BUNDLE)),
        html_file.wrapped(page.program()),
        html_file.wrapped(sweep_page.program()),
        _immunity_program(),
    )
    # The cells of a sweep share a plotly.min.js, the only script that this server has.
    return (
        f"default-src 'none'; script-src 'self' {' '.join(map(html_file.hashed, own))}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )


def plotly() -> bytes:
    """The script that pages of a sweep's cells link."""
    return html_file.asset(html_file.BUNDLE).encode()


@cache
def _run_programs() -> tuple[str]:
    from flatlens.report import page

    return (html_file.wrapped(page.program()),)


@cache
def _immunity_program() -> str:
    from flatlens.report import immunity_parts

    return html_file.wrapped(immunity_parts.program())


@cache
def _sweep_program() -> str:
    from flatlens.report import sweep_page

    return html_file.wrapped(sweep_page.program())


def _own_file(file: Path, *programs: str) -> bytes | None:
    """A page that is there, whole, and whose program is one of these; else None."""
    try:
        if not html_file.is_whole(file):
            return None
        content = plain_file(file, LARGEST).read_bytes()
        return content if html_file.last_script(content.decode("utf-8")) in programs else None
    except (OSError, DamageError, ValueError):
        return None


def _is_newest(path: Path, *names: str) -> bool:
    """Whether a page was drawn after what it is drawn from, as far as that is there."""
    try:
        drawn = (path / REPORT).lstat().st_mtime
        there = [inside(path, name) for name in names]
        return all(drawn >= one.lstat().st_mtime for one in there if one.exists())
    except (OSError, RunError):
        return False


def _runs(paths: Sequence[Path]) -> str:
    from flatlens.report import page

    return page.document([runs.load(path).trace(whole=False) for path in paths])


def _immunity(path: Path) -> str:
    from flatlens.report import immunity_page

    return immunity_page.document(immunized.result(path))


def _so_far(path: Path) -> str:
    from flatlens.report import page

    run = runs.load(path)
    return page.document([run.trace(whole=False) if run.finished else unfinished.trace(run)])
