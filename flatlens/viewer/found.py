"""What lies in a results folder, nested however deep: runs, sweeps and immunizations, each under a key of its own.

A request names a key and is looked up here: no text of a request ever becomes a part of a path. Links are not followed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from flatlens.errors import FlatlensError, RunError
from flatlens.files.borders import inside
from flatlens.files.locks import is_held
from flatlens.records.claims import LOCK
from flatlens.records.immunized import FINETUNING, SUMMARY
from flatlens.sweeps import folder as sweeps
from flatlens.sweeps.folder import PLAN
from flatlens.viewer import rows
from flatlens.viewer.rows import DAMAGED, FINISHED, INTERRUPTED, RUNNING, Row

RUN, CELL, SWEEP, IMMUNITY = "run", "cell", "sweep", "immunization"
MANIFEST = "manifest.json"
OLDEST = 1.0
"""Seconds for which what was found is taken as it is."""
MOST_FOLDERS, DEEPEST, MOST_ROWS = 100_000, 12, 20_000
_WATCHED = (MANIFEST, "spec.toml", "digest.json", PLAN, SUMMARY, FINETUNING)
_ABSENT = (0, 0)

Signature = tuple[tuple[int, int], ...]


class Found(NamedTuple):
    """A run, a sweep, a sweep's cell, or an immunization.

    Attributes:
        key: 16 hexadecimal digits, of its place: the same again when the server is started again.
        kind: ``run``, ``cell``, ``sweep`` or ``immunization``.
        place: the names of the folders that lead to it.
        row: what the list says of it, as plain data for JSON.
        signature: changes when its files do.
    """

    key: str
    kind: str
    place: tuple[str, ...]
    row: Row
    signature: Signature


class _Plan(NamedTuple):
    signature: Signature
    sweep: sweeps.Sweep
    labels: dict[str, str]


class Folder:
    """A results folder, looked at anew when it is asked for what it holds; what has not changed is not read again.

    Attributes:
        root: the folder.
        left_out: how many runs are not listed, because there are too many.
    """

    def __init__(self, root: Path) -> None:
        self.root: Path = root
        self.left_out = 0
        self._known: dict[tuple[str, ...], tuple[Signature, Row]] = {}
        self._sweeps: dict[tuple[str, ...], _Plan] = {}
        self._found: dict[str, Found] = {}
        self._when = -OLDEST
        self._turn = threading.Lock()

    def look(self) -> dict[str, Found]:
        """All that is there, by key; at most `OLDEST` seconds old."""
        with self._turn:
            if time.monotonic() - self._when >= OLDEST:
                found: dict[str, Found] = {}
                self.left_out = 0
                for one in self._walk():
                    if len(found) < MOST_ROWS:
                        found[one.key] = one
                    else:
                        self.left_out += 1
                there = {one.place for one in found.values()}
                self._known = {place: kept for place, kept in self._known.items() if place in there}
                self._sweeps = {place: kept for place, kept in self._sweeps.items() if place in there}
                self._found, self._when = found, time.monotonic()
            return self._found

    def where(self, found: Found) -> Path:
        """The folder of something that was found.

        Raises:
            RunError: a link stands in the way now.
        """
        return inside(self.root, *found.place)

    def _walk(self) -> Iterator[Found]:
        waiting: list[tuple[str, ...]] = [()]
        for _ in range(MOST_FOLDERS):
            if not waiting:
                return
            place = waiting.pop()
            try:
                with os.scandir(self.root.joinpath(*place)) as listing:
                    entries = [(one.name, one.is_dir(follow_symlinks=False)) for one in listing]
            except OSError:  # removed just now, or not to be read
                continue
            names = {name for name, _ in entries}
            if PLAN in names:
                yield from self._sweep(place)
                continue
            if MANIFEST in names:
                yield self._run(place, RUN, self.root.joinpath(*place, LOCK[0]))
            elif SUMMARY in names:
                yield self._immunity(place)
            if len(place) < DEEPEST:
                below = sorted(name for name, folder in entries if folder and name[0] != "." and name != "parts")
                waiting += [(*place, name) for name in reversed(below)]

    def _run(self, place: tuple[str, ...], kind: str, lock: Path, **more: Any) -> Found:
        """A run in its folder; ``lock`` is held as long as somebody works on it."""
        folder = self.root.joinpath(*place)
        signature = _signature(folder)
        row = dict(self._row(place, signature, lambda: rows.of_run(folder)))
        if row["state"] == RUNNING:
            row["done"] = rows.done_of(folder, row["total"])
            row["state"] = RUNNING if _held(lock) else INTERRUPTED
        key = _key(place)
        row |= {"key": key, "kind": kind, "href": f"/run/{key}", "when": signature[0][0] / 1e9} | more
        row |= {"place": "/".join(place) or "."}
        return Found(key, kind, place, row, signature)

    def _immunity(self, place: tuple[str, ...]) -> Found:
        folder, key = self.root.joinpath(*place), _key(place)
        signature = _signature(folder)
        about = {"key": key, "kind": IMMUNITY, "href": f"/immunization/{key}", "place": "/".join(place) or "."}
        row = dict(self._row(place, signature, lambda: rows.of_immunity(folder))) | about
        return Found(key, IMMUNITY, place, row | {"when": _changed(folder / SUMMARY)}, signature)

    def _sweep(self, place: tuple[str, ...]) -> Iterator[Found]:
        folder, key = self.root.joinpath(*place), _key(place)
        signature = _signature(folder)
        about = {"key": key, "kind": SWEEP, "href": f"/sweep/{key}/report.html", "place": "/".join(place) or "."}
        try:
            sweep, labels = self._opened(place, signature)
            done, failed = sweep.keys("cells"), sweep.keys("failed")
            work = sweep.keys("work") - done
            held = any(_held(lock) for lock in sweep.locks.folder.glob("*.supervisor"))
        except (FlatlensError, OSError) as error:
            row = rows.damaged(error) | about | {"when": _changed(folder / PLAN)}
            yield Found(key, SWEEP, place, row, signature)
            return
        row = dict(self._row(place, signature, lambda: rows.of_sweep(sweep))) | about
        count = sum(cell in done for cell in sweep.plan)
        row |= {"done": count, "failed": sum(cell in failed and cell not in done for cell in sweep.plan)}
        row["state"] = FINISHED if count == row["total"] else RUNNING if held else INTERRUPTED
        row["when"] = max(_changed(folder / name) for name in (PLAN, "cells", "failed"))
        state = (count, row["failed"]), (int(row["when"] * 1e6), len(work))
        yield Found(key, SWEEP, place, row, (*signature, *state))
        for cell in sweep.plan:
            if cell in done or cell in work:
                where = (*place, "cells" if cell in done else "work", cell)
                lock = sweep.locks.folder / f"{cell}.cell"
                yield self._run(where, CELL, lock, sweep=key, cell=cell, label=labels.get(cell, cell))

    def _opened(self, place: tuple[str, ...], signature: Signature) -> tuple[sweeps.Sweep, dict[str, str]]:
        """The sweep, whose plan is read once, and what its cells are called."""
        kept = self._sweeps.get(place)
        if kept is None or kept.signature != signature:
            sweep = sweeps.load_sweep(self.root.joinpath(*place))
            kept = _Plan(signature, sweep, rows.labels(sweep))
            self._sweeps[place] = kept
        return kept.sweep, kept.labels

    def _row(self, place: tuple[str, ...], signature: Signature, read: Any) -> Row:
        kept = self._known.get(place)
        if kept is None or kept[0] != signature:
            kept = (signature, read())
            self._known[place] = kept
        return kept[1]


def demand(root: Path) -> Folder:
    """The results folder that was named.

    Raises:
        RunError: it is none.
    """
    what = "does not exist" if not root.exists() else "is a file" if not root.is_dir() else "holds no run and no sweep"
    folder = Folder(root)
    if not root.is_dir() or not folder.look():
        raise RunError(
            f"'{root}' {what}: name a folder with results in it, such as the --out of a `flatlens trace` or "
            "`flatlens sweep`, or the folder around several"
        )
    return folder


def _key(place: tuple[str, ...]) -> str:
    return sha256("/".join(place).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _signature(folder: Path) -> Signature:
    found = []
    for name in _WATCHED:
        try:
            known = (folder / name).lstat()
            found.append((known.st_mtime_ns, known.st_size))
        except OSError:
            found.append(_ABSENT)
    return tuple(found)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _held(lock: Path) -> bool:
    try:
        return is_held(lock)
    except RunError:  # a link in its place
        return False


__all__ = [
    "CELL",
    "DAMAGED",
    "FINISHED",
    "IMMUNITY",
    "INTERRUPTED",
    "RUN",
    "RUNNING",
    "SWEEP",
    "Folder",
    "Found",
    "demand",
]
