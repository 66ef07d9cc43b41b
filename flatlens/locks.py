"""Who is at work on a sweep: locks that are held as long as their holder is alive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

LOOKING = 0.5
"""Seconds within which whoever only looks whether a lock is held has let go of it."""


class Locks:
    """The folder of a sweep's locks.

    ``I-of-N.supervisor``, with what is known of its holder in ``I-of-N.json``; ``KEY.cell`` and ``KEY.BATCH.cell`` of
    cells under way, the training of a model for them included.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def acquired(self, name: str) -> BaseFileLock:
        """The lock of a cell or a part of it, which is waited for."""
        lock = FileLock(self.folder / f"{name}.cell")
        lock.acquire()
        return lock

    def held(self) -> set[str]:
        """The keys of all cells that somebody is at work on."""
        return {lock.name.partition(".")[0] for lock in self.folder.glob("*.cell") if is_held(lock)}

    def forget(self, key: str) -> None:
        """Remove a cell's locks; whoever waits for one of them finds the cell finished."""
        for lock in self.folder.glob(f"{key}*.cell"):
            lock.unlink(missing_ok=True)

    def supervisors(self) -> list[dict[str, Any]]:
        """Who is at work: ``pid``, ``host``, ``since`` in seconds since 1970, and ``shard`` (i-of-n)."""
        return [self._who(lock.stem) for lock in sorted(self.folder.glob("*.supervisor")) if is_held(lock)]

    def busy(self, name: str) -> str:
        """One line about a supervisor in whose way one would be."""
        who = self._who(name)
        which = "" if name == "1-of-1" else f" (shard {name.replace('-of-', '/')})"
        return (
            f"process {who.get('pid', '?')} on {who.get('host', '?')} is at work on '{self.folder.parent}'{which}; "
            "wait for it, or stop it: nothing that it finished is lost"
        )

    def _who(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            found = {}
        return found if isinstance(found, dict) else {}


def is_held(lock: Path, patience: float = 0.0) -> bool:
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
