"""`flatlens robustness`: the same figures as from Python, and the same refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flatlens as fl
from flatlens import datasets, models
from flatlens.errors import FlatlensError
from flatlens.measure import robustness as named
from flatlens.specs.run import RunSpec
from tests.expected import cautioned

MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits"


def digits(n: int) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    data = datasets.load(DATA)
    data = data.take(datasets.balanced(data.y, n, 0))
    model = models.load(MODEL, shape=(1, 8, 8), classes=10).model
    return model, torch.from_numpy(data.x), torch.from_numpy(data.y), torch.from_numpy(data.ids)


@cautioned("few-samples")
def test_json_has_the_names_of_the_fields_and_the_figures_of_python(flatlens: Any) -> None:
    done = flatlens("robustness", "--model", MODEL, "--data", DATA, "--eps", 0.1, "--limit", 20, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert set(found) == {"model", "data"} | set(fl.Robustness.__dataclass_fields__)
    assert set(found["worst"]) == {"value", "low", "high", "n"}
    model, x, y, ids = digits(20)
    mine = named.evaluate(model, x, y, eps=0.1, ids=ids, queries=named.QUERIES).to_dict()
    assert {key: found[key] for key in mine} == json.loads(json.dumps(mine))
    assert "worst case" in done.err and "few-samples: 20 samples" in done.err


def test_a_summary_for_people(flatlens: Any) -> None:
    done = flatlens("robustness", "--model", MODEL, "--data", DATA, "--eps", 0.1, "--limit", 12, "--norm", "l2")
    rows = {line.split("  ")[0]: line for line in done.out.splitlines()}
    assert done.code == 0 and done.err == ""
    for name in ("clean", "PGD", "APGD-CE", "APGD-T", "Square", "worst case", "loss gap", "margin / slope"):
        assert name in rows, name
    assert re.search(r"worst case +\d+\.\d \[\d+\.\d, \d+\.\d\]", rows["worst case"])
    assert "l2, eps 0.1" in rows["attacks"] and "caution" in rows


def test_quiet_says_nothing(flatlens: Any) -> None:
    assert flatlens("robustness", "--model", MODEL, "--data", DATA, "--limit", 4, "--quiet") == (0, "", "")


@pytest.mark.parametrize("of", ["shipped", "file"])
def test_the_training_data_are_known_again(of: str, tmp_path: Path) -> None:
    model = MODEL
    if of == "file":
        record = {"data_sha256": datasets.load("flatlens:digits?split=train").sha256}
        (tmp_path / "m.json").write_text(json.dumps(record))
        weights = models.load("flatlens:mlp?width=4", shape=(1, 8, 8), classes=10).model.state_dict()
        torch.save(weights, tmp_path / "m.pt")
        model = f"ckpt:{tmp_path}/m.pt?arch=flatlens:mlp?width=4"
    codes = {}
    for split in ("train", "test"):
        spec = RunSpec(model, f"{DATA}?split={split}", attack="square", steps=1, limit=4, device="cpu")
        codes[split] = {caution.code for caution in named.of_names(spec).cautions}
    assert "training-data" in codes["train"] and "training-data" not in codes["test"]


@cautioned("few-samples")
def test_python_knows_the_training_data_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    few = datasets.load("flatlens:digits?split=train").take(range(3))
    monkeypatch.setattr(datasets, "load", lambda uri: few)
    with pytest.warns(fl.CautionWarning, match=r"training-data: 'flatlens:digits\?split=train' holds the data"):
        fl.robustness(MODEL, "flatlens:digits?split=train", queries=1)


# keywords in Python, the same on the command line; both end in the same line
MISUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "eps-0": ({"eps": 0}, ["--eps", "0"]),
    "eps-negative": ({"eps": -0.1}, ["--eps", "-0.1"]),
    "eps-nan": ({"eps": float("nan")}, ["--eps", "nan"]),
    "eps-inf": ({"eps": float("inf")}, ["--eps", "inf"]),
    "eps-list": ({"eps": "0.1,0.2"}, ["--eps", "0.1,0.2"]),
    "eps-text": ({"eps": "tiny"}, ["--eps", "tiny"]),
    "eps-of-l2": ({"norm": "l2"}, ["--norm", "l2"]),
    "norm-l1": ({"norm": "l1", "eps": 1.0}, ["--norm", "l1", "--eps", "1.0"]),
    "norm": ({"norm": "linff"}, ["--norm", "linff"]),
    "bounds": ({"bounds": (1, 0)}, ["--bounds", "1,0"]),
    "batch-size": ({"batch_size": 0}, ["--batch-size", "0"]),
    "seed": ({"seed": -1}, ["--seed", "-1"]),
    "device": ({"device": "tpu"}, ["--device", "tpu"]),
    "model": ({"model": "flatlens:digits-cn"}, ["--model", "flatlens:digits-cn"]),
}


def plain(line: str) -> str:
    """A message without how a setting is spelt: ``--batch-size 0`` and ``batch_size=0`` alike."""
    line = re.sub(r"--([a-z-]+) ", lambda m: m[1].replace("-", "_") + "=", line.strip().removeprefix("error: "))
    return re.sub(r"['\"\[\]() ]|\.0\b|s(?==)", "", line)


@pytest.mark.parametrize("name", MISUSED)
def test_both_doors_end_in_the_same_line(name: str, flatlens: Any) -> None:
    keywords, flags = MISUSED[name]
    model, x, y, _ = digits(4)
    with pytest.raises(FlatlensError) as caught:
        fl.robustness(**{"model": model, "x": x, "y": y} | keywords)
    done = flatlens("robustness", "--model", MODEL, "--data", DATA, "--limit", 4, *flags)
    assert done.code == 2 and "\n" not in str(caught.value)
    assert plain(str(caught.value)) == plain(done.err.splitlines()[-1])


REFUSED: dict[str, tuple[Any, str]] = {
    "train-mode": (lambda model, x, y: (model.train(), x, y), "the model is in train mode"),
    "label": (lambda model, x, y: (model, x, y + 10), "label 1. of sample . is out of range: the model has 10 classes"),
    "nan": (lambda model, x, y: (model, x * np.nan, y), "inputs of 4 samples hold NaN or inf"),
    "none": (lambda model, x, y: (model, x[:0], y[:0]), "there are no samples"),
    "length": (lambda model, x, y: (model, x, y[:2]), r"labels have shape \(2,\)"),
    "whole": (lambda model, x, y: (model, (x * 16).int(), y), "inputs are torch.int32"),
    "one-logit": (lambda _, x, y: (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1)).eval(), x, y * 0),
                  "one logit"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_judged_is_refused_in_one_line(name: str) -> None:
    changed, said = REFUSED[name]
    model, x, y, _ = digits(4)
    with pytest.raises(FlatlensError, match=said) as caught:
        fl.robustness(*changed(model, x, y), eps=0.1)
    assert "\n" not in str(caught.value)


def test_numbers_of_other_libraries_are_numbers_and_a_radius_for_each_sample_is_none() -> None:
    model, x, y, _ = digits(6)
    with pytest.warns(fl.CautionWarning, match="few-samples"):
        one = fl.robustness(model, x, y, eps=0.1, queries=2, batch_size=4, seed=1)
    with pytest.warns(fl.CautionWarning, match="few-samples"):
        other = fl.robustness(
            model, x.numpy(), y.numpy(), eps=torch.tensor(0.1, dtype=torch.float64), queries=np.int32(2),
            batch_size=np.int64(4), seed=np.uint8(1), bounds=np.array([0.0, 1.0]),
        )  # fmt: skip
    assert one == other
    with pytest.raises(FlatlensError, match=r"eps=.*needs a number"):
        fl.robustness(model, x, y, eps=(0.1, 0.2))


def test_a_trace_says_the_same_of_its_own_samples(flatlens: Any, tmp_path: Path) -> None:
    words = ("--model", MODEL, "--data", DATA, "--eps", 0.1, "--limit", 12, "--json")
    traced = flatlens("trace", *words, "--steps", 2, "--worst-case", "--out", tmp_path / "run")
    found, alone = json.loads(traced.out), json.loads(flatlens("robustness", *words).out)
    assert found["worst_case"] == {key: value for key, value in alone.items() if key not in ("model", "data")}
    worst = alone["worst"]
    said = f"{100 * worst['value']:.1f} % [{100 * worst['low']:.1f}, {100 * worst['high']:.1f}] of 12 are left by"
    assert f"worst case  {said}" in traced.err
    assert "worst_case" not in json.loads(flatlens("trace", *words, "--steps", 2, "--out", tmp_path / "bare").out)
