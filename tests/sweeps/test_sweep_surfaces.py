"""The cells of a sweep have surfaces where they are asked for, and are other cells than those without."""

from __future__ import annotations

import warnings
from pathlib import Path

import flatlens as fl
from flatlens.sweeps import finished as results
from flatlens.sweeps.supervisor import run_sweep

FILE = """
[run]
model = "flatlens:mlp?width=4"
data = "flatlens:digits"
steps = 2
limit = 4
device = "cpu"

[grid]
surface = [false, true]
"""


def test_cells_have_surfaces_where_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(FILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        done = run_sweep(file, tmp_path / "out", workers=1)
        assert (done.done, done.failed) == (2, 0), done.notes
        sweep = fl.open(tmp_path / "out")
        found = {sweep.plan[key].get("surface", False): sweep.trace(key).surfaces for key in results.keys(sweep)}
    assert found[False] is None and found[True] is not None and len(found[True]) == 4
