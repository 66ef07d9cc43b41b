"""A run on the disk is judged and drawn column by column: the same as from memory, and never the whole of a table."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import flatlens as fl
from flatlens.errors import RunError
from flatlens.measure import run as execute
from flatlens.records import cautions, reading, runs
from flatlens.records.columnwise import StoredTable
from flatlens.records.digest import digest
from flatlens.records.schema import STEPS
from flatlens.report import packing, page, page_data
from flatlens.specs.run import RunSpec
from tests.expected import cautioned

pytestmark = cautioned("flat-because-confident")

BASE = RunSpec("flatlens:digits-cnn", "flatlens:digits", eps=0.3, steps=4, limit=12, batch_size=5, device="cpu")
TEXTS = {
    "model": "lm:flatlens-tiny", "data": "flatlens:short-targets", "limit": 3, "steps": 3, "slot_len": 6,
    "norm": "linf", "eps": None,
}  # fmt: skip
KINDS = {
    "plain": {},
    "controls and layers": {"control": ("line-to-other-class", "gaussian-noise"), "layer": ("all",)},
    "restarts": {"restarts": 3, "random_start": True, "images": "all"},
    "best points": {"attack": "apgd-ce", "restarts": 2, "images": "none"},
    "minimal norm": {"attack": "ddn", "eps": None, "norm": "l2"},
    "texts": {**TEXTS, "attack": "gcg", "candidates": 8, "topk": 8, "control": ("copies",)},
    "mixtures of texts, another layer": {**TEXTS, "attack": "simplex", "layer": ("head", "*.2.mlp.down_proj")},
}


@pytest.fixture(autouse=True)
def every_run_is_large(monkeypatch):
    monkeypatch.setattr(reading, "SMALL", 0)


@pytest.fixture(scope="module", params=KINDS)
def run(request, tmp_path_factory):
    spec = dataclasses.replace(BASE, **KINDS[request.param])
    return fl.run(spec, tmp_path_factory.mktemp("runs") / "run")


def test_judged_and_drawn_from_the_disk_it_is_the_same(run):
    whole, stored = run.trace(), run.trace(whole=False)
    assert not isinstance(stored.steps, pa.Table)
    assert isinstance(stored.steps, StoredTable) and isinstance(whole.steps, pa.Table)
    assert cautions.of_trace(stored) == cautions.of_trace(whole)
    assert digest(stored) == digest(whole)
    assert packing.to_json(page_data.pages([stored])) == packing.to_json(page_data.pages([whole]))
    assert page.document([stored]) == page.document([whole]) and repr(stored) == repr(whole)
    if whole.images is not None:
        np.testing.assert_array_equal(stored.x_adv, whole.x_adv)
        np.testing.assert_array_equal(stored.result("loss"), whole.result("loss"))


def test_no_table_is_ever_read_as_a_whole(run, monkeypatch):
    """Structural: of the two tables one column at a time, of the inputs none but those that are drawn."""
    asked = []
    plain = pq.ParquetFile.read

    def read(self, columns=None, **how):
        asked.append(columns)
        return plain(self, columns=columns, **how)

    monkeypatch.setattr(pq.ParquetFile, "read", read)
    for name in ("read_table",):
        monkeypatch.setattr(runs.pq, name, lambda *_, **__: pytest.fail("a whole table"))
    monkeypatch.setattr(runs, "load_file", lambda *_: pytest.fail("all inputs"), raising=False)
    trace = run.trace(whole=False)
    cautions.of_trace(trace), digest(trace), page.document([trace])
    assert asked and all(columns is not None and len(columns) == 1 for columns in asked)


def test_finishing_reads_the_parts_one_by_one_and_no_whole_table(tmp_path, monkeypatch):
    begun = execute.begin(BASE, tmp_path / "run")
    execute.measure(begun, begun.run.missing())
    plain, most = pq.read_table, []

    def read_table(file, **how):
        assert Path(file).parent.name == "parts"
        found = plain(file, **how)
        most.append(found.num_rows)
        return found

    monkeypatch.setattr(runs.pq, "read_table", read_table)
    trace = execute.finish(begun)
    trace.report(tmp_path / "report.html")
    assert max(most) == 5 * 5 and trace.steps.num_rows == 12 * 5


# ---- as much of a table as is used


@pytest.fixture
def stored(tmp_path):
    rows = 40
    table = pa.table(
        {
            "path": ["attack"] * 30 + ["noise"] * 10, "restart": pa.array([0] * rows, pa.int32()),
            "sample": list(range(rows)), "step": pa.array([0] * rows, pa.int32()), "kind": ["iterate"] * rows,
            "loss": np.arange(rows) / 7, "flipped": [i % 3 == 0 for i in range(rows)],
        }
    )  # fmt: skip
    with pq.ParquetWriter(tmp_path / "steps.parquet", table.schema) as writer:
        for start in range(0, rows, 7):
            writer.write_table(table.slice(start, 7))
    return table, StoredTable(tmp_path / "steps.parquet", STEPS)


def test_columns_rows_and_what_is_missing(stored):
    table, lazy = stored
    assert lazy.num_rows == 40 and lazy.column_names == STEPS.names
    for name in table.column_names:
        assert lazy[name].to_pylist() == table[name].to_pylist()
    assert lazy["gap"].null_count == 40 and lazy["gap"].type == pa.float64()
    few = lazy.filter(pc.equal(lazy["path"], "noise"))
    again = few.filter(few["flipped"]).select(["sample", "gap"])
    assert few.num_rows == 10 and again["sample"].to_pylist() == [30, 33, 36, 39]
    assert again["gap"].null_count == 4 and again.column_names == ["sample", "gap"]
    assert few.filter(pc.equal(few["path"], "none")).num_rows == 0


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_damage_is_one_line(stored, cut):
    _, lazy = stored
    lazy.file.write_bytes(lazy.file.read_bytes()[:cut])
    for look in (lambda: StoredTable(lazy.file, STEPS), lambda: lazy["loss"]):
        with pytest.raises(RunError, match="is damaged: steps.parquet: .*--force"):
            look()


@pytest.mark.slow
def test_memory_is_flat_to_the_end():
    """20,000 samples × 20 steps, measured."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import memory

    assert memory.ratio() <= memory.MOST


def test_the_benchmark_of_memory_runs(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import memory

    found = memory.main(tmp_path, 30)
    assert found["drawn"] >= found["joined"] >= found["measuring"] > 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["samples"] == 30


def test_a_small_run_is_read_at_once(run, monkeypatch):
    monkeypatch.undo()
    assert isinstance(run.trace(whole=False).steps, pa.Table)
