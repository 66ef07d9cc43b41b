"""Rows of a table as matrices: whatever their order, wherever the table lies, they are where they belong."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flatlens.records.columnwise import StoredTable
from flatlens.records.matrices import Index

LENGTHS = {3: 4, 1: 2, 7: 4, 5: 0}
"""Sample -> its last step: paths differ in length."""
WANTED: dict[str, dict[str, Any]] = {
    "attack": {"path": "attack", "restart": 0, "layer": "head"},
    "a second run": {"path": "attack", "restart": 1, "layer": "head"},
    "another layer": {"path": "attack", "restart": 0, "layer": "conv"},
    "all layers alike": {"path": "attack", "restart": 0},
    "a control": {"path": "noise", "restart": 0, "layer": "head"},
    "best points": {"path": "attack", "restart": 1, "layer": "head", "kind": "best"},
    "iterates": {"path": "attack", "restart": 0, "layer": "head", "kind": "iterate"},
    "no such run": {"path": "noise", "restart": 1, "layer": "head"},
    "no such kind": {"path": "noise", "restart": 0, "layer": "head", "kind": "best"},
}


def _rows(layers: tuple[str | None, ...]) -> list[dict[str, Any]]:
    """Every run of every path, in no order; a best point of the attack, and a returned one in place of an iterate."""
    rng = np.random.default_rng(0)
    rows = []
    for (path, restart), layer in itertools.product((("attack", 0), ("attack", 1), ("noise", 0)), layers):
        for sample, last in LENGTHS.items():
            kinds = [(step, "returned" if step == last == 4 else "iterate") for step in range(last + 1)]
            for step, kind in [*kinds, *([(1, "best")] if path == "attack" else [])]:
                value = float(rng.normal())
                rows.append(
                    {"path": path, "restart": restart, "sample": sample, "step": step, "kind": kind, "layer": layer}
                    | {"value": value, "count": int(1000 * value), "flag": value > 0}
                )
    return [rows[i] for i in rng.permutation(len(rows))]


def _expected(rows: list[dict[str, Any]], column: str, wanted: dict[str, Any]) -> tuple[list[int], np.ndarray]:
    kind = wanted.get("kind")
    mine = [
        row
        for row in rows
        if all(row[key] == value for key, value in wanted.items())
        and (kind is not None or row["kind"] != "best")
    ]  # fmt: skip
    samples = sorted({row["sample"] for row in mine})
    out = np.full((len(samples), max((row["step"] for row in mine), default=-1) + 1), np.nan)
    for i, j in np.ndindex(out.shape):
        own = {row["step"]: row[column] for row in mine if row["sample"] == samples[i]}
        if column == "value":
            out[i, j] = own.get(j, np.nan)
        else:  # the last value stays
            before = [step for step in own if step <= j]
            out[i, j] = own[max(before)] if before else (-1 if column == "count" else False)
    return samples, out


@pytest.mark.parametrize("place", ["memory", "memory, in pieces", "disk", "disk, some rows"])
@pytest.mark.parametrize("which", WANTED)
def test_every_row_is_where_it_belongs(which: str, place: str, tmp_path: Path) -> None:
    wanted = WANTED[which]
    rows = _rows(("head", "conv") if "layer" in wanted else ("head",))
    table: Any = pa.Table.from_pylist(rows)
    if place != "memory":
        table = pa.concat_tables([table.slice(start, 7) for start in range(0, table.num_rows, 7)])
    if place.startswith("disk"):
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=11)
        table = StoredTable(tmp_path / "t.parquet", table.schema)
    if place == "disk, some rows":
        table = table.filter(pa.chunked_array([np.arange(table.num_rows) % 5 != 0]))
        rows = [row for i, row in enumerate(rows) if i % 5]
    index = Index(table)
    for column in ("value", "count", "flag", "value"):
        sample, values = index.matrix(column, **wanted)
        samples, expected = _expected(rows, column, wanted)
        assert sample.tolist() == samples
        np.testing.assert_array_equal(values, expected)


def test_a_table_without_a_layer_or_without_rows() -> None:
    rows = [{key: value for key, value in row.items() if key != "layer"} for row in _rows(("head",))]
    table = pa.Table.from_pylist(rows)
    wanted = {"path": "attack", "restart": 0}
    np.testing.assert_array_equal(Index(table).matrix("value", **wanted)[1], _expected(rows, "value", wanted)[1])
    for empty in (table.slice(0, 0), table.schema.empty_table()):
        sample, values = Index(empty).matrix("value", **wanted)
        assert len(sample) == 0 and values.size == 0
