"""`flatlens condition`: the figures of Python, of a model's features or of a table's columns; refusals in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from flatlens import datasets, models
from flatlens.datasets.table import regression
from flatlens.hessian.condition import condition_of

MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "some.csv"
    rows = np.random.default_rng(0).normal(size=(40, 4)) * [1, 2, 5, 1]
    path.write_text("a,b,c,y\n" + "\n".join(",".join(map(str, row)) for row in rows))
    return f"table:{path}?target=y"


@pytest.mark.parametrize("probe", ["l2", "ce"])
def test_the_figures_are_those_of_the_heads_inputs(flatlens, probe):
    done = flatlens("condition", "--model", MODEL, "--data", DATA, "--ridge", "1e-2", "--probe", probe, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    data = datasets.load(DATA)
    model = models.load(MODEL, shape=(1, 8, 8), classes=10).model.double()
    seen = []
    *_, head = (m for m in model.modules() if isinstance(m, torch.nn.Linear))
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    p = model(torch.from_numpy(data.x).double()).softmax(1).detach()
    expected = condition_of(seen[0], 1e-2, probe, p if probe == "ce" else None)
    assert found["layer"] == "head" and found["n"] == len(data) and found["rank"] == expected.rank
    assert found["condition_number"] == pytest.approx(expected.condition_number, rel=1e-3)
    assert found["lambda_max"] == pytest.approx(expected.lambda_max, rel=1e-4)


def test_a_table_needs_no_model(flatlens, table):
    done = flatlens("condition", "--data", table, "--json")
    found, expected = json.loads(done.out), condition_of(regression(table).x)
    assert found["condition_number"] == pytest.approx(expected.condition_number)
    shown = flatlens("condition", "--data", table)
    assert shown.code == 0 and "condition number" in shown.out and "as released" in shown.out
    assert flatlens("condition", "--data", table, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", MODEL, "--data", DATA, "--limit", 20], "20 samples of"),
        (["--model", MODEL, "--data", DATA, "--ridge=-1"], "--ridge -1"),
        (["--model", MODEL, "--data", DATA, "--probe", "l1"], "no probe 'l1'; there are: l2, ce"),
        (["--model", MODEL, "--data", DATA, "--layer", "all"], "a probe has the features of one"),
        (["--model", MODEL, "--data", DATA, "--layer", "heat"], "no layer 'heat'"),
        (["--model", MODEL, "--data", DATA, "--layer", "conv1"], "a probe takes vectors"),
        (["--data", "table:nowhere.csv?target=y"], "file 'nowhere.csv' is not there"),
        (["--data", "table:nowhere.csv?target=y", "--layer", "head"], "--layer is given without --model"),
        (["--data", "table:nowhere.csv?target=y", "--probe", "ce"], "--probe ce needs --model"),
        (["--data", DATA], "--model is missing"),
    ],
)
def test_what_cannot_be_is_one_line(flatlens, flags, said):
    done = flatlens("condition", *flags)
    assert done.code == 2 and done.out == "" and said in done.err and done.err.count("\n") == 1
