"""``NAME.training.parquet``: a row for each epoch of a training, beside its weights."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.training.watch import Row

SCHEMA = pa.schema([(name, pa.int32() if name == "epoch" else pa.float64()) for name in Row._fields])


def stored(rows: Sequence[Row]) -> bytes:
    """The file's bytes; the columns are `Row`'s fields."""
    table = pa.Table.from_pylist([row._asdict() for row in rows], SCHEMA)
    out = io.BytesIO()
    pq.write_table(table, out, write_page_checksum=True)
    return out.getvalue()
