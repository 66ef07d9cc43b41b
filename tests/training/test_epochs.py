"""The rows of a training on the disk: read as they were written, and refused where they are not whole."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flatlens.files.borders import DamageError
from flatlens.training import epochs
from flatlens.training.watch import Row

ROWS = [Row(1, 2.5, 0.3, seconds=0.5), Row(2, 1e-300, 0.9, *[0.1 * k for k in range(1, 9)], 1e-3, 0.4)]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    epochs.beside(weights).write_bytes(epochs.stored(ROWS))
    assert epochs.beside(weights).name == "net.training.parquet"
    found = epochs.read(weights)
    assert list(found) == list(Row._fields) and found["epoch"] == [1, 2]
    for name in Row._fields:
        for value, row in zip(found[name], ROWS, strict=True):
            own = getattr(row, name)
            assert value == own or (math.isnan(value) and math.isnan(own))


def test_rows_that_are_not_there_are_told_from_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        epochs.read(tmp_path / "net.safetensors")


def altered(how: str) -> bytes:
    whole = epochs.stored(ROWS)
    table = pq.read_table(pa.BufferReader(whole))
    if how == "cut off":
        return whole[:-40]
    if how == "no table":
        return b"PAR1" + bytes(200) + b"PAR1"
    table = table.slice(0, 0) if how == "empty" else table.drop_columns("loss")
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    return bytes(out.getvalue())


@pytest.mark.parametrize("how", ["cut off", "no table", "empty", "a column less"])
def test_damaged_rows_are_refused_in_one_line(tmp_path: Path, how: str) -> None:
    weights = tmp_path / "net.safetensors"
    epochs.beside(weights).write_bytes(altered(how))
    with pytest.raises(DamageError, match=r"^net\.training\.parquet (is damaged|lacks values of .+)$"):
        epochs.read(weights)
