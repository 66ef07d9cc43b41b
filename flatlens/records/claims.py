"""Who is at work on a run by itself: one process at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from flatlens.errors import RunError
from flatlens.files.borders import inside
from flatlens.files.locks import at_work, file_lock, who

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
from flatlens.files.atomic import disk, write_json

LOCK = (".lock", ".lock.json")
"""The lock of who is at work on a run by itself, and what is known of them; a sweep has locks of its own."""


PATIENCE = 1.0
"""Seconds to wait for a process that has just finished a run and is about to release it."""


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Be the only process that works on a run's folder. It is made, and removed again if no run was begun in it.

    Raises:
        RunError: another process is at work on it.
        DiskError: it cannot be made.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    with disk(path):
        path.mkdir(parents=True, exist_ok=True)
    lock = file_lock(inside(path, LOCK[0]), timeout=PATIENCE, root=path)
    with disk(path):
        try:
            lock.acquire()
        except Timeout:
            raise RunError(at_work(who(path / LOCK[1]), path)) from None
    try:
        with disk(path):
            about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            write_json(path / LOCK[1], about, sealed=False)
        yield
    finally:
        with contextlib.suppress(OSError):
            for name in reversed(LOCK):
                (path / name).unlink(missing_ok=True)
            lock.release()
            for folder in made:
                folder.rmdir()  # only where it is empty
        lock.release()
