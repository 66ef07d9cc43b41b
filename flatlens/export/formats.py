"""Tables -> a file that other programs read, piece by piece: CSV, Parquet or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

CSV, PARQUET, JSON = "csv", "parquet", "json"
FORMATS = {
    CSV: "text that begins with = + - @ gets an apostrophe before it, so that no spreadsheet takes it for a formula",
    PARQUET: "with all types",
    JSON: "an object on each line; what is not finite is null",
}
ALSO = {"jsonl": JSON, "ndjson": JSON, "pq": PARQUET}
"""Other names of a format -> its own."""
_GATHERED = 65_536
"""Rows that are written together: many small runs would otherwise make many small pieces of a Parquet file."""
_FORMULA = r"^[=+\-@\t\r]"


def write(parts: Iterator[pa.Table], stream: IO[bytes], format: str) -> int:
    """Write all tables, which have the same columns, and return how many rows they have."""
    writer: _Writer | None = None
    rows = 0
    try:
        for part in _gathered(parts):
            if writer is None:
                writer = _WRITERS[format](stream, part.schema)
            writer.write(part)
            rows += part.num_rows
    finally:
        # Also after an error: a Parquet file that is left open would complain on stderr when it is collected.
        if writer is not None:
            writer.close()
    return rows


def _gathered(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Small tables together."""
    waiting: list[pa.Table] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += part.num_rows
        if count >= _GATHERED:
            yield _together(waiting)
            waiting, count = [], 0
    if waiting:
        yield _together(waiting)


def _together(found: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(found).unify_dictionaries()


class _Writer(Protocol):
    def write(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


class _Csv:
    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._schema = pa.schema([(field.name, _plain(field.type)) for field in schema])
        self._writer = csv.CSVWriter(stream, self._schema)

    def write(self, table: pa.Table) -> None:
        table = table.cast(self._schema)
        for i, field in enumerate(self._schema):
            if field.type == pa.string():
                table = table.set_column(i, field, _harmless(table.column(i)))
        self._writer.write(table)

    def close(self) -> None:
        self._writer.close()


class _Parquet:
    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(stream, schema)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class _Json:
    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._stream, self._names = stream, schema.names

    def write(self, table: pa.Table) -> None:
        for batch in table.to_batches(max_chunksize=4096):
            columns = [_finite(values) for values in batch.columns]
            lines = (
                json.dumps(dict(zip(self._names, row, strict=True)), ensure_ascii=False, allow_nan=False)
                for row in zip(*columns, strict=True)
            )
            self._stream.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        pass


_WRITERS: dict[str, Callable[[IO[bytes], pa.Schema], _Writer]] = {CSV: _Csv, PARQUET: _Parquet, JSON: _Json}


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _harmless(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts that no spreadsheet takes for a formula."""
    return pc.if_else(pc.match_substring_regex(texts, _FORMULA), pc.binary_join_element_wise("'", texts, ""), texts)


def _finite(values: pa.Array) -> list[Any]:
    found = values.to_pylist()
    if not pa.types.is_floating(values.type):
        return found
    return [value if value is None or math.isfinite(value) else None for value in found]
