"""Files that are there whole or not at all, and what the disk refuses, in one line."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flatlens.errors import DiskError
from flatlens.files.sealing import seal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


JUST_NOW = 5.0
"""Seconds that a living process has from opening a file to locking it."""


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
            if fcntl is not None:  # while it is locked: whoever clears leftovers must not find it without a lock
                temporary.replace(path)
        if fcntl is None:  # an open file cannot be renamed there
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a file that was renamed is under its new name from then on."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files of writers that were killed; one that is still alive holds a lock on its file."""
    for left in folder.glob(f".{glob.escape(name) if name != '*' else name}.*.tmp"):
        with contextlib.suppress(OSError):
            if left.is_file() and not left.is_symlink() and (is_written(left) or _is_opened(left)):
                continue
            left.unlink()


def _is_opened(file: Path) -> bool:
    """Whether a living process may have opened a file and not locked it yet."""
    process = file.name.rpartition(".tmp")[0].rpartition(".")[2].partition("-")[0]
    if fcntl is None or time.time() - file.stat().st_mtime > JUST_NOW or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return int(process) != os.getpid()


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


def write_json(path: Path, record: Mapping[str, Any], *, indent: int | None = 2, sealed: bool = True) -> None:
    """A record as a JSON file, under its name only when it is on the disk.

    Args:
        path: the file.
        record: plain data.
        indent: of each level; all on one line when None.
        sealed: whether it bears its own hash (`flatlens.files.sealing`); without one, as of files whose hash is kept
            elsewhere, it is on one line, and numbers that are not finite are an error.
    """
    write_file(path, seal(record, indent=indent) if sealed else json.dumps(record, allow_nan=False).encode())


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
