"""Who is at work on a sweep: locks that are held as long as their holder is alive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from flatlens.files import borders
from flatlens.files.borders import DamageError, own_file

LOOKING = 0.5
"""Seconds after which a process that only looks whether a lock is held has surely let go of it."""


def file_lock(path: Path, timeout: float = -1, root: Path | None = None) -> FileLock:
    """A lock on a file, which must be a plain file: opening it empties it.

    Raises:
        RunError: its file is a link.
    """
    return FileLock(own_file(path, root or path.parent.parent), timeout=timeout)


def who(file: Path) -> dict[str, Any]:
    """What the file beside a lock tells of its holder: ``pid``, ``host``, ``since``, ``shard``; {} if it is damaged."""
    try:
        found = borders.read_json(file)
        borders.check(found, borders.SUPERVISOR, file.name)
    except DamageError:
        return {}
    return found


class Locks:
    """The folder of a sweep's locks.

    ``I-of-N.supervisor``, with what is known of its holder in ``I-of-N.json``; ``KEY.cell`` and ``KEY.BATCH.cell`` of
    cells under way, the training of a model for them included.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def acquired(self, name: str) -> BaseFileLock:
        """Take the lock of a cell, or of a part of it; wait until it is free."""
        lock = file_lock(self.folder / f"{name}.cell")
        lock.acquire()
        return lock

    def held(self) -> set[str]:
        """The keys of all cells that a process is at work on."""
        return {lock.name.partition(".")[0] for lock in self.folder.glob("*.cell") if is_held(lock)}

    def forget(self, key: str) -> None:
        """Remove a cell's locks; whoever waits for one of them finds the cell finished."""
        for lock in self.folder.glob(f"{key}*.cell"):
            lock.unlink(missing_ok=True)

    def supervisors(self) -> list[dict[str, Any]]:
        """Who is at work: ``pid``, ``host``, ``since`` in seconds since 1970, and ``shard`` (i-of-n)."""
        return [self._who(lock.stem) for lock in sorted(self.folder.glob("*.supervisor")) if is_held(lock)]

    def busy(self, name: str) -> str:
        """One line that says which supervisor is at work already."""
        which = "" if name == "1-of-1" else f" (shard {name.replace('-of-', '/')})"
        return at_work(self._who(name), self.folder.parent, which)

    def _who(self, name: str) -> dict[str, Any]:
        return who(self.folder / f"{name}.json")


def at_work(holder: dict[str, Any], folder: Path, which: str = "") -> str:
    """One line that says who is at work on a folder already."""
    return (
        f"process {holder.get('pid', '?')} on {holder.get('host', '?')} is at work on '{folder}'{which}; "
        "wait for it, or stop it: nothing that it finished is lost"
    )


def is_held(lock: Path, patience: float = 0.0) -> bool:
    """Whether a living process holds a lock.

    Whoever asks this holds the lock for a moment, too: for ``patience`` seconds it may be no more than that.
    """
    if not os.path.lexists(lock):
        return False
    probe = file_lock(lock, timeout=patience)
    try:
        probe.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    probe.release()
    return False
