"""Runs of measurement version 1 open, report and export for ever, and are never mixed with what is measured today."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from flatlens_cli import app

import flatlens as fl
from flatlens.errors import StaleRunError
from flatlens.export import table as exporting
from flatlens.measure import run as execute
from flatlens.records.digest import digest
from flatlens.records.schema import LAYERS, MEASUREMENT_VERSION, STEPS
from flatlens.report import page
from flatlens.sweeps import tables
from flatlens.sweeps.supervisor import run_sweep
from tests.expected import cautioned
from tests.version1.make import RUN, SWEEP

HERE = Path(__file__).parents[1] / "version1"

NEW = {"steps": ["gap", "path_second", "path_third"], "layers": ["scale_free"]}


@pytest.fixture
def old(tmp_path):
    for name in ("run", "sweep", "unfinished"):
        shutil.copytree(HERE / name, tmp_path / name)
    return tmp_path


def test_the_version_is_raised_once():
    assert MEASUREMENT_VERSION == 2


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_opens_and_what_it_lacks_is_null(old, whole):
    run = execute.runs.load(old / "run")
    trace = run.trace(whole=whole)
    assert trace.steps.column_names == STEPS.names and trace.layers.column_names == LAYERS.names
    for table, names in NEW.items():
        for name in names:
            assert getattr(trace, table)[name].null_count == getattr(trace, table).num_rows
    assert np.isnan(trace.matrix("gap").values).all() and np.isnan(trace.matrix("scale_free").values).all()
    summary = trace.valley().summary()
    assert summary.flipped.count > 0 and summary.settled.n == summary.flipped.count
    assert digest(trace)["rows"][0]["end_vs_clean"]["n"] > 0


@cautioned("flat-because-confident")
def test_a_run_is_drawn_alone_and_beside_one_of_today(old, tmp_path):
    first = fl.open(old / "run")
    now = fl.open(fl.run(RUN, tmp_path / "now").path)
    for traces in ([first], [first, now]):
        assert page.document(traces).count("flatlens-data") == 2


@pytest.mark.parametrize("table", ["joined", "steps", "layers"])
@pytest.mark.parametrize("format", ["csv", "parquet", "json"])
def test_a_run_and_a_sweep_export(old, table, format):
    for folder in ("run", "sweep"):
        done = exporting.export(old / folder, table=table, format=format)
        assert done.rows > 0 and done.file.stat().st_size > 0
    if format == "parquet":
        there = pq.read_table(old / "run" / "export.parquet")
        wanted = NEW["steps"] * (table != "layers") + NEW["layers"] * (table != "steps")
        assert all(there[name].null_count == there.num_rows for name in wanted)


def test_a_sweep_opens_with_its_table_of_cells(old):
    sweep = fl.open(old / "sweep")
    assert sweep.cells.num_rows == 2 and sweep.cells.column_names == tables.CELLS.names
    assert sweep.cells["settled"].null_count == 2 and sweep.cells["flipped"].null_count == 0
    assert sweep.steps.num_rows == 2 * 4 * 5 and sweep.report().is_file()
    assert sweep.trace(next(iter(sweep.plan))).valley().summary().n == 4


@cautioned("flat-because-confident", "not-converged")
@pytest.mark.parametrize(
    ("folder", "spec", "said"),
    [
        ("run", RUN, "it opens, reports and exports as before"),
        ("run", replace(RUN, eps=0.1), "it opens, reports and exports as before"),
        ("unfinished", replace(RUN, layer=("head",)), "its 1 finished batches are not mixed with new ones"),
    ],
)
def test_asked_again_it_says_why_and_names_force(old, monkeypatch, folder, spec, said):
    before = {file: file.read_bytes() for file in (old / folder).rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(execute, "load", lambda *_: pytest.fail("nothing needs to be loaded to say no"))
        with pytest.raises(StaleRunError) as found:
            fl.run(spec, old / folder)
    message = str(found.value)
    assert "measurement version 1" in message and said in message and "--force" in message and "\n" not in message
    assert before == {file: file.read_bytes() for file in (old / folder).rglob("*") if file.is_file()}
    assert fl.run(spec, old / folder, force=True).manifest["measurement_version"] == 2


def test_on_the_command_line_it_is_one_line_and_a_usage_error(old, capsys):
    assert (
        app.run(["trace", "--config", str(old / "run" / "spec.toml"), "--out", str(old / "run"), "--trust-pickle"]) == 2
    )
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "measurement version 1" in err and "--force" in err
    assert app.run(["report", str(old / "run")]) == 0 and app.run(["status", str(old / "sweep")]) == 0


@cautioned("flat-because-confident")
def test_a_sweep_sets_its_cells_aside_and_does_them_again(old):
    file = old / "sweep.toml"
    file.write_text(SWEEP)
    before = set(fl.open(old / "sweep").plan)
    done = run_sweep(file, old / "sweep", workers=1)
    assert (done.done, done.failed, done.new) == (2, 0, 2)
    assert any("2 cells are of an older measurement version" in note for note in done.notes)
    after = fl.open(old / "sweep")
    assert len(after.plan) == 2 and not before & set(after.plan) and after.cells["settled"].null_count == 0
    kept = sorted((old / "sweep" / "replaced").iterdir())
    assert {folder.name.partition("-")[0] for folder in kept} == before
    assert all(json.loads((folder / "manifest.json").read_text())["measurement_version"] == 1 for folder in kept)
    assert fl.open(kept[0]).valley().summary().n == 4
    assert run_sweep(file, old / "sweep", workers=1).new == 0


def test_cells_that_are_not_asked_for_stay(old):
    file = old / "other.toml"
    file.write_text(SWEEP.replace("[0, 1]", "[1, 2]"))
    done = run_sweep(file, old / "sweep", workers=1)
    assert done.new == 2 and len(list((old / "sweep" / "replaced").iterdir())) == 1
    assert sorted(spec["seed"] for spec in fl.open(old / "sweep").plan.values()) == [0, 1, 2]
