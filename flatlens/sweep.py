"""`Sweep`: the folder of a sweep, which is the truth about it; no torch.

    DIR/
      sweep.toml       the file, as it was last given
      plan.json        the specs of its cells
      cells/KEY/       a finished cell: a run's folder with its page and digest; it appears whole, by a renaming
      work/KEY/        a cell under way, with its finished batches
      failed/KEY.json  what went wrong with a cell
      replaced/        results of weights or data that have changed since
      locks/           who is at work, held while they are
      cells.parquet    a row per cell, path and layer
      report.html      the sweep's page

What a cell's state is follows from where its folder lies; nothing else records it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from flatlens.errors import DiskError, RunError
from flatlens.grid import Cell, label, varying
from flatlens.runs import disk, replacing
from flatlens.spec import RunSpec, from_dict

VERSION = 1
DONE, FAILED, RUNNING, WAITING = "done", "failed", "running", "waiting"
STATES = (DONE, RUNNING, FAILED, WAITING)
PLAN = "plan.json"
LOOKING = 0.5
"""Seconds within which whoever only looks whether a lock is held has let go of it."""


class Failure(NamedTuple):
    """What went wrong with a cell.

    ``error`` is one line; ``kind`` the error's name, ``died`` of a worker that was killed, or ``timeout``; ``details``
    a traceback, or empty; ``when`` in seconds since 1970; ``attempts`` how often it was tried.
    """

    error: str
    kind: str
    details: str
    when: float
    attempts: int


class State(NamedTuple):
    """How far a sweep is: the keys of its cells by state, in the order of the plan, and who is at work on it."""

    done: list[str]
    running: list[str]
    failed: list[str]
    waiting: list[str]
    supervisors: list[dict[str, Any]]

    @property
    def total(self) -> int:
        """How many cells there are."""
        return len(self.done) + len(self.running) + len(self.failed) + len(self.waiting)


class Sweep:
    """The folder of a sweep.

    Attributes:
        path: the folder.
        plan: the resolved specs of the cells by key, as plain data, in order.
    """

    def __init__(self, path: Path, plan: dict[str, dict[str, Any]]) -> None:
        self.path, self.plan = path, plan

    # ---- where a cell is ------------------------------------------------------------------------

    def cell(self, key: str) -> Path:
        """The folder of a finished cell, which is a run's."""
        return self.path / "cells" / key

    def work(self, key: str) -> Path:
        """The folder of a cell under way."""
        return self.path / "work" / key

    def is_done(self, key: str) -> bool:
        """Whether a cell is finished."""
        return self.cell(key).is_dir()

    def spec(self, key: str) -> RunSpec:
        """A cell's specification."""
        return from_dict(self.plan[key])

    def keys(self, folder: str) -> set[str]:
        """The keys of what lies in ``cells``, ``work`` or ``failed``."""
        try:
            return {entry.name.removesuffix(".json") for entry in os.scandir(self.path / folder)}
        except FileNotFoundError:
            return set()

    def done_since(self, when: float) -> int:
        """How many cells were finished after ``when``, in seconds since 1970."""
        try:
            return sum(entry.stat().st_mtime > when for entry in os.scandir(self.path / "cells"))
        except FileNotFoundError:
            return 0

    def report(self) -> Path:
        """To come."""
        return self.path / "report.html"

    def labels(self) -> dict[str, str]:
        """What tells each cell from the others, in words."""
        keys = varying(list(self.plan.values()))
        return {key: label(spec, keys) for key, spec in self.plan.items()}

    def state(self) -> State:
        """How far the sweep is, from three listings of folders and the locks that are held."""
        done, failed = self.keys("cells"), self.keys("failed")
        running = {key for key in self.keys("work") - done if self._held(key)}
        found: dict[str, list[str]] = {state: [] for state in STATES}
        for key in self.plan:
            state = DONE if key in done else RUNNING if key in running else FAILED if key in failed else WAITING
            found[state].append(key)
        return State(**found, supervisors=self.supervisors())

    def progress(self, key: str) -> tuple[int, int] | None:
        """Batches done and in all of a cell under way; None where that is not known yet."""
        work = self.work(key)
        try:
            total = int(json.loads((work / "manifest.json").read_text())["batches"])
        except (OSError, ValueError, KeyError):
            return None
        return len(list((work / "parts").glob("*.steps.parquet"))), total

    # ---- a cell's way through the folders -------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, key: str, part: str = "") -> Iterator[None]:
        """Be the only one who begins or ends a cell, or works on a part of it; whoever else does is waited for."""
        self._alive()
        with disk(self.path):
            lock = FileLock(self._locks / f"{key}{part}.cell")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def commit(self, key: str) -> None:
        """Declare a cell finished: its folder, complete and on the disk, takes its place."""
        self._alive()
        with disk(self.path):
            place = self.cell(key)
            place.parent.mkdir(exist_ok=True)
            if not place.exists():
                self.work(key).rename(place)
                _sync(place.parent)
            shutil.rmtree(self.work(key), ignore_errors=True)
            (self.path / "failed" / f"{key}.json").unlink(missing_ok=True)
            # Whoever waits for one of these finds the cell finished.
            for lock in self._locks.glob(f"{key}*.cell"):
                lock.unlink(missing_ok=True)

    def set_aside(self, key: str) -> None:
        """Keep the results of a finished cell, of other weights or data than today's, outside the sweep."""
        with disk(self.path):
            folder = self.path / "replaced"
            folder.mkdir(exist_ok=True)
            self.cell(key).rename(folder / f"{key}-{time.time_ns()}")

    def fail(self, key: str, failure: Failure) -> None:
        """Keep what went wrong with a cell."""
        self._alive()
        with disk(self.path):
            folder = self.path / "failed"
            folder.mkdir(exist_ok=True)
            _write(folder / f"{key}.json", failure._asdict())

    def failure(self, key: str) -> Failure | None:
        """What went wrong with a cell, or None."""
        try:
            found = json.loads((self.path / "failed" / f"{key}.json").read_text(encoding="utf-8"))
            return Failure(**{name: found[name] for name in Failure._fields})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Failure("the record of its failure is damaged", "unknown", "", 0.0, 1)

    def forgive(self, key: str) -> None:
        """Forget that a cell has failed."""
        with disk(self.path):
            (self.path / "failed" / f"{key}.json").unlink(missing_ok=True)

    # ---- who is at work -------------------------------------------------------------------------

    def supervisors(self) -> list[dict[str, Any]]:
        """Who is at work: ``pid``, ``host``, ``since`` in seconds since 1970, and ``shard`` (i-of-n)."""
        return [self._who(lock.stem) for lock in sorted(self._locks.glob("*.supervisor")) if _is_held(lock)]

    def _busy(self, name: str) -> str:
        who = self._who(name)
        which = "" if name == "1-of-1" else f" (shard {name.replace('-of-', '/')})"
        return (
            f"process {who.get('pid', '?')} on {who.get('host', '?')} is at work on '{self.path}'{which}; wait for it, "
            "or stop it: nothing that it finished is lost"
        )

    def _who(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self._locks / f"{name}.json").read_text())
        except (OSError, ValueError):
            found = {}
        return found if isinstance(found, dict) else {}

    @property
    def _locks(self) -> Path:
        return self.path / "locks"

    def _held(self, key: str) -> bool:
        return any(_is_held(lock) for lock in self._locks.glob(f"{key}*.cell"))

    def _alive(self) -> None:
        """Make no folder anew that somebody has removed."""
        if not (self.path / PLAN).exists():
            raise DiskError(f"the results folder '{self.path}' is gone, and what was in it; begin again in a new one")


@contextlib.contextmanager
def supervised(path: Path, cells: list[Cell], text: str, shard: tuple[int, int] = (1, 1)) -> Iterator[Sweep]:
    """The sweep in a folder, made or amended, with its one supervisor: its cells are these, and all finished ones.

    Args:
        path: the folder; a new or an empty one, or that of a sweep.
        cells: what the sweep file amounts to.
        text: the sweep file's own.
        shard: i of n, where several supervisors share the cells.

    Raises:
        RunError: the folder holds other things, or another supervisor is at work on these cells.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"--out '{path}' is a file; name a folder")
    # In this order: a shard that begins now writes its plan before anything that is not told from others' files.
    if path.exists() and not all(_is_ours(entry) for entry in path.iterdir()) and not is_sweep(path):
        raise RunError(f"--out '{path}' holds other files and no sweep; name a new or an empty folder")
    name = "{}-of-{}".format(*shard)
    folder = path / "locks"
    with disk(path):
        folder.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(path, {})
    lock = FileLock(folder / f"{name}.supervisor", timeout=1)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(sweep._busy(name)) from None
    try:
        # Shards of another cut have cells in common with this one.
        for other in folder.glob("*.supervisor"):
            if other.stem.partition("-of-")[2] != str(shard[1]) and _is_held(other, LOOKING):
                raise RunError(sweep._busy(other.stem))
        with disk(path):
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "shard": name}
            _write(folder / f"{name}.json", about)
            sweep.plan = _amended(path, cells, text)
        yield sweep
    finally:
        lock.release()


def _is_ours(entry: Path) -> bool:
    # What is there before there is a plan: a supervisor was killed while it began.
    return entry.name in ("locks", "sweep.toml") or entry.name.endswith(".tmp")


def _amended(path: Path, cells: list[Cell], text: str) -> dict[str, dict[str, Any]]:
    """The plan, on the disk: these cells, and all that are finished already."""
    plan = {cell.key: cell.spec.to_dict() for cell in cells}
    stored = load(path) if is_sweep(path) else None
    if stored is not None:
        for key in stored.plan:
            if key not in plan and stored.is_done(key):
                plan[key] = stored.plan[key]
    if stored is None or list(stored.plan.items()) != list(plan.items()):
        with replacing(path / "sweep.toml") as file:
            file.write(text.encode())
        _write(path / PLAN, {"schema_version": VERSION, "cells": plan})
    return plan


def load(path: str | Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        RunError: there is none, or one of a newer schema.
    """
    path = Path(path)
    try:
        found = json.loads((path / PLAN).read_text(encoding="utf-8"))
        version, cells = found["schema_version"], dict(found["cells"])
    except FileNotFoundError:
        what = "does not exist" if not path.exists() else f"holds no {PLAN}"
        raise RunError(f"'{path}' is no sweep: it {what}; name the --out folder of a `flatlens sweep`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"'{path / PLAN}' is damaged; the sweep's command writes it again once it is removed") from error
    if version > VERSION:
        raise RunError(f"the sweep in '{path}' has schema {version}; this flatlens reads {VERSION}: upgrade it")
    return Sweep(path, cells)


def is_sweep(path: str | Path) -> bool:
    """Whether a folder holds a sweep."""
    return (Path(path) / PLAN).is_file()


def _is_held(lock: Path, patience: float = 0.0) -> bool:
    """Whether a lock is held by somebody who is alive, and not for a moment by somebody else who asks the same."""
    if not lock.exists():
        return False
    probe = FileLock(lock, timeout=patience)
    try:
        probe.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    probe.release()
    return False


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content, ensure_ascii=False).encode())


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
