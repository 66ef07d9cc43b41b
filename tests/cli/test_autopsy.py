"""`flatlens autopsy` and `flatlens robustness --autopsy`: the figures of Python, as JSON, as a table, in a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import flatlens as fl
from flatlens import datasets

MODEL, DATA = "flatlens:digits-cnn?scale=10", "flatlens:digits"
WORDS = ("--model", MODEL, "--data", DATA, "--eps", 0.2, "--limit", 20)


def mine(**settings: Any) -> dict[str, Any]:
    data = datasets.load(DATA)
    data = data.take(datasets.balanced(data.y, 20, 0))
    found = fl.autopsy(MODEL, torch.from_numpy(data.x), torch.from_numpy(data.y), eps=0.2, **settings)
    return json.loads(json.dumps(found.to_dict()))


def test_json_is_what_python_finds_and_the_folder_holds_it(flatlens: Any, tmp_path: Path) -> None:
    out = tmp_path / "a"
    done = flatlens("autopsy", *WORDS, "--steps", 5, "--json", "--out", out)
    assert done.code == 0
    found = json.loads(done.out)
    assert (found.pop("model"), found.pop("data")) == (MODEL, DATA)
    assert found | {"seed": 0} == mine(steps=5)
    assert sorted(file.name for file in out.iterdir()) == ["autopsy.json", "autopsy.parquet"]
    rows = {line.split("  ")[0].strip(): line for line in done.err.splitlines()}
    assert {"wrong before", "turned by PGD", "kept", "written", "attack"} <= set(rows)
    assert re.search(r"underflow +\d+ +\d+\.\d \[", done.err) and "none found" in done.err
    again = flatlens("autopsy", *WORDS, "--out", out)
    assert again.code == 2 and again.err.strip().endswith("name another folder, or replace it with --force")
    assert flatlens("autopsy", *WORDS, "--steps", 2, "--out", out, "--force", "--quiet") == (0, "", "")


def test_robustness_shows_it_where_asked_and_suggests_it_where_masked(flatlens: Any) -> None:
    plain = flatlens("robustness", *WORDS)
    assert plain.code == 0 and "masked          yes" in plain.out
    assert "--autopsy says of each sample" in plain.out and "underflow" not in plain.out
    done = flatlens("robustness", *WORDS, "--autopsy", "--json")
    assert done.code == 0 and "underflow" in done.err and "--autopsy says" not in done.err
    assert json.loads(done.out)["autopsy"] == mine()


REFUSED: dict[str, tuple[list[str], str]] = {
    "scale": (["--model", "flatlens:digits-cnn?scale=0"], "scale=0: needs a number above 0, for example scale=100"),
    "norm": (["--norm", "l1", "--eps", "1"], "no norm 'l1'"),
    "eps": (["--eps", "0"], "--eps 0: needs a number above 0"),
    "steps": (["--steps", "none"], "none"),
    "out": (["--out", "FILE"], "is a file; name a folder"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_ends_in_one_line(kind: str, flatlens: Any, tmp_path: Path) -> None:
    flags, said = REFUSED[kind]
    (tmp_path / "file").touch()
    flags = [str(tmp_path / "file") if word == "FILE" else word for word in flags]
    done = flatlens("autopsy", *WORDS, *flags)
    assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1
