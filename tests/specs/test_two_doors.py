"""What the command line refuses Python refuses in the same words, and what one takes the other takes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from flatlens_cli import app

import flatlens as fl
from flatlens.errors import FlatlensError

MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits"


@pytest.fixture(scope="module")
def digits() -> tuple[Any, torch.Tensor, torch.Tensor]:
    data = fl.datasets.load(DATA).take(range(4))
    model = fl.models.load(MODEL, shape=(1, 8, 8), classes=10).model
    return model, torch.from_numpy(data.x), torch.from_numpy(data.y)


# keyword -> value in Python, the same on the command line; the line that both end in, in the command line's words
MISUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "images": ({"images": "ky"}, ["--images", "ky"]),
    "bounds-turned": ({"bounds": (1, 0)}, ["--bounds", "1,0"]),
    "bounds-one": ({"bounds": (1,)}, ["--bounds", "1"]),
    "bounds-nan": ({"bounds": (0, float("nan"))}, ["--bounds", "0,nan"]),
    "batch-size": ({"batch_size": -3}, ["--batch-size", "-3"]),
    "batch-size-0": ({"batch_size": 0}, ["--batch-size", "0"]),
    "seed": ({"seed": -1}, ["--seed", "-1"]),
    "seed-huge": ({"seed": 2**63}, ["--seed", str(2**63)]),
    "probes": ({"probes": 3}, ["--probes", "3"]),
    "dtype": ({"dtype": "float16"}, ["--dtype", "float16"]),
    "dtype-of-torch": ({"dtype": torch.float16}, ["--dtype", "float16"]),
    "device": ({"device": "tpu"}, ["--device", "tpu"]),
    "control": ({"controls": "line"}, ["--control", "line"]),
    "layer": ({"layers": "fx"}, ["--layer", "fx"]),
    "layer-last": ({"layers": "last:0"}, ["--layer", "last:0"]),
    "surface": ({"surface": "maybe"}, ["--set", "surface='maybe'"]),
    "worst-case": ({"worst_case": "maybe"}, ["--set", "worst_case='maybe'"]),
    "attack": ({"attack": "pdg"}, ["--attack", "pdg"]),
    "attack-scheme": ({"attack": "torchatack:PGD"}, ["--attack", "torchatack:PGD"]),
}


def plain(line: str) -> str:
    """A message without how a setting is spelt: ``--batch-size -3`` and ``batch_size=-3`` alike."""
    line = re.sub(r"--([a-z-]+) ", lambda m: m[1].replace("-", "_") + "=", line.strip().removeprefix("error: "))
    return re.sub(r"['\"\[\]() ]|\.0\b|s(?==)", "", line)


@pytest.mark.parametrize("name", MISUSED)
def test_both_doors_end_in_the_same_line(
    name: str, digits: tuple[Any, ...], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    keywords, flags = MISUSED[name]
    with pytest.raises(FlatlensError) as caught:
        fl.trace(*digits, **keywords)
    said = str(caught.value)
    assert "\n" not in said
    assert (
        app.run(["trace", "--model", MODEL, "--data", DATA, "--limit", "4", "--out", str(tmp_path / "o"), *flags]) == 2
    )
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert plain(said) == plain(told)


CURVATURE: dict[str, tuple[dict[str, Any], str]] = {
    "batch-size": ({"batch_size": -3}, "batch_size=-3: needs a whole number of at least 1"),
    "seed": ({"seed": -1}, "seed=-1: needs a whole number of at least 0"),
    "probes": ({"probes": 3}, "probes=3: needs at least 8"),
    "layers": ({"layers": []}, "[]: needs at least one name"),
    "dtype": ({"dtype": torch.float16}, "no dtype 'float16'"),
    "device": ({"device": "tpu"}, "not on this machine"),
}


@pytest.mark.parametrize("name", CURVATURE)
def test_curvature_has_the_same_guard(name: str, digits: tuple[Any, ...]) -> None:
    keywords, said = CURVATURE[name]
    with pytest.raises(FlatlensError, match=re.escape(said)):
        fl.curvature(*digits, **keywords)


@pytest.mark.parametrize("call", [fl.trace, fl.curvature], ids=["trace", "curvature"])
def test_a_label_that_the_model_has_not_is_named(call: Any, digits: tuple[Any, ...]) -> None:
    model, x, y = digits
    with pytest.raises(FlatlensError, match=r"label 10 of sample 2 is out of range: the model has 10 classes, 0 … 9"):
        call(model, x, torch.where(torch.arange(4) == 2, 10, y))


def test_names_of_classes_are_one_for_each(digits: tuple[Any, ...]) -> None:
    with pytest.raises(FlatlensError, match="labels has 3 names for 10 classes"):
        fl.trace(*digits, labels=["a", "b", "c"], attack=fl.attacks.PGD(steps=1))


TAKEN: dict[str, dict[str, Any]] = {
    "head": {"layers": "head"},
    "all": {"layers": "all"},
    "controls": {"controls": "all"},
    "pgd": {"attack": "pgd"},
    "whole numbers of NumPy": {"batch_size": np.int64(2), "seed": np.int32(3), "probes": np.uint8(9)},
    "dtype of torch": {"dtype": torch.float64},
    "dtype by name": {"dtype": "float64"},
    "device of torch": {"device": torch.device("cpu")},
    "best device": {"device": "auto"},
    "bounds of numpy": {"bounds": np.array([0.0, 1.0])},
}


@pytest.mark.parametrize("name", TAKEN)
def test_python_takes_it(name: str, digits: tuple[Any, ...]) -> None:
    keywords = {"attack": fl.attacks.PGD(steps=1)} | TAKEN[name]
    assert fl.trace(*digits, **keywords).steps.num_rows
