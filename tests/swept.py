"""A small real sweep, for tests of what is read from one."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import flatlens as fl
from flatlens import valley
from flatlens.engines.supervisor import run_sweep
from flatlens.sweep import Sweep

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
    for key in done.sweep.plan:
        digest = done.sweep.cell(key) / "digest.json"
        if "rows" not in json.loads(digest.read_text()):
            digest.write_text(json.dumps(digested(fl.open(digest.parent))))
    return folder / "out"


def digested(trace: fl.Trace) -> dict:
    """What a digest holds of a trace, as far as tables need it."""
    n = len(trace.x_adv)
    label, prediction = (trace.matrix(name).values[:, 0] for name in ("label", "prediction"))
    found = trace.result("prediction")
    share = {
        "clean": valley.wilson(int((prediction == label).sum()), n),
        "attacked": valley.wilson(int((found == label).sum()), n),
    }
    rows = []
    for layer in trace.layer_names:
        method = trace.layers["method"][trace.layers["layer"].to_pylist().index(layer)].as_py()
        for path in trace.paths:
            summary = trace.valley(path=path, layer=layer).summary()
            head = {"path": path, "layer": layer, "measure": "relative_flatness", "method": method, "exact": True}
            rows.append(head | {k: plain(v) for k, v in summary._asdict().items()})
    return {"version": 1, "accuracy": {k: plain(v) for k, v in share.items()}, "rows": rows}


def plain(value):
    if hasattr(value, "_asdict"):
        return {k: plain(v) for k, v in value._asdict().items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{value:+}"
    return value


def copied(out: Path, to: Path, count: int, *, of: int = 0, change=lambda i, spec: spec) -> Sweep:
    """A sweep with one cell of another ``count`` times, under other keys."""
    plan = json.loads((out / "plan.json").read_text())
    key, spec = list(plan["cells"].items())[of]
    to.mkdir()
    keys = [f"{i:016x}" for i in range(count)]
    for new in keys:
        shutil.copytree(out / "cells" / key, to / "cells" / new, ignore=shutil.ignore_patterns("*.html"))
    cells = {new: change(i, dict(spec)) for i, new in enumerate(keys)}
    (to / "plan.json").write_text(json.dumps(plan | {"cells": cells}))
    return fl.open(to)
