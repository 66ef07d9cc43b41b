"""Who may work on a sweep's folder, and what its cells then are; no torch."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout

from flatlens.errors import RunError, SpecError
from flatlens.files.atomic import disk, write_file, write_json
from flatlens.files.locks import LOOKING, file_lock, is_held
from flatlens.records import runs
from flatlens.specs.run import from_dict
from flatlens.sweeps.folder import PLAN, VERSION, Sweep, demand_no_links, is_sweep, load_sweep
from flatlens.sweeps.grid import Cell


@contextlib.contextmanager
def supervised(path: Path, cells: list[Cell], text: str, shard: tuple[int, int] = (1, 1)) -> Iterator[Sweep]:
    """The sweep in a folder, made or amended, with its one supervisor: its cells are these, and all finished ones.

    Args:
        path: the folder; a new or an empty one, or that of a sweep.
        cells: what the sweep file amounts to.
        text: the sweep file's own.
        shard: i of n, where several supervisors share the cells.

    Yields:
        the sweep, which no other supervisor changes until the block ends.

    Raises:
        RunError: the folder holds other things, or another supervisor is at work on these cells.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"--out '{path}' is a file; name a folder")
    # In this order: a shard that begins now writes its plan before anything that is not told from others' files.
    if path.exists() and not all(_is_ours(entry) for entry in path.iterdir()) and not _was_sweep(path):
        raise RunError(f"--out '{path}' holds other files and no sweep; name a new or an empty folder")
    demand_no_links(path)
    name = "{}-of-{}".format(*shard)
    folder = path / "locks"
    with disk(path):
        folder.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(path, {})
    lock = file_lock(folder / f"{name}.supervisor", timeout=1)
    with disk(path):
        try:
            lock.acquire()
        except Timeout:
            raise RunError(sweep.locks.busy(name)) from None
    try:
        # Shards of another cut have cells in common with this one.
        for other in folder.glob("*.supervisor"):
            if other.stem.partition("-of-")[2] != str(shard[1]) and is_held(other, LOOKING):
                raise RunError(sweep.locks.busy(other.stem))
        with disk(path):
            (path / "work").mkdir(exist_ok=True)
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "shard": name}
            write_json(folder / f"{name}.json", about, indent=None)
            sweep.plan, older = _amended(path, cells, text)
            if older:
                said = "cells are" if older > 1 else "cell is"
                sweep.notes.append(
                    f"{older} {said} of an older measurement version and done again; the old results are in replaced/"
                )
        yield sweep
    finally:
        lock.release()


def _was_sweep(path: Path) -> bool:
    # A plan that was damaged may have been removed: it is written again, and what is finished is found.
    return is_sweep(path) or any((path / "locks").glob("*.supervisor"))


def _is_ours(entry: Path) -> bool:
    # What is there before there is a plan: a supervisor was killed while it began.
    return entry.name in ("locks", "work", "sweep.toml") or entry.name.endswith(".tmp")


def _amended(path: Path, cells: list[Cell], text: str) -> tuple[dict[str, dict[str, Any]], int]:
    """The plan, on the disk: these cells, and all that are finished already, as they were when they were measured.

    Results of these same cells by an older measurement version, which had other keys, are set aside and counted.
    """
    known = load_sweep(path) if is_sweep(path) else Sweep(path, {})
    stored = known.plan
    plan = {cell.key: cell.spec.to_dict() for cell in cells}
    wanted, older = {cell.spec.hash() for cell in cells}, 0
    for key in stored.keys() - plan.keys():
        if (known.is_done(key) or known.work(key).is_dir()) and _hash(stored[key]) in wanted:
            known.set_aside(key)
            older += 1
    done = known.keys("cells")
    plan |= {key: _called(spec, plan.get(key)) for key, spec in stored.items() if key in done}
    for key in plan.keys() & (done - stored.keys()):  # the plan was damaged, and removed
        with contextlib.suppress(RunError):
            plan[key] = runs.load(known.cell(key)).settings()
    given = path / "sweep.toml"
    if not given.exists() or given.read_bytes() != text.encode():
        write_file(given, text.encode())
    save_plan(path, plan, stored)
    return plan, older


def _called(spec: dict[str, Any], now: dict[str, Any] | None) -> dict[str, Any]:
    """A finished cell's specification as it was, under the name that it is given now."""
    if now is None:
        return spec
    same = {key: value for key, value in spec.items() if key != "name"}
    return same | ({"name": now["name"]} if now.get("name") else {})


def _hash(spec: dict[str, Any]) -> str | None:
    try:
        return from_dict(spec).hash()
    except SpecError:  # of another flatlens
        return None


def save_plan(path: Path, plan: dict[str, dict[str, Any]], stored: dict[str, dict[str, Any]] | None = None) -> None:
    """Put the plan on the disk, unless it is what is ``stored`` there."""
    if not stored or list(stored.items()) != list(plan.items()):
        write_json(path / PLAN, {"schema_version": VERSION, "cells": plan}, indent=None)
