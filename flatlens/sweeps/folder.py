"""`Sweep`: the folder of a sweep, which is the truth about it; no torch.

    DIR/
      sweep.toml       the file, as it was last given
      plan.json        the specs of its cells
      cells/KEY/       a finished cell: a run's folder with its page and digest; it appears whole, by a renaming
      work/KEY/        a cell under way, with its finished batches
      failed/KEY.json  what went wrong with a cell
      replaced/        results of weights, data or a measurement version that have changed since
      locks/           who is at work, held while they are
      cells.parquet    a row per cell, path and layer
      report.html      the sweep's page

A cell's state is recorded nowhere: it follows from where its folder lies, and from whether its lock is held.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flatlens.errors import DiskError, FlatlensError, RunError, SpecError, unknown
from flatlens.files import borders
from flatlens.files.atomic import disk, sync_folder, write_json
from flatlens.files.borders import DamageError, inside
from flatlens.files.locks import Locks
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.wording import labels

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from flatlens.records.trajectory import Trace

VERSION = 1
DONE, FAILED, RUNNING, WAITING = "done", "failed", "running", "waiting"
STATES = (DONE, RUNNING, FAILED, WAITING)
PLAN = "plan.json"
FOLDERS = ("cells", "work", "failed", "replaced", "locks")


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


FOR_USERS = (
    *("path", "plan", "notes", "cells", "steps", "layers", "to_pandas", "trace", "report"),
    *("cell", "spec", "labels", "is_done", "state", "progress", "failure"),
)
"""What a shell offers of a `Sweep`; its other methods are for those who do its work."""


class Sweep:
    """The folder of a sweep, and the tables over all its finished cells, as they are when they are first asked for.

    Attributes:
        path: the folder.
        plan: the resolved specs of the cells by key, as plain data, in order.
        locks: who is at work.
        notes: remarks for the user on how the plan has changed, such as old results that were set aside.
    """

    def __init__(self, path: Path, plan: dict[str, dict[str, Any]]) -> None:
        self.path: Path = path
        self.plan: dict[str, dict[str, Any]] = plan
        self.locks: Locks = Locks(path / "locks")
        self.notes: list[str] = []

    def __dir__(self) -> list[str]:
        return sorted(FOR_USERS)

    def __repr__(self) -> str:
        """Where it is, and how far."""
        return f"Sweep('{self.path}': {self._how_far(self._readable_state())})"

    def _repr_html_(self) -> str:
        """What a notebook shows of it: how far each run is. It reads no table: those of a sweep may be large."""
        from flatlens.report import notebook

        state, said = self._readable_state(), self.labels()
        rows = [[said[key], name, key[:12]] for name in STATES for key in getattr(state, name, ())]
        note = "sweep.cells is the table of results, sweep.report() their page"
        return notebook.table(f"Sweep {self.path}: {self._how_far(state)}", ("run", "state", "key"), rows, note)

    def _readable_state(self) -> State | None:
        """None of a damaged folder, which is not to stop whoever prints the sweep."""
        try:
            return self.state()
        except (FlatlensError, OSError):
            return None

    def _how_far(self, state: State | None) -> str:
        if state is None:
            return f"{len(self.plan):,} runs, in a folder that cannot be read"
        told = [f"{len(keys):,} {name}" for name in STATES if (keys := getattr(state, name))]
        return ", ".join([f"{len(self.plan):,} runs", *told])

    # ---- what was measured ----------------------------------------------------------------------

    @cached_property
    def cells(self) -> pa.Table:
        """A row per finished cell, path and layer: its settings, and what became of its samples."""
        from flatlens.sweeps import tables

        return tables.cells(self)

    @cached_property
    def steps(self) -> pa.Table:
        """The tables ``steps`` of all finished cells, with their keys in the column ``cell``."""
        from flatlens.sweeps import tables

        return tables.joined(self, "steps")

    @cached_property
    def layers(self) -> pa.Table:
        """The tables ``layers`` of all finished cells, with their keys in the column ``cell``."""
        from flatlens.sweeps import tables

        return tables.joined(self, "layers")

    def to_pandas(self, table: str = "cells") -> pd.DataFrame:
        """``"cells"``, ``"steps"`` or ``"layers"`` as a pandas DataFrame (needs pandas)."""
        if table not in (known := ("cells", "steps", "layers")):
            raise SpecError(unknown("table", table, known, where="a sweep has"))
        try:
            return getattr(self, table).to_pandas()
        except ModuleNotFoundError as error:
            raise RunError("to_pandas needs pandas: pip install 'flatlens[pandas]'") from error

    def trace(self, key: str) -> Trace:
        """The trace of a finished cell; the first digits of its key will do where no other has them.

        Raises:
            RunError: no cell has the key, several have, or it is not finished or damaged.
        """
        from flatlens.sweeps import finished

        return finished.trace(self, key)

    def report(self, file: str | Path | None = None) -> Path:
        """Draw the sweep, finished or not, on one page and return where it is.

        Without a file it is the ``report.html`` of the sweep's folder, and ``cells.parquet`` is brought up to date
        beside it.
        """
        from flatlens.report import html_file
        from flatlens.sweeps import finished, tables

        if file is not None:
            return finished.draw(self, Path(file))
        page = finished.draw(self, self.path / "report.html")
        if os.path.lexists(self.path / html_file.PLOTLY):
            html_file.save_plotly(self.path)  # the cells' pages run what bears this name
        tables.save(self)
        return page

    # ---- where a cell is ------------------------------------------------------------------------

    def cell(self, key: str) -> Path:
        """The folder of a finished cell, which is a run's."""
        return inside(self.path, "cells", key)

    def work(self, key: str) -> Path:
        """The folder of a cell under way."""
        return inside(self.path, "work", key)

    def is_done(self, key: str) -> bool:
        """Whether a cell is finished."""
        return self.cell(key).is_dir()

    def spec(self, key: str) -> RunSpec:
        """A cell's specification."""
        return from_dict(self.plan[key])

    def keys(self, folder: str) -> set[str]:
        """The keys of what lies in ``cells``, ``work`` or ``failed``."""
        ending = ".json" if folder == "failed" else ""
        try:
            entries = list(os.scandir(inside(self.path, folder)))
        except FileNotFoundError:
            return set()
        except NotADirectoryError as error:
            raise RunError(f"the sweep in '{self.path}' is damaged: '{folder}' is no folder; remove it") from error
        for entry in entries:
            if entry.is_symlink():
                inside(self.path, folder, entry.name)
        return {entry.name.removesuffix(ending) for entry in entries}

    def done_since(self, when: float) -> int:
        """How many cells were finished after ``when``, in seconds since 1970."""
        try:
            return sum(entry.stat().st_mtime > when for entry in os.scandir(self.path / "cells"))
        except FileNotFoundError:
            return 0

    def labels(self) -> dict[str, str]:
        """What tells each cell from the others, in words."""
        return labels(self.plan)

    def state(self) -> State:
        """How far the sweep is, from two listings of folders and the locks that are held."""
        done, failed = self.keys("cells"), self.keys("failed")
        running = self.locks.held() - done
        found: dict[str, list[str]] = {state: [] for state in STATES}
        for key in self.plan:
            state = DONE if key in done else RUNNING if key in running else FAILED if key in failed else WAITING
            found[state].append(key)
        return State(**found, supervisors=self.locks.supervisors())

    def progress(self, key: str) -> tuple[int, int] | None:
        """Batches done and in all of a cell under way; None where that is not known yet."""
        work = self.work(key)
        from flatlens.records.runs import FINISHED

        # Listed first: parts are removed one by one, but only after the manifest says that the cell is finished.
        saved = len(list(inside(work, "parts").glob("*.steps.parquet")))
        try:
            found = borders.read_json(work / "manifest.json")
            borders.check_manifest(found)
        except DamageError:
            return None
        return found["batches"] if found["state"] == FINISHED else saved, found["batches"]

    # ---- a cell's way through the folders -------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, key: str, part: str = "") -> Iterator[None]:
        """Hold the lock of a cell, or of a part of it: one process at a time works on it, and the others wait."""
        self._alive()
        with disk(self.path):
            lock = self.locks.acquired(f"{key}{part}")
        try:
            self._alive()
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
                for left in self.work(key).glob(".*.tmp"):  # of a worker that was killed while it wrote
                    left.unlink()
                self.work(key).rename(place)
                sync_folder(place.parent)
            shutil.rmtree(self.work(key), ignore_errors=True)
            (inside(self.path, "failed") / f"{key}.json").unlink(missing_ok=True)
            # Whoever waits for one of these finds the cell finished.
            self.locks.forget(key)

    def set_aside(self, key: str) -> None:
        """Move the results of a cell out of the sweep: they are of other weights, data or measurements than today's."""
        with disk(self.path):
            folder = inside(self.path, "replaced")
            folder.mkdir(exist_ok=True)
            for found in (self.cell(key), self.work(key)):
                with contextlib.suppress(FileNotFoundError):  # another shard was faster
                    found.rename(folder / f"{key}-{time.time_ns()}")
            self.forgive(key)

    def fail(self, key: str, failure: Failure) -> None:
        """Write down what went wrong with a cell."""
        self._alive()
        with disk(self.path):
            folder = inside(self.path, "failed")
            folder.mkdir(exist_ok=True)
            write_json(folder / f"{key}.json", failure._asdict(), indent=None)

    def failure(self, key: str) -> Failure | None:
        """What went wrong with a cell, or None."""
        file = inside(self.path, "failed") / f"{key}.json"
        if not os.path.lexists(file):
            return None
        try:
            found = borders.read_json(file)
            borders.check(found, borders.FAILURE, file.name)
        except DamageError:
            return Failure("the record of its failure is damaged", "unknown", "", 0.0, 1)
        return Failure(**{name: found[name] for name in Failure._fields})

    def forgive(self, key: str) -> None:
        """Forget that a cell has failed."""
        with disk(self.path):
            (inside(self.path, "failed") / f"{key}.json").unlink(missing_ok=True)

    def _alive(self) -> None:
        """Raise an error if the sweep's folder was removed, so that no part of it is made again."""
        if not (self.path / PLAN).exists():
            with contextlib.suppress(OSError):
                # A lock makes the folders that it is to lie in, if they were removed just now.
                for lock in self.locks.folder.glob("*.cell"):
                    lock.unlink()
                self.locks.folder.rmdir()
                self.path.rmdir()
            raise DiskError(f"the results folder '{self.path}' is gone, and what was in it; begin again in a new one")


def load_sweep(path: str | Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        RunError: there is none, or one of a newer schema.
    """
    path = Path(path)
    if not is_sweep(path):
        what = "does not exist" if not path.exists() else f"holds no {PLAN}" if path.is_dir() else "is a file"
        raise RunError(f"'{path}' is no sweep: it {what}; name the --out folder of a `flatlens sweep`")
    demand_no_links(path)
    try:
        found = borders.read_json(path / PLAN, borders.PLAN_BYTES)
        borders.check(found, {"schema_version": borders.MANIFEST["schema_version"]}, PLAN)
        version = found["schema_version"]
        cells = borders.check_plan(found) if version <= VERSION else {}
    except DamageError as error:
        raise RunError(
            f"'{path / PLAN}' is damaged; the sweep's command writes it again once it is removed ({error})"
        ) from error
    if version > VERSION:
        raise RunError(f"the sweep in '{path}' has schema {version}; this flatlens reads {VERSION}: upgrade it")
    return Sweep(path, cells)


def demand_no_links(path: Path) -> None:
    """Refuse a sweep's folder in which a link leads elsewhere: nothing is written or removed through it.

    Raises:
        RunError: names the link.
    """
    for name in (PLAN, *FOLDERS):
        inside(path, name)


def is_sweep(path: str | Path) -> bool:
    """Whether a folder holds a sweep."""
    return os.path.lexists(Path(path) / PLAN)
