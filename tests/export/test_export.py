"""`flatlens export`: what is written against the runs, in every format; memory, hostile text, what is missing."""

from __future__ import annotations

import csv
import gc
import io
import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flatlens_cli import app
from pyarrow import csv as arrow_csv

import flatlens as fl
from flatlens.errors import DiskError, RunError, SpecError
from flatlens.export import formats
from flatlens.export import images as arrays
from flatlens.export import table as exporting
from flatlens.records.schema import LAYERS, STEPS
from flatlens.sweeps import finished
from tests.edited import unsealed
from tests.expected import cautioned
from tests.small_sweep import CNN, copied

FRONT = ["cell", "model", "layers", "seed"]
KEY = ["path", "restart", "sample", "step", "kind"]


@pytest.fixture
def own(small_sweep, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(small_sweep, tmp_path / "own")
    return fl.open(tmp_path / "own")


@pytest.fixture
def cell(small_sweep):
    """A run's folder: that of the cell with two layers."""
    whole = fl.open(small_sweep)
    return next(whole.cell(key) for key, spec in whole.plan.items() if len(spec["layer"]) == 2)


def expected(sweep):
    """The joined table, the slow way: rows looked up one by one."""
    for key, spec in sweep.plan.items():
        trace = sweep.trace(key)
        steps = {tuple(row[name] for name in KEY): row for row in trace.steps.to_pylist()}
        front = {"cell": key, "model": spec["model"], "layers": " ".join(spec["layer"]), "seed": spec["seed"]}
        for row in trace.layers.to_pylist():
            yield front | steps[tuple(row[name] for name in KEY)] | row


def same(found, wanted):
    return found == wanted or (isinstance(found, float) and math.isnan(found) and math.isnan(wanted))


# ---- what is in it ------------------------------------------------------------------------------


def test_parquet_holds_steps_and_layers_joined_on_the_key(own):
    done = exporting.export(own.path, format="parquet")
    assert done.file == own.path / "export.parquet"
    table = pq.read_table(done.file)
    names = [*FRONT, *KEY, "layer", *STEPS.names[5:], *LAYERS.names[6:]]
    assert table.column_names == names
    rows, wanted = table.to_pylist(), list(expected(own))
    assert done.rows == len(rows) == len(wanted)
    assert (done.runs, done.missing) == (5, 0)
    key = {name: i for i, name in enumerate(own.plan)}

    def place(row):
        return (key[row["cell"]], row["path"] != "attack", row["sample"], row["step"], row["layer"])

    for found, want in zip(sorted(rows, key=place), sorted(wanted, key=place), strict=True):
        assert all(same(found[name], want[name]) for name in names)


def test_rows_stand_in_the_order_of_steps_then_of_layers(own):
    table = pq.read_table(exporting.export(own.path, format="parquet").file).to_pylist()
    wanted = [
        (key, *(row[name] for name in KEY), layer)
        for key in own.plan
        for trace in [own.trace(key)]
        for row in trace.steps.to_pylist()
        for layer in trace.layer_names
    ]
    assert [tuple(row[name] for name in ("cell", *KEY, "layer")) for row in table] == wanted


def test_csv_reads_back_to_the_same_values(own):
    exporting.export(own.path, format="parquet")
    whole = pq.read_table(own.path / "export.parquet")
    whole = whole.cast(pa.schema([(f.name, formats._plain(f.type)) for f in whole.schema]))
    done = exporting.export(own.path)
    assert done.file == own.path / "export.csv"
    options = arrow_csv.ConvertOptions(
        column_types=whole.schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    read = arrow_csv.read_csv(done.file, convert_options=options)
    assert read.column_names == whole.column_names
    for name in whole.column_names:
        for found, want in zip(read[name].to_pylist(), whole[name].to_pylist(), strict=True):
            assert same(found, want), name


def test_json_has_an_object_on_each_line_and_null_for_what_is_not_finite(own):
    done = exporting.export(own.path, format="json")
    lines = done.file.read_text().splitlines()
    exporting.export(own.path, format="parquet")
    rows = pq.read_table(own.path / "export.parquet").to_pylist()
    assert len(lines) == len(rows)
    for line, want in zip(lines, rows, strict=True):
        found = json.loads(line, parse_constant=pytest.fail)
        assert found == {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in want.items()}
    assert any(row["input_grad_norm"] is None for row in map(json.loads, lines))


def test_numbers_that_are_none_are_written_as_each_format_can(tmp_path):
    values = [1 / 3, math.nan, math.inf, -math.inf, None, 1e-300]
    table = pa.table({"x": pa.array(values, pa.float64(), from_pandas=False), "s": ["", None, "a\nb", 'q"', "é", ","]})
    for name, check in (("csv", _csv), ("json", _json)):
        stream = io.BytesIO()
        formats.write(iter([table]), stream, name)
        check(stream.getvalue().decode())


def _csv(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["x"] for row in rows] == ["0.3333333333333333", "nan", "inf", "-inf", "", "1e-300"]
    assert [row["s"] for row in rows] == ["", "", "a\nb", 'q"', "é", ","]


def _json(text):
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["x"] for row in rows] == [1 / 3, None, None, None, None, 1e-300]
    assert [row["s"] for row in rows] == ["", None, "a\nb", 'q"', "é", ","]


@pytest.mark.parametrize("table", ["steps", "layers"])
def test_the_other_tables_of_runs(own, table):
    done = exporting.export(own.path, format="parquet", table=table)
    found = pq.read_table(done.file)
    mine = getattr(own, table)
    assert found.column_names == [*FRONT, *mine.column_names[1:]]
    assert found.select(mine.column_names[1:]).equals(mine.drop_columns("cell"))


def test_the_table_of_cells(own):
    done = exporting.export(own.path, format="parquet", table="cells")
    assert pq.read_table(done.file).equals(own.cells)
    rows = exporting.export(own.path, format="json", table="cells").rows
    assert rows == own.cells.num_rows


@cautioned("flat-because-confident")
def test_a_run_has_neither_key_nor_settings_in_front(cell, tmp_path):
    done = exporting.export(cell, format="parquet", out=tmp_path / "sub" / "run.parquet")
    table = pq.read_table(done.file)
    assert table.column_names[:6] == [*KEY, "layer"]
    assert table.num_rows == fl.open(cell).layers.num_rows
    assert done == exporting.Exported(tmp_path / "sub" / "run.parquet", table.num_rows, 1, 0, None, [])
    assert not (cell / "export.parquet").exists()
    with pytest.raises(SpecError, match="a run has no table 'cells'"):
        exporting.export(cell, table="cells")


# ---- images -------------------------------------------------------------------------------------


def test_images_of_all_runs_are_one_archive(own):
    bare = finished.keys(own)[1]
    (own.cell(bare) / "images.safetensors").unlink()
    done = exporting.export(own.path, images=True)
    assert done.images == own.path / "export.npz"
    assert done.without_images == [bare]
    with np.load(done.images) as found:
        assert len(found.files) == 4 * 4
        for key in set(own.plan) - {bare}:
            trace = own.trace(key)
            label = trace.matrix("label")
            assert np.array_equal(found[f"{key}/x_adv"], trace.x_adv)
            assert found[f"{key}/x_adv"].dtype == np.float32
            assert np.array_equal(found[f"{key}/sample"], label.sample)
            assert np.array_equal(found[f"{key}/label"], label.values[:, 0])
            clean = trace.images.step == 0
            assert np.array_equal(found[f"{key}/x"], trace.images.x[clean])


@cautioned("flat-because-confident")
def test_images_of_one_run(cell, tmp_path):
    done = exporting.export(cell, images=True, out=tmp_path / "a.csv")
    assert done.images == tmp_path / "a.npz"
    with np.load(done.images) as found:
        assert sorted(found.files) == ["label", "sample", "x", "x_adv"]
        assert np.array_equal(found["x_adv"], fl.open(cell).x_adv)


@cautioned("flat-because-confident")
def test_what_an_attack_found_is_the_last_of_a_samples_inputs(tmp_path, cell):
    """Best points and restarts follow as one more entry at the last step; parts of a run come in any order."""
    from safetensors.numpy import load_file, save_file

    run = tmp_path / "run"
    shutil.copytree(cell, run)
    unsealed(run)
    stored = load_file(run / "images.safetensors")
    best = {name: values[stored["step"] == stored["step"].max()] for name, values in stored.items()}
    best["x"] = best["x"] + 1
    whole = {name: np.concatenate([stored[name][::-1], best[name]]) for name in stored}
    save_file({name: np.ascontiguousarray(values) for name, values in whole.items()}, run / "images.safetensors")
    trace = fl.open(run)
    with (tmp_path / "x.npz").open("wb") as out:
        assert arrays.write([("", run)], out) == []
    with np.load(tmp_path / "x.npz") as found:
        assert np.array_equal(found["x_adv"], trace.x_adv)
        assert found["x_adv"].max() > 1


def test_no_name_in_the_archive_leads_out_of_it(own):
    done = exporting.export(own.path, images=True)
    with zipfile.ZipFile(done.images) as archive:
        assert archive.testzip() is None
        assert all(name.split("/")[0] in own.plan for name in archive.namelist())


# ---- what is missing, damaged, hostile ----------------------------------------------------------


def test_an_unfinished_sweep_gives_what_is_finished(own, capsys):
    keys = finished.keys(own)
    for key in keys[2:]:
        shutil.rmtree(own.cell(key))
    assert app.run(["export", str(own.path)]) == 0
    printed = capsys.readouterr()
    assert "note: 3 of 5 cells are missing: they are not finished; see `flatlens status`\n" in printed.err
    assert printed.out.startswith(f"export  {own.path / 'export.csv'}\n")
    with (own.path / "export.csv").open() as file:
        rows = list(csv.DictReader(file))
    # The settings in front are the whole sweep's: a table that grows keeps its columns.
    assert {row["cell"] for row in rows} == set(keys[:2])
    assert list(rows[0])[:4] == FRONT
    for key in keys[:2]:
        shutil.rmtree(own.cell(key))
    with pytest.raises(RunError, match="no cell of the sweep in '.*' is finished; `flatlens status` says why"):
        exporting.export(own.path)


@pytest.mark.parametrize("name", ["steps.parquet", "layers.parquet"])
@pytest.mark.parametrize("how", ["gone", "cut", "other"])
def test_a_damaged_run_is_named_and_nothing_is_left_behind(own, name, how):
    keys = finished.keys(own)
    file = own.cell(keys[3]) / name
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:500])
    else:  # rows of other points
        unsealed(file.parent)
        table = pq.read_table(file)
        pq.write_table(table.slice(0, table.num_rows - 2), file)
    before = sorted(entry.name for entry in own.path.iterdir())
    if (name, how) == ("layers.parquet", "other"):
        # Points without curvature are rows all the same.
        rows = pq.read_table(exporting.export(own.path, format="parquet").file).to_pylist()
        assert sum(row["trace"] is None for row in rows) == 2
        return
    with pytest.raises(RunError, match=f"^cell {keys[3]} of the sweep in '.*' is damaged: .*; remove '"):
        exporting.export(own.path)
    assert sorted(entry.name for entry in own.path.iterdir()) == before


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_file_begun_before_the_damage_is_found_is_let_go_of_in_silence(own, name, monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setattr(formats, "_GATHERED", 1)
    (own.cell(finished.keys(own)[3]) / "steps.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="is damaged"):
        exporting.export(own.path, format=name)
    gc.collect()
    assert not said
    assert not list(own.path.glob("*export*"))


def test_a_damaged_run_by_itself_is_to_be_run_again(cell, tmp_path):
    shutil.copytree(cell, tmp_path / "run")
    (tmp_path / "run" / "steps.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="the run in '.*/run' is damaged: .*; run it again with --force"):
        exporting.export(tmp_path / "run")


def test_damaged_images_are_named(own):
    key = finished.keys(own)[0]
    (own.cell(key) / "images.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(RunError, match=f"cell {key} of the sweep in '.*' is damaged"):
        exporting.export(own.path, images=True)
    assert not (own.path / "export.npz").exists()


HOSTILE = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", '"quoted", and\nbroken', "\tx", "plain", "é漢"]


def test_hostile_text_runs_in_no_spreadsheet_and_is_kept_elsewhere(small_sweep, tmp_path):
    def change(i, spec):
        return spec | {"model": HOSTILE[i]}

    whole = copied(small_sweep, tmp_path / "many", len(HOSTILE), change=change)
    exporting.export(whole.path)
    with (whole.path / "export.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("model")
    found = list(dict.fromkeys(row[column] for row in rows[1:]))
    assert found == [f"'{text}" if text[0] in "=+-@\t" else text for text in HOSTILE]
    assert len({len(row) for row in rows}) == 1
    assert any(row[rows[0].index("margin")].startswith("-") for row in rows), "numbers are numbers"
    for name in ("json", "parquet"):
        file = exporting.export(whole.path, format=name).file
        with file.open("rb") as stream:
            lines = pq.read_table(stream).to_pylist() if name == "parquet" else list(map(json.loads, stream))
        assert list(dict.fromkeys(row["model"] for row in lines)) == HOSTILE
    assert set(whole.cells["model"].to_pylist()) == set(HOSTILE)
    assert whole.labels()["0000000000000000"] == f"model {HOSTILE[0]}"


def test_the_disk_and_the_name_are_spoken_of(own, tmp_path):
    with pytest.raises(DiskError, match=r"cannot write to '/proc/x/export.csv'"):
        exporting.export(own.path, out="/proc/x/export.csv")
    for wrong, said in (
        ({"format": "cvs"}, r"no format 'cvs'; there are: csv, parquet, json. Did you mean 'csv'\?"),
        ({"table": "layer"}, "no table 'layer'; there are: joined, steps, layers, cells."),
        ({"out": tmp_path / "x.npz", "images": True}, "would be both the table and the images; name it .csv"),
    ):
        with pytest.raises(SpecError, match=said):
            exporting.export(own.path, **wrong)


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "'nowhere' is neither a run nor a sweep: it does not exist"),
        (["{run}", "--format", "xls"], "no format 'xls'; there are: csv, parquet, json"),
        (["{run}", "--out", "a.xlsx"], "no format 'xlsx'; there are: csv, parquet, json"),
        (["{run}", "--out", "-", "--json"], "--out - and --json: stdout is the table's"),
        (["{run}", "--out", "-", "--format", "parquet"], "--out - and --format parquet: stdout is the table's"),
        (["{run}", "--out", "{run}"], "is a folder; name a file"),
    ],
)
def test_misuse_is_one_line(cell, words, said, capsys):
    assert app.run(["export", *(word.format(run=cell) for word in words)]) in (1, 2)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


def test_the_format_is_the_files_own(own, tmp_path, capsys):
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        assert app.run(["export", str(own.path), "--out", str(tmp_path / name), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert pq.read_table(tmp_path / "a.parquet").num_rows == len((tmp_path / "a.jsonl").read_text().splitlines())


def test_json_says_what_was_written(own, capsys):
    (own.cell(finished.keys(own)[0]) / "images.safetensors").unlink()
    assert app.run(["export", str(own.path), "--images", "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert said["file"] == str(own.path / "export.csv")
    assert said["without_images"] == finished.keys(own)[:1]
    assert f'1 of 5 runs keep no inputs (images = "none"): {finished.keys(own)[0]}' in printed.err


def test_stdout_holds_the_table_alone_also_when_its_reader_leaves(own):
    command = [str(Path(sys.executable).with_name("flatlens")), "export", str(own.path), "--out", "-"]
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    assert whole.stderr == ""
    assert {row["model"] for row in csv.DictReader(io.StringIO(whole.stdout))} >= {CNN}
    assert whole.stdout == exporting.export(own.path).file.read_text()
    command = f"{' '.join(command)} --format json | head -1; echo ${{PIPESTATUS[0]}}"
    short = subprocess.run(command, shell=True, executable="/bin/bash", capture_output=True, text=True, check=True)
    assert short.stderr == ""
    assert short.stdout.splitlines()[-1] == "0"


def test_exporting_needs_no_torch(own):
    code = "import sys; sys.modules['torch'] = None; from flatlens_cli import app; sys.exit(app.run(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, "export", str(own.path), "--images", "--quiet"], check=True)


# ---- memory -------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from flatlens.export import table as exporting
for name in ("csv", "parquet", "json"):
    done = exporting.export(sys.argv[1], format=name, images=True)
print(done.runs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_the_peak_of_memory_does_not_grow_with_the_number_of_cells(small_sweep, tmp_path):
    """Tables of several cells are gathered to 65,536 rows; cells are blown up, so that a few reach that."""
    peaks = []
    blown = copied(small_sweep, tmp_path / "one", 1)
    cell = unsealed(blown.cell("0000000000000000"))
    for name in ("steps", "layers"):
        table = pq.read_table(cell / f"{name}.parquet")
        parts = [
            table.set_column(2, "sample", pa.compute.add(table["sample"], 10_000 * i)).cast(table.schema)
            for i in range(30)
        ]
        pq.write_table(pa.concat_tables(parts), cell / f"{name}.parquet")
    for count in (30, 120):
        whole = copied(blown.path, tmp_path / str(count), count)
        done = subprocess.run([sys.executable, "-c", PEAK, whole.path], capture_output=True, text=True, check=True)
        runs, peak = done.stdout.split()
        assert int(runs) == count
        peaks.append(float(peak))
    print(f"\npeak of 30 cells {peaks[0]:.0f} MB, of 120 {peaks[1]:.0f} MB")
    assert peaks[1] < 1.15 * peaks[0]
