"""Archives from elsewhere, looked at before they are read: what they would expand to, and the names in them."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from numpy.lib import format as npy

from flatlens.errors import UsageError

_SHOWN = 40
MOST = 2**30
"""Bytes that an archive may always expand to."""
MOST_RATIO = 200
"""How many times its own size an archive may expand to, beyond `MOST`."""


def check(file: Path, error: type[UsageError], *, stored: bool = False) -> None:
    """Look at a zip archive's table of contents; what is no zip archive is let through.

    Args:
        file: the archive.
        error: what to raise.
        stored: whether it is of a kind that compresses nothing, as ``torch.save`` writes it.

    Raises:
        error: it would expand to far more than its size, or holds a path that leads out of it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    for entry in entries:
        if leads_out(entry.filename):
            raise error(f"'{file}' holds the path {entry.filename!r}, which leads out of it; get it from who made it")
    size, whole = file.stat().st_size, sum(entry.file_size for entry in entries)
    if whole > (size if stored else max(MOST, MOST_RATIO * size)):
        raise error(
            f"'{file}' has {size:,} bytes and would expand to {whole:,}, as a decompression bomb does; save it again"
        )


def arrays(file: Path) -> list[str]:
    """The arrays in an NPZ file as ``x float32 [10, 1, 8, 8]``, read off their headers: nothing of them is loaded."""
    found = []
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.namelist()[:_SHOWN]:
                with archive.open(entry) as stream:
                    version = npy.read_magic(stream)
                    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                    shape, _, kind = read(stream)
                found.append(f"{entry.removesuffix('.npy')} {kind} [{', '.join(map(str, shape))}]")
            more = len(archive.namelist()) - len(found)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError):
        return found
    return [*found, f"… ({more} more)"] if more else found


def leads_out(name: str) -> bool:
    """Whether a path in an archive or an index is absolute, or climbs with ``..``."""
    return any(
        path.is_absolute() or bool(path.drive) or ".." in path.parts
        for path in (PurePosixPath(name), PureWindowsPath(name))
    )
