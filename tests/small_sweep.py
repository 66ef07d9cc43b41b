"""A small real sweep, for tests of what is read from one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import flatlens as fl
from flatlens.sweeps.folder import Sweep
from flatlens.sweeps.supervisor import run_sweep
from tests.edited import plan_of

CNN, ROBUST = "flatlens:digits-cnn", "flatlens:digits-cnn-robust"
FILE = f"""
[run]
data = "flatlens:digits"
eps = 0.3
steps = 4
limit = 8
batch_size = 4
control = ["line-to-other-class"]
[[zip]]
model = ["{CNN}", "{CNN}", "{ROBUST}", "{ROBUST}", "{CNN}"]
seed = [0, 1, 0, 1, 0]
layer = [["head"], ["head"], ["head"], ["head"], ["head", "last:2"]]
"""


def make(folder: Path) -> Path:
    """Five cells, of which one has two layers."""
    file = folder / "sweep.toml"
    file.write_text(FILE)
    done = run_sweep(file, folder / "out", workers=1)
    assert (done.done, done.failed) == (5, 0), done.notes
    return folder / "out"


def copied(out: Path, to: Path, count: int, *, of: int = 0, change=lambda i, spec: spec) -> Sweep:
    """A sweep with one cell of another ``count`` times, under other keys."""
    plan = plan_of(out)
    key, spec = list(plan["cells"].items())[of]
    to.mkdir()
    keys = [f"{i:016x}" for i in range(count)]
    for new in keys:
        shutil.copytree(out / "cells" / key, to / "cells" / new, ignore=shutil.ignore_patterns("*.html"))
    cells = {new: change(i, dict(spec)) for i, new in enumerate(keys)}
    (to / "plan.json").write_text(json.dumps(plan | {"cells": cells}))
    return fl.open(to)
