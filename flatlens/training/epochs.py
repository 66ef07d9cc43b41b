"""``NAME.training.parquet``: a row for each epoch of a training, beside its weights."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.files.borders import DamageError, read_bytes
from flatlens.training.watch import Row

SCHEMA = pa.schema([(name, pa.int32() if name == "epoch" else pa.float64()) for name in Row._fields])


def stored(rows: Sequence[Row]) -> bytes:
    """The file's bytes; the columns are `Row`'s fields."""
    table = pa.Table.from_pylist([row._asdict() for row in rows], SCHEMA)
    out = io.BytesIO()
    pq.write_table(table, out, write_page_checksum=True)
    return out.getvalue()


def beside(weights: Path) -> Path:
    """Where the rows of a training are whose weights are in ``weights``."""
    return weights.with_suffix(".training.parquet")


def read(weights: Path) -> dict[str, list[Any]]:
    """The rows beside a file of weights: column -> its values, NaN where an epoch was not looked at.

    Raises:
        FileNotFoundError: there are none.
        DamageError: the file is damaged, or holds something else.
    """
    file = beside(weights)
    if not os.path.lexists(file):
        raise FileNotFoundError(file)
    content = read_bytes(file)
    try:
        table = pq.read_table(io.BytesIO(content), schema=SCHEMA, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamageError(f"{file.name} is damaged") from error
    missing = [name for name in SCHEMA.names if table[name].null_count]
    if missing or not table.num_rows:
        raise DamageError(f"{file.name} lacks values of {missing[0] if missing else 'every epoch'}")
    return {name: table[name].to_pylist() for name in SCHEMA.names}
