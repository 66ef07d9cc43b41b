"""A sweep's folder opened: its tables against the runs' own, hostile and damaged ones, and its page."""

from __future__ import annotations

import json
import re
import shutil
import time
from hashlib import sha256
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from flatlens_cli import app

import flatlens as fl
from flatlens.errors import RunError, SpecError
from flatlens.files.sealing import seal
from flatlens.report import sweep_page
from flatlens.report.sweep_data import DrawnCell
from flatlens.specs.run import KEYS
from flatlens.sweeps import finished, tables
from tests.edited import plan_of, unsealed
from tests.expected import cautioned
from tests.small_sweep import CNN, ROBUST, copied

SWEEPS = Path(__file__).parents[2] / "docs" / "sweeps.md"


@pytest.fixture
def whole(small_sweep):
    return fl.open(small_sweep)


@pytest.fixture
def own(small_sweep, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(small_sweep, tmp_path / "own")
    return fl.open(tmp_path / "own")


# ---- the table of cells -------------------------------------------------------------------------


def test_a_row_per_cell_path_and_layer_with_settings_and_figures(whole):
    assert isinstance(whole, fl.Sweep)
    rows = whole.cells.to_pylist()
    assert len(rows) == 4 * 2 + 2 * 2
    for row in rows:
        trace, spec = whole.trace(row["cell"]), whole.plan[row["cell"]]
        summary = trace.valley(row["measure"], path=row["path"], layer=row["layer"]).summary()
        assert (row["model"], row["seed"], row["eps"]) == (spec["model"], spec["seed"], 0.3)
        assert row["layers"] == " ".join(spec["layer"])
        assert row["weights_sha256"] == trace.manifest["weights_sha256"]
        assert row["seconds"] == trace.manifest["seconds"]
        clean = (trace.matrix("prediction").values[:, 0] == trace.matrix("label").values[:, 0]).mean()
        assert row["accuracy_clean"] == clean
        assert (row["accuracy_clean_n"], row["n"], row["tau"]) == (8, 8, summary.tau)
        for name in ("flipped", "valley_of_flipped"):
            share = getattr(summary, name)
            assert (row[f"{name}_count"], row[f"{name}_n"]) == (share.count, share.n)
            assert row[f"{name}_low"] == (share.low if share.n else None)
        for name in ("rise", "depth", "lag"):
            assert row[name] == (getattr(summary, name).value if summary.flipped.count else None)


def test_every_setting_is_a_column(whole):
    assert len(set(whole.cells.column_names)) == len(whole.cells.column_names)
    assert set(KEYS) - {"train", "immunize", "layer"} | {
        "layers",
        "train.epochs",
        "train.adversarial",
        "immunize.method",
    } <= set(whole.cells.column_names)
    assert whole.cells.schema == tables.CELLS


def test_lists_are_as_one_types_them():
    point = {"samples": [3, 17], "control": ["a", "b"], "bounds": [0.0, 1.0], "targeted": 3, "eps": 8 / 255}
    found = {key: tables.setting(point, key) for key in point}
    assert found == {"samples": "3,17", "control": "a b", "bounds": "0 1", "targeted": "3", "eps": 8 / 255}


def test_infinities_are_numbers_and_nothing_known_is_null(own):
    key = finished.keys(own)[0]
    file = unsealed(own.cell(key)) / "digest.json"
    found = json.loads(file.read_text())
    found["rows"][0]["depth"] = {"value": "+inf", "low": 1, "high": "inf", "n": 3}
    found["rows"][0]["rise"]["value"] = None
    file.write_text(json.dumps(found))
    row = own.cells.to_pylist()[0]
    assert (row["depth"], row["depth_low"], row["depth_high"], row["rise"]) == (np.inf, 1.0, np.inf, None)


SHARE = {"value": 0.25, "low": 0.1, "high": 0.6, "n": 8}
OF_A_TRAINING = {
    "worst": SHARE,
    "pgd": SHARE,
    "loss_gap": SHARE,
    "masked": True,
    "eps": 0.3,
    "norm": "linf",
    "alarms": [],
}
OF_ITS_OWN = {"worst": SHARE, "masked": False, "attacks": {"pgd": "PGD-20"}}


@pytest.mark.parametrize(
    ("record", "known", "unknown"), [("trained", "train_", ""), ("worst_case", "", "train_")], ids=["trained", "own"]
)
def test_the_worst_case_of_a_training_and_of_a_cell_are_columns_of_their_own(own, record, known, unknown):
    key = finished.keys(own)[0]
    file = unsealed(own.cell(key)) / "manifest.json"
    told = {"trained": OF_A_TRAINING, "worst_case": OF_ITS_OWN}[record]
    file.write_text(json.dumps(json.loads(file.read_text()) | {record: told}))
    row = next(row for row in own.cells.to_pylist() if row["cell"] == key)
    parts = ("worst", "worst_low", "worst_high", "worst_count", "worst_n", "masked")
    assert [row[f"{known}{part}"] for part in parts] == [0.25, 0.1, 0.6, 2, 8, told["masked"]]
    assert [row[f"{unknown}{part}"] for part in parts] == [None] * 6


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_cells_take_seconds(small_sweep, tmp_path, count):
    """Printed, not asserted: run with -s."""
    plan = plan_of(small_sweep)
    key, spec = next(iter(plan["cells"].items()))
    keys = [f"{i:016x}" for i in range(count)]
    (tmp_path / "plan.json").write_text(
        json.dumps(plan | {"cells": {k: spec | {"seed": i} for i, k in enumerate(keys)}})
    )
    digest = json.loads((small_sweep / "cells" / key / "digest.json").read_text())
    # As many bytes as one of 40 steps and a few paths has.
    key_of = {"path": "attack", "layer": "fc", "measure": "relative_flatness"}
    digest["curves"] = [key_of | {"median": [1.234567] * 41, "low": [0.1] * 41, "high": [9.9] * 41, "n": [8] * 41}] * 4
    manifest = json.loads((small_sweep / "cells" / key / "manifest.json").read_text())
    manifest = seal(manifest | {"files": {"digest.json": sha256(json.dumps(digest).encode()).hexdigest()}})
    for k in keys:
        cell = tmp_path / "cells" / k
        cell.mkdir(parents=True)
        (cell / "digest.json").write_text(json.dumps(digest))
        (cell / "manifest.json").write_bytes(manifest)
    whole = fl.open(tmp_path)
    began = time.perf_counter()
    assert whole.cells.num_rows == 2 * count
    print(f"\n{count:,} cells: {time.perf_counter() - began:.1f} s")


# ---- steps and layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["steps", "layers"])
def test_runs_tables_are_joined_with_their_keys(whole, name):
    found = getattr(whole, name)
    assert found.schema.field("cell").type == pa.dictionary(pa.int32(), pa.string())
    assert found.column_names[0] == "cell"
    assert pc.unique(found["cell"].cast(pa.string())).to_pylist() == list(whole.plan)
    for key in whole.plan:
        mine = found.filter(pc.equal(found["cell"].cast(pa.string()), key)).drop_columns("cell")
        assert mine.equals(getattr(whole.trace(key), name))
    assert getattr(whole, name) is found


def test_to_pandas(whole):
    frame = whole.to_pandas("layers")
    assert frame["cell"].nunique() == 5
    merged = frame.merge(whole.to_pandas()[["cell", "path", "layer", "model"]], on=["cell", "path", "layer"])
    assert len(merged) == len(frame)
    with pytest.raises(SpecError, match=r"no table 'cell'; a sweep has: cells, steps, layers. Did you mean 'cells'?"):
        whole.to_pandas("cell")


def test_a_column_that_older_runs_have_not_is_null():
    older = pa.table({name: pa.array([], tables.STEPS.field(name).type) for name in tables.STEPS.names[:-1]})
    assert tables.fitting(older, tables.STEPS).schema == tables.STEPS
    with pytest.raises(pa.ArrowInvalid, match="no column 'path'"):
        tables.fitting(pa.table({"x": [1]}), tables.STEPS)


# ---- one cell -----------------------------------------------------------------------------------


def test_a_trace_by_the_first_digits_of_its_key(whole):
    key = next(iter(whole.plan))
    assert whole.trace(key[:12]).spec == whole.trace(key).spec
    with pytest.raises(RunError, match="no cell 'zz'; the sweep has:"):
        whole.trace("zz")


def test_digits_that_several_cells_have_are_refused(small_sweep, tmp_path):
    many = copied(small_sweep, tmp_path / "many", 3)
    with pytest.raises(RunError, match="'000' begins the keys of 3 cells, 0000000000000000 and .* among them"):
        many.trace("000")
    assert many.trace("0000000000000001").steps.num_rows


def test_a_cell_that_failed_says_why(own):
    key = finished.keys(own)[0]
    shutil.rmtree(own.cell(key))
    (own.path / "failed").mkdir(exist_ok=True)
    failure = {"error": "no such weights", "kind": "ModelError", "details": "", "when": 0.0, "attempts": 1}
    (own.path / "failed" / f"{key}.json").write_text(json.dumps(failure))
    with pytest.raises(RunError, match=f"cell {key} .* is not finished: no such weights; `flatlens status`"):
        own.trace(key)
    assert own.cells["cell"].to_pylist().count(key) == 0
    assert key in own.state().failed


@pytest.mark.parametrize(
    ("name", "content", "table"),
    [
        ("manifest.json", b"{", "cells"),
        ("digest.json", None, "cells"),
        ("digest.json", b"{}", "cells"),
        ("digest.json", b"[]", "cells"),
        ("digest.json", b'{"accuracy": {"clean": 3}, "rows": []}', "cells"),
        ("steps.parquet", b"PAR1", "steps"),
        ("layers.parquet", None, "layers"),
        ("steps.parquet", b"PAR1", "trace"),
    ],
)
def test_a_damaged_cell_is_named(own, name, content, table):
    key = finished.keys(own)[2]
    file = own.cell(key) / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(
        RunError, match=f"^cell {key} of the sweep in '.*' is damaged: .*; remove '.*{key}' and give"
    ) as at:
        own.trace(key) if table == "trace" else getattr(own, table)
    assert "\n" not in str(at.value)


def test_a_plan_that_leads_elsewhere_is_refused(own):
    plan = plan_of(own.path)
    plan["cells"]["../../secret"] = next(iter(plan["cells"].values()))
    (own.path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(RunError, match=r"plan.json' is damaged"):
        fl.open(own.path)


@cautioned("flat-because-confident")
def test_a_folder_of_neither_kind_is_refused_with_what_would_work(tmp_path, whole):
    (file := tmp_path / "s.toml").touch()
    kinds = {tmp_path / "no": "does not exist", tmp_path: "holds no manifest.json and no plan.json", file: "is a file"}
    for path, what in kinds.items():
        with pytest.raises(RunError, match=f"is neither a run nor a sweep: it {what}; name the --out folder of a"):
            fl.open(path)
    assert isinstance(fl.open(whole.cell(next(iter(whole.plan)))), fl.Trace)


# ---- the page and the file of cells -------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """What the sweep's page was asked to draw."""
    seen: list[tuple[list[DrawnCell], Path, str]] = []

    def write(cells, file, *, name, plotly=None):
        seen.append((list(cells), file, name))
        file.write_text("<html>")
        return file

    monkeypatch.setattr(sweep_page, "write", write)
    return seen


def test_a_sweep_is_drawn_from_its_digests(own, drawn):
    keys = finished.keys(own)
    shutil.rmtree(own.cell(keys[1]))
    (own.cell(keys[2]) / "digest.json").write_text("{")
    page = own.report(own.path / "page.html")
    assert page == own.path / "page.html"
    ((cells, file, name),) = drawn
    assert (file, name) == (page, "own")
    assert [cell.key for cell in cells] == keys
    first, waiting, broken = cells[:3]
    assert first.page == f"cells/{keys[0]}/report.html"
    assert first.digest["rows"]
    assert first.seconds > 0
    assert first.spec == own.plan[keys[0]]
    assert (first.state, first.error) == ("done", None)
    assert (waiting.state, waiting.digest, waiting.page) == ("waiting", None, None)
    assert (broken.digest, broken.state) == (None, "done")
    assert "digest.json" in broken.error


def test_links_lead_from_the_pages_own_folder(own, drawn, tmp_path):
    (tmp_path / "a b").mkdir()
    own.path.rename(tmp_path / "a b" / "x#y")
    moved = fl.open(tmp_path / "a b" / "x#y")
    moved.report(tmp_path / "page.html")
    assert drawn[0][0][0].page == f"a%20b/x%23y/cells/{finished.keys(moved)[0]}/report.html"
    assert not (moved.path / "cells.parquet").exists()


def test_a_damaged_cell_is_named_once_the_page_is_drawn(own, drawn):
    (own.cell(finished.keys(own)[2]) / "digest.json").write_text("{")
    with pytest.raises(RunError, match="is damaged: digest.json"):
        own.report()
    assert (own.path / "report.html").exists()


def test_the_table_of_cells_is_a_file_beside_the_page(own, drawn):
    own.report()
    assert pq.read_table(own.path / "cells.parquet").equals(own.cells)
    assert not list(own.path.glob("*.tmp"))


def test_the_page_is_drawn_of_a_sweep_that_is_half_finished(own):
    keys = finished.keys(own)
    shutil.rmtree(own.cell(keys[0]))
    page = own.report().read_text(encoding="utf-8")
    assert f"cells/{keys[1]}/report.html" in page
    assert f"cells/{keys[0]}/report.html" not in page
    assert set(pq.read_table(own.path / "cells.parquet")["cell"].to_pylist()) == set(keys[1:])


def test_report_takes_a_sweep_alone(own, drawn, capsys):
    assert app.run(["report", str(own.path)]) == 0
    assert capsys.readouterr().out == f"report   {own.path / 'report.html'}\n"
    assert app.run(["report", str(own.path), "--out", str(own.path / "p.html")]) == 0
    assert drawn[-1][1] == own.path / "p.html"
    assert app.run(["report", str(own.path), str(own.cell(finished.keys(own)[0]))]) == 2
    assert "is a sweep, which is drawn on a page of its own; name it alone" in capsys.readouterr().err


# ---- other programs -----------------------------------------------------------------------------


def test_the_query_of_the_readme(own):
    tables.save(own)
    (query,) = re.findall(r"```sql\n(.*?)```", SWEEPS.read_text(encoding="utf-8"), re.DOTALL)
    found = duckdb.sql(query.replace("runs/architectures", str(own.path))).to_arrow_table().to_pylist()
    assert {row["model"] for row in found} == {CNN, ROBUST}
    frame = own.to_pandas("layers").merge(own.to_pandas("cells")[["cell", "model"]].drop_duplicates(), on="cell")
    frame = frame[(frame["path"] == "attack") & (frame["kind"] == "iterate")]
    assert len(found) == len(frame.groupby(["model", "layer", "step"]))
    for row in found:
        mine = frame[
            (frame["model"] == row["model"]) & (frame["layer"] == row["layer"]) & (frame["step"] == row["step"])
        ]
        quartiles = np.quantile(mine["relative_flatness"], [0.25, 0.5, 0.75])
        assert np.allclose([row["low"], row["median"], row["high"]], quartiles)
        assert row["n"] == len(mine)
