"""Join safetensors files along their first axis without holding them in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO


def concatenate(parts: Sequence[Path], out: BinaryIO) -> None:
    """Write to ``out`` the tensors of ``parts`` (the same names and types in each), stacked on their first axis.

    The format is eight bytes with the header's length, the header in JSON, then the tensors' bytes; rows are
    contiguous, so that stacking is copying.
    """
    headers = [_header(part) for part in parts]
    names = list(headers[0][0])
    joined: dict[str, dict[str, object]] = {}
    offset = 0
    for name in names:
        entries = [header[name] for header, _ in headers]
        size = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in entries)
        shape = [sum(entry["shape"][0] for entry in entries), *entries[0]["shape"][1:]]
        joined[name] = {"dtype": entries[0]["dtype"], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(joined).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors aligned to eight bytes
    out.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        for part, (header, start) in zip(parts, headers, strict=True):
            begin, end = header[name]["data_offsets"]
            with part.open("rb") as file:
                file.seek(start + begin)
                _copy(file, out, end - begin)


def _header(part: Path) -> tuple[dict[str, dict[str, list[int]]], int]:
    with part.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _copy(file: BinaryIO, out: BinaryIO, count: int) -> None:
    while count > 0:
        block = file.read(min(count, shutil.COPY_BUFSIZE))  # type: ignore[attr-defined]
        if not block:
            raise OSError(f"'{file.name}' is truncated")
        out.write(block)
        count -= len(block)
