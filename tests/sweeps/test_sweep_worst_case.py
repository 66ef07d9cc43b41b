"""Cells of a sweep tell the worst of several attacks where they are asked to: in the table, on both pages."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import flatlens as fl
from flatlens.measure import robustness as named
from flatlens.specs.run import RunSpec
from flatlens.sweeps import finished
from flatlens.sweeps.supervisor import run_sweep
from tests.page_text import embedded

MODEL, DATA = "flatlens:mlp?width=4", "flatlens:digits"
FILE = f"""
[run]
model = "{MODEL}"
data = "{DATA}"
eps = 0.05
steps = 2
limit = 10
device = "cpu"

[grid]
worst_case = [false, true]
"""
COLUMNS = ("worst", "worst_low", "worst_high", "worst_count", "worst_n", "masked")


def test_cells_have_it_where_they_are_asked_for_it(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(FILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        done = run_sweep(file, tmp_path / "out", workers=1)
        assert (done.done, done.failed) == (2, 0), done.notes
        sweep = fl.open(tmp_path / "out")
    rows = {row["worst_case"]: row for row in sweep.cells.to_pylist()}
    assert set(rows) == {None, True}
    assert [rows[None][name] for name in COLUMNS] == [None] * len(COLUMNS)
    told = finished.manifest(sweep, rows[True]["cell"])["worst_case"]
    spec = RunSpec(MODEL, DATA, attack="square", eps=0.05, steps=named.QUERIES, limit=10, device="cpu")
    worst = named.of_names(spec).to_dict()["worst"]
    assert told["worst"] == worst
    shares = [worst[part] for part in ("value", "low", "high")]
    assert [rows[True][name] for name in COLUMNS] == [*shares, round(10 * worst["value"]), 10, told["masked"]]
    page = (sweep.cell(rows[True]["cell"]) / "report.html").read_text(encoding="utf-8")
    (run,) = embedded(page)["runs"]
    said = dict(run["spec"])["worst_case"]
    assert re.fullmatch(r"\d+\.\d % \[.*\] of 10 are left by the worst of 4 attacks; (not )?masked", said)
    drawn = re.search(r'id="flatlens-data">(.*?)</script>', finished.document(sweep), re.S)
    assert drawn is not None
    of_sweep = json.loads(drawn[1])
    assert of_sweep["cells"]["accuracy"]["worst"]["shape"] == [2, 5]
