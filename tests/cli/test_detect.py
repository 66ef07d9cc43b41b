"""`flatlens detect`: the figures of Python, as JSON, as tables and in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import flatlens as fl
from flatlens import datasets
from tests.expected import cautioned

MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits"
WORDS = ("--model", MODEL, "--data", DATA, "--eps", 0.3, "--limit", 20)


@cautioned("few-samples")
def test_json_is_what_python_finds_and_the_folder_holds_it(flatlens: Any, tmp_path: Path) -> None:
    out = tmp_path / "d"
    done = flatlens("detect", *WORDS, "--json", "--out", out)
    assert done.code == 0
    found = json.loads(done.out)
    assert (found.pop("model"), found.pop("data")) == (MODEL, DATA)
    data = datasets.load(DATA)
    data = data.take(datasets.balanced(data.y, 20, 0))
    mine = fl.detect(MODEL, torch.from_numpy(data.x), torch.from_numpy(data.y), eps=0.3).to_dict()
    assert set(found) == set(mine) and found["success"] == json.loads(json.dumps(mine["success"]))
    assert found["found"]["gap"]["ddn"] == json.loads(json.dumps(mine["found"]["gap"]["ddn"]))
    assert sorted(file.name for file in out.iterdir()) == ["detect.json", "detect.parquet"]
    for said in ("AUC", "κ as detector", "set on ↓ tried on →", "κ-descent", "few-samples", "written"):
        assert said in done.err, said
    again = flatlens("detect", *WORDS, "--out", out)
    assert again.code == 2 and "name another folder, or replace it with --force" in again.err


REFUSED: dict[str, tuple[list[str], str]] = {
    "few": (["--limit", "5"], "of 5 samples are right before any attack, and a trial of detectors needs at least 10"),
    "norm": (["--norm", "l1", "--eps", "1"], "no norm 'l1'"),
    "model": (["--model", "flatlens:digits-cn"], "Did you mean 'flatlens:digits-cnn'?"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_ends_in_one_line(kind: str, flatlens: Any) -> None:
    flags, said = REFUSED[kind]
    done = flatlens("detect", *WORDS, *flags)
    assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1
