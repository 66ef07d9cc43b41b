"""A sweep file from somebody else executes nothing without a flag: read, planned, run or looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from flatlens_cli import app, options

from flatlens.errors import SpecError
from flatlens.models import zoo
from flatlens.specs.run import RunSpec, from_dict
from flatlens.sweeps import folder as sweep
from flatlens.sweeps.grid import Cell, cells_of, key_of, read
from tests.specs.test_trust import Planted

BASE = {"model": "flatlens:mlp?width=4", "data": "flatlens:digits", "steps": 1, "limit": 2}
FLAG = "which is code that would run; if you trust it, give --trust-code"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stranger's folder, in which one works: whatever of it runs makes the file ``ran``."""
    folder = tmp_path / "theirs"
    (folder / "inner").mkdir(parents=True)
    code = f"import pathlib\npathlib.Path({str(folder / 'ran')!r}).touch()\ndef f(classes=10):\n    raise ValueError\n"
    for name in ("evil.py", "evil.PY", "inner/evil.py", "inner/__init__.py", "eviltwin"):
        (folder / name).write_text(code)
    planted = Planted(folder / "ran")
    torch.save({"fc.weight": planted}, folder / "w.pt")
    np.savez(folder / "d.npz", x=np.array([planted], dtype=object), y=np.arange(1))
    np.savez(folder / "p.npz", iterates=np.array([planted], dtype=object))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    assert not (folder / "ran").exists(), "code was run"


def swept(trap: Path, tables: dict[str, Any], *words: str) -> int:
    (trap / "sweep.toml").write_text(tomli_w.dumps(tables))
    return app.run(["sweep", str(trap / "sweep.toml"), "--out", str(trap / "out"), "--quiet", *words])


CODE = [
    "evil.py:f",
    "./evil.py:f",
    "inner/../evil.py:f",
    "inner/evil.py:f",
    "{}/evil.py:f",
    "~/../{}/evil.py:f",
    "file://{}/evil.py:f",
    "evil.PY:f",
    "evil:f",
    "evil:",
    ":f",
    "evil",
    "inner.evil:f",
    "inner:evil",
    "eviltwin:f",
    "os:system",
    "builtins:exec",
    "evil:f?x=1",
    "file.py:f",
    "pkg.module:f",
    " evil.py:f",
    "evil.py :f",
    "evil.py: f",
    "\tevil:f\n",
    "\u00a0evil:f",
    "\uff45vil:f",
    "ev\u200bil:f",
    "Flatlens:mlp",
    " flatlens:mlp",
    "FLATLENS.evil:f",
    "CKPT:w.pt?arch=evil:f",
    "ckpt:w.pt?arch=evil.py:f",
    "ckpt:w.pt?arch= evil.py:f",
    "ckpt:w.pt?arch=evil.py%3Af",
    "ckpt:w.pt?arch=%65vil%3Af",
    "ckpt:w.pt?arch=%65vil:f",
    "ckpt:w.pt?arch=evil.py%253Af",
    "ckpt:w.pt?arch=ckpt:w.pt?arch=evil.py:f",
    "ckpt:w.pt?arch=ckpt%3Aw.pt%3Farch%3Devil%253Af",
    "ckpt:w.pt?arch=" * 3000 + "evil:f",
    "plugin:f",
]
SHARED = {key: value for key, value in BASE.items() if key != "model"}
PLACES: dict[str, Any] = {
    "run": lambda model: {"run": BASE | {"model": model}},
    "grid": lambda model: {"run": SHARED, "grid": {"model": [BASE["model"], model]}},
    "zip": lambda model: {"run": SHARED, "zip": [{"model": [model], "seed": [0]}]},
    "attack": lambda model: {"run": SHARED | {"attack": {"name": "pgd", "model": model}}},
    "attacks": lambda model: {"run": BASE, "grid": {"attack": [{"name": "pgd", "model": model}]}},
    "recipe": lambda model: {"run": BASE | {"model": model, "train": {"epochs": 1}}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_model_that_is_code_is_not_even_read(trap: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    for model in CODE:
        model = model.format(trap)
        tables = PLACES[place](model)
        with pytest.raises(SpecError) as caught:
            cells_of(tables)
        assert str(caught.value).endswith(FLAG), model
        if model in ("evil.py:f", "evil:f", "ckpt:w.pt?arch=evil.py%3Af", "\tevil:f\n"):
            for words in ([], ["--dry-run"], ["--json"], ["--trust-pickle", "--trust-remote-code"]):
                assert swept(trap, tables, *words) == 2
                said = capsys.readouterr()
                assert said.out == "" and said.err.endswith(FLAG + "\n") and said.err.count("\n") == 1
    assert not (trap / "out").exists()


CONFIGS = ("run", "attack", "recipe")
"""The places that a run's own file has, too; its settings stand at the top."""


@pytest.mark.parametrize("place", CONFIGS)
def test_a_model_that_is_code_is_not_read_by_a_config_either(trap: Path, place: str) -> None:
    for model in CODE:
        model = model.format(trap)
        (trap / "spec.toml").write_text(tomli_w.dumps(PLACES[place](model)["run"]))
        for flags in ({}, {"eps": "0.1"}, {"trust_pickle": True, "trust_remote_code": True}):
            with pytest.raises(SpecError) as caught:
                options.run_spec(flags, trap / "spec.toml")
            assert str(caught.value).endswith(FLAG), model


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--json"], ["--trust-pickle", "--trust-remote-code"]], ids=str)
@pytest.mark.parametrize("place", CONFIGS)
def test_a_config_s_code_is_refused_by_the_command(
    trap: Path, place: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("evil.py:f", "evil:f", "ckpt:w.pt?arch=evil.py%3Af", "\tevil:f\n"):
        (trap / "spec.toml").write_text(tomli_w.dumps(PLACES[place](model)["run"]))
        assert app.run(["trace", "--config", "spec.toml", "--out", "out", *words]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.endswith(FLAG + "\n") and said.err.count("\n") == 1
    assert not (trap / "out").exists()


def test_code_of_a_config_that_is_typed_or_trusted_is_the_user_s(trap: Path) -> None:
    (trap / "spec.toml").write_text(tomli_w.dumps(BASE | {"model": "evil.py:f"}))
    assert options.run_spec({"trust_code": True}, trap / "spec.toml").model == "evil.py:f"
    for flags, more in (({"model": "other.py:f"}, []), ({}, ["model=other.py:f"]), ({}, ["attack.model=other.py:f"])):
        assert options.run_spec(flags, trap / "spec.toml", more).model == "other.py:f"
    assert options.run_spec({"model": "flatlens:mlp"}, trap / "spec.toml").model == "flatlens:mlp"


def test_code_that_is_trusted_is_planned(trap: Path) -> None:
    found = cells_of({"run": BASE | {"model": "evil.py:f"}}, trust_code=True)
    assert found.cells[0].spec.model == "evil.py:f"


TRUSTING: list[dict[str, Any]] = [
    {"run": BASE | {"trust_pickle": True}},
    {"run": BASE | {"trust_pickle": 1}},
    {"run": BASE | {"trust_pickle": "yes"}},
    {"run": BASE | {"trust_remote_code": True}},
    {"run": BASE | {"attack": {"name": "pgd", "trust_pickle": True}}},
    {"run": BASE | {"attack": {"name": {"name": "pgd", "trust_pickle": True}}}},
    {"run": BASE | {"attack": {"attack": {"attack": {"trust_remote_code": True}}}}},
    {"run": BASE | {"train": {"trust_pickle": True}}},
    {"run": BASE | {"train.trust_pickle": True}},
    {"run": BASE | {"attack.trust_pickle": True}},
    {"run": BASE | {"trust_code": True}},
    {"run": BASE | {"trust": {"pickle": True}}},
    {"run": BASE, "trust_code": True},
    {"run": BASE, "grid": {"trust_pickle": [True]}},
    {"run": BASE, "grid": {"trust_pickle": [False, True]}},
    {"run": BASE, "grid": {"train": [{"trust_pickle": True}]}},
    {"run": BASE, "grid": {"train": {"trust_pickle": [True]}}},
    {"run": BASE, "grid": {"attack": ["bim", {"name": "pgd", "trust_pickle": True}]}},
    {"run": BASE, "grid": {"attack": [{"name": {"name": "pgd", "trust_pickle": True}}]}},
    {"run": BASE, "zip": [{"trust_pickle": [True], "seed": [1]}]},
    {"run": BASE, "zip": [{"attack": [{"name": "pgd", "trust_remote_code": True}], "seed": [1]}]},
]


@pytest.mark.parametrize("tables", TRUSTING, ids=str)
def test_a_file_does_not_trust_for_whoever_runs_it(trap: Path, tables: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        cells_of(tables)
    assert "trust" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("tables", [table for table in TRUSTING if "grid" not in table and "zip" not in table], ids=str)
def test_nor_does_a_config(trap: Path, tables: dict[str, Any]) -> None:
    values = tables["run"] | {key: value for key, value in tables.items() if key != "run"}
    (trap / "spec.toml").write_text(tomli_w.dumps(values))
    with pytest.raises(SpecError) as caught:
        options.run_spec({}, trap / "spec.toml")
    assert "trust" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_trusted_is_what_the_flags_say() -> None:
    for trust in ({}, {"trust_pickle": True}, {"trust_remote_code": True, "trust_code": True}):
        tables = {"run": BASE | {"trust_pickle": False}, "grid": {"trust_remote_code": [False]}}
        (cell,) = cells_of(tables, **trust).cells
        for key in ("trust_pickle", "trust_remote_code"):
            assert getattr(cell.spec, key) is bool(trust.get(key))


def test_no_table_of_an_attack_lets_code_run_in_a_single_run_either() -> None:
    for table in ({"name": "pgd", "trust_pickle": True}, {"name": {"name": "pgd", "trust_pickle": True}}):
        with pytest.raises(SpecError, match="is no setting of an attack"):
            from_dict(BASE | {"attack": table})


def test_pickles_and_others_attacks_fail_in_one_line_and_run_nothing(
    trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(zoo.mlp((1, 8, 8), 10), trap / "m.pt2")
    here = {
        "model": ["ckpt:w.pt?arch=flatlens:mlp?width=4", "ckpt:w.pt?arch=flatlens%3Acnn", "export:m.pt2",
                  "ckpt:evil.py?arch=flatlens:mlp", "ckpt:inner?arch=flatlens:mlp", "hf:inner"],
    }  # fmt: skip
    odd = [
        {"data": "npz:d.npz"}, {"data": "evil.py:f"}, {"data": "evil:f"}, {"data": "hf:inner"},
        {"attack": "path:p.npz"},
        {"train": {"epochs": 1, "data": "npz:d.npz"}}, {"train": {"epochs": 1, "data": "evil.py:f"}},
        {"attack": "torchattacks:os"}, {"attack": "foolbox:evil.f"},
    ]  # fmt: skip
    cells = [from_dict(BASE | {"model": model}).resolved() for model in here["model"]]
    cells += [from_dict(BASE | more).resolved() for more in odd]
    for attack in ("evil.py:f", "evil:f", "os:system"):
        with pytest.raises(SpecError, match="no scheme '.*'; attacks of others come by"):
            cells_of({"run": BASE | {"attack": attack}})
    plan = {cell.key: cell.spec.to_dict() for cell in (Cell(key_of(spec), spec) for spec in cells)}
    rows = [{k: v for k, v in spec.items() if k in ("model", "data", "attack", "train")} for spec in plan.values()]
    zips = {key: [row[key] for row in rows] for key in ("model", "data", "attack")}
    recipes = [row.get("train", {}) for row in rows]
    tables = {"run": {"steps": 1, "limit": 2}, "zip": [zips | {"train": recipes}]}
    assert swept(trap, tables, "--dry-run") == 2
    capsys.readouterr()
    assert swept(trap, tables, "--json", "--workers", "1") == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["done"] == 0 and len(facts["failed"]) == len(rows)
    for row in facts["failed"]:
        assert row["kind"] in ("ModelError", "DataError", "AttackError"), row
        assert row["error"].isprintable() and not row["details"]
    said = [row["error"] for row in facts["failed"] if "w.pt" in row["label"] or "export:" in row["label"]]
    assert len(said) == 3 and all("--trust-pickle" in line for line in said)
    assert app.run(["status", str(trap / "out")]) == 0


def test_a_stranger_s_results_are_looked_at(trap: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sweep.Sweep(trap / "out", {})
    specs = [RunSpec(model=model, data="flatlens:digits").to_dict() | {"trust_pickle": True} for model in CODE[:6]]
    (trap / "out" / "failed").mkdir(parents=True)
    (trap / "out" / "work").mkdir()
    plan = {f"{i:016x}": spec for i, spec in enumerate(specs)} | {"../../evil": specs[0], "odd": {"x": [[{}]]}}
    (trap / "out" / "plan.json").write_text(json.dumps({"schema_version": 1, "cells": plan}))
    found.fail("../../evil", sweep.Failure("x", "y", "z", 0.0, 1))
    assert app.run(["status", str(trap / "out")]) == 2  # a key that leads out of the folder
    del plan["../../evil"]
    (trap / "out" / "plan.json").write_text(json.dumps({"schema_version": 1, "cells": plan}))
    for words in ([], ["--json"], ["--watch"]):
        assert app.run(["status", str(trap / "out"), *words]) == 0
    (trap / "out" / "plan.json").write_text('{"schema_version": 1, "cells": {"a": 3}}')
    assert app.run(["status", str(trap / "out")]) == 2


@pytest.mark.parametrize("safe", [False, True])
def test_modules_in_the_working_folder_are_not_taken_for_python_s_own(trap: Path, safe: bool) -> None:
    for name in ("pickle", "socket", "selectors", "signal", "torch", "numpy", "json", "multiprocessing", "flatlens"):
        (trap / f"{name}.py").write_text((trap / "evil.py").read_text())
    (trap / "sweep.toml").write_text(tomli_w.dumps({"run": BASE}))
    environment = os.environ | ({"PYTHONSAFEPATH": "1"} if safe else {})
    for words in (["sweep", "sweep.toml", "--dry-run"], ["sweep", "sweep.toml", "--out", "out"], ["status", "out"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("flatlens"), *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_huge_sweeps_are_refused_at_once(trap: Path) -> None:
    many = list(range(1000))
    (trap / "s.toml").write_text(tomli_w.dumps({"run": BASE, "grid": {"seed": many, "limit": many, "steps": many}}))
    with pytest.raises(SpecError, match="has 1,000,000,000 cells; a sweep has at most 100,000: split the file"):
        read(trap / "s.toml")
