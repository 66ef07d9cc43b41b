"""A run's tables and inputs, left on the disk: each column is read when it is asked for, and not kept.

A run of 20,000 samples and 20 steps is judged and drawn column by column; its tables as a whole would take more memory
than measuring it did.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flatlens.errors import RunError, one_line
from flatlens.records import stored
from flatlens.records.schema import Gradients, Images


class StoredTable:
    """The part of `pyarrow.Table`'s interface that readers use: columns, some of the rows, some of the columns.

    Columns that the file lacks are null; texts are dictionaries, which take four bytes a row.

    Args:
        file: a Parquet file, complete.
        schema: the columns that there are to be.
        rows: which rows ``[m]``, ascending; all when left out.

    Raises:
        RunError: the file is damaged, when it is opened or when a column is read.
    """

    def __init__(
        self, file: Path, schema: pa.Schema, rows: NDArray[np.int64] | None = None, *, about: Any = None
    ) -> None:
        self.file: Path = file
        self.schema: Any = schema
        self._rows = rows
        # Read once: the columns of a run of many batches are many pieces.
        self._about = _about(file) if about is None else about
        self._there = set(self._about.schema.names)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return int(self._about.num_rows) if self._rows is None else len(self._rows)

    @property
    def column_names(self) -> list[str]:
        """The columns."""
        return list(self.schema.names)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        field = self.schema.field(name)
        if name not in self._there:
            return pa.chunked_array([pa.nulls(self.num_rows, field.type)])
        try:
            texts = [name] if name in TEXTS else None
            with pq.ParquetFile(self.file, metadata=self._about, read_dictionary=texts) as stored:
                column = stored.read(columns=[name], use_threads=False)[name]
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.file, error) from error
        if not pa.types.is_dictionary(column.type):
            column = column.cast(field.type)
        # What reading took is given back at once: the next column is another's.
        pa.default_memory_pool().release_unused()
        if self._rows is None:
            return column
        return pa.chunked_array([column.unify_dictionaries().combine_chunks().take(pa.array(self._rows))])

    def filter(self, mask: Any) -> StoredTable:
        """The rows where ``mask`` ``[num_rows]`` is true."""
        keep = np.flatnonzero(np.asarray(mask.fill_null(False).to_numpy(zero_copy_only=False)))
        rows = keep if self._rows is None else self._rows[keep]
        return StoredTable(self.file, self.schema, rows, about=self._about)

    def select(self, names: Sequence[str]) -> StoredTable:
        """These columns only."""
        schema = pa.schema([self.schema.field(name) for name in names])
        return StoredTable(self.file, schema, self._rows, about=self._about)


TEXTS = ("path", "kind", "layer", "method", "status")
"""Columns of text, of which few differ."""


def tensors(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, on the disk until they are looked at.

    Raises:
        RunError: the file is damaged.
    """  # noqa: DOC501 (a function makes the error)
    kinds = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return {
            name: np.memmap(
                file, kinds[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
            )
            if 0 not in entry["shape"]
            else np.empty(entry["shape"], kinds[entry["dtype"]])
            for name, entry in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from error


def _about(file: Path) -> Any:
    try:
        return pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> RunError:
    return RunError(f"the run in '{file.parent}' is damaged: {file.name}: {one_line(error)}; run it again with --force")


def unread(path: Path) -> Images:
    """A file's inputs, on the disk until they are looked at."""
    held = tensors(path)
    return Images(**{name: held[name] for name in Images._fields}) if _in_order(held) else stored.images(path)


def unread_gradients(path: Path) -> Gradients:
    """A file's gradients, on the disk until they are looked at."""
    held = tensors(path)
    return Gradients(**{name: held[name] for name in Gradients._fields}) if _in_order(held) else stored.gradients(path)


def _in_order(held: dict[str, NDArray[Any]]) -> bool:
    sample, step = held["sample"], held["step"]
    return bool(((np.diff(sample) > 0) | ((np.diff(sample) == 0) & (np.diff(step) >= 0))).all())
