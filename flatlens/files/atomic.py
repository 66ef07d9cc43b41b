"""Files that are there whole or not at all, and what the disk refuses, in one line."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flatlens.errors import DiskError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A file to write to, which takes its name only when it is complete and on the disk."""
    # Several machines may write to one folder: a process number alone could be another's.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # some file systems know no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what `replacing` has left of writers that were killed; whoever still writes holds a lock on his file."""
    for left in folder.glob(f".{glob.escape(name) if name != '*' else name}.*.tmp"):
        with contextlib.suppress(OSError):
            if left.is_file() and not left.is_symlink() and is_written(left):
                continue
            left.unlink()


def is_written(file: Path) -> bool:
    """Whether another process holds the file open to write to it."""
    if fcntl is None:
        return False
    with file.open("rb") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_file(path: Path, content: bytes) -> None:
    """A whole file at once, under its name only when it is on the disk."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"no space left for '{path}'; the finished batches are saved: make room and run the same command"
            ) from error
        raise DiskError(f"cannot write to '{path}': {error.strerror or error}; choose another --out") from error
