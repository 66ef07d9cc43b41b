"""A path that is broken off in its middle, as one file: rows so far and what the next pass is of. No torch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flatlens.files.atomic import disk, write_file

_TABLE = "table."


class Saved(NamedTuple):
    """Tables, arrays and plain data, by their names."""

    tables: dict[str, pa.Table]
    arrays: dict[str, NDArray[Any]]
    known: dict[str, Any]


def write(file: Path, tables: Mapping[str, pa.Table], arrays: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Put it on the disk, whole or not at all.

    Raises:
        DiskError: the disk is full or not writable.
    """
    held = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    for name, table in tables.items():
        out = io.BytesIO()
        pq.write_table(table, out)
        held[f"{_TABLE}{name}"] = np.frombuffer(out.getvalue(), dtype=np.uint8)
    with disk(file.parent):
        file.parent.mkdir(exist_ok=True)
        write_file(file, save(held, {"known": json.dumps(dict(known))}))


def read(file: Path) -> Saved | None:
    """What was put there; None where there is nothing, or it is damaged: then the path is walked from its start."""
    try:
        with safe_open(file, framework="numpy") as stored:
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            known = json.loads((stored.metadata() or {}).get("known", "{}"))
        tables = {
            name.removeprefix(_TABLE): pq.read_table(pa.BufferReader(found.pop(name).tobytes()))
            for name in list(found)
            if name.startswith(_TABLE)
        }
    except (OSError, SafetensorError, ValueError, pa.ArrowException):
        return None
    return Saved(tables, found, known)
