"""A run's worst of several attacks: the figures of `fl.robustness` on the same samples, kept, gone on with, refused."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flatlens as fl
from flatlens.errors import SpecError, StaleRunError
from flatlens.measure import robustness as named
from flatlens.measure import run as execute
from flatlens.measure.plan import plan
from flatlens.records import runs
from flatlens.specs.run import RunSpec, from_dict
from flatlens.training import attacked
from tests.edited import unsealed

MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits"
SPEC = RunSpec(MODEL, DATA, eps=0.1, steps=2, limit=20, batch_size=10, seed=3, device="cpu", worst_case=True)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        yield


def whole(folder: Path, spec: RunSpec = SPEC) -> runs.Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        return execute.run(spec, folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return whole(tmp_path_factory.mktemp("worst") / "run")


def of_names(spec: RunSpec) -> dict[str, Any]:
    """What `flatlens robustness` says of the same samples."""
    found = named.of_names(replace(spec, worst_case=False, attack="square", steps=named.QUERIES))
    return json.loads(json.dumps(found.to_dict()))


@pytest.mark.parametrize("kind", ["linf", "masked, l2"])
def test_a_run_has_the_figures_of_robustness(kind: str, done: runs.Run, tmp_path: Path) -> None:
    if kind == "linf":
        spec, of = SPEC, done
    else:  # logits × 100: the softmax saturates
        spec = replace(SPEC, model=f"{MODEL}?scale=100", norm="l2", eps=0.5, seed=4, limit=10)
        of = whole(tmp_path / "run", spec)
    expected, codes = of_names(spec), [one.code for one in of.trace().cautions]
    assert runs.load(of.path).trace().manifest["worst_case"] == expected
    assert 0 < expected["worst"]["value"] < expected["clean"]["value"] <= 1 and expected["worst"]["n"] == spec.limit
    assert len(set(codes)) == len(codes) and "few-samples" in codes
    assert expected["masked"] == ("masked" in codes) == (kind != "linf")


def test_from_python_it_is_the_same_and_is_saved(tmp_path: Path) -> None:
    data = fl.datasets.load(DATA)
    model = fl.models.load(MODEL, shape=(1, 8, 8), classes=10).model
    x, y = torch.from_numpy(data.x[:6]), torch.from_numpy(data.y[:6])
    how: dict[str, Any] = {"batch_size": 6, "seed": 1}
    trace = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.1, steps=2), worst_case=True, out=tmp_path / "run", **how)
    alone = fl.robustness(model, x, y, eps=0.1, **how).to_dict()
    assert trace.manifest["worst_case"] == alone
    again = runs.load(tmp_path / "run")
    assert again.manifest["worst_case"] == json.loads(json.dumps(alone)) and again.spec.worst_case is True
    bare = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.1, steps=2), **how)
    assert "worst_case" not in bare.manifest and "worst_case" not in bare.spec
    assert bare.steps.equals(trace.steps) and bare.layers.equals(trace.layers)


def test_a_run_that_was_cut_off_has_it_when_it_has_been_gone_on_with(
    done: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    begun = execute.begin(SPEC, tmp_path / "cut")
    execute.measure(begun, begun.run.missing()[1:])
    assert "worst_case" not in begun.run.manifest
    del begun
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("flatlens.measure.worst_of_attacks.evaluate", killed)
        whole(tmp_path / "cut")
    assert not runs.load(tmp_path / "cut").finished
    assert whole(tmp_path / "cut").manifest["worst_case"] == done.manifest["worst_case"]


def test_without_it_the_spec_and_the_manifest_are_as_before(done: runs.Run, tmp_path: Path) -> None:
    spec = replace(SPEC, worst_case=False)
    bare = whole(tmp_path / "run", spec)
    assert "worst_case" not in bare.manifest and "worst_case" not in spec.to_dict() and "worst" not in spec.to_toml()
    assert "worst_case" not in (tmp_path / "run" / "spec.toml").read_text()
    # Of the flatlens that had no such setting.
    assert RunSpec("flatlens:digits-cnn", "flatlens:digits").resolved().hash()[:16] == "cf7cc34f5efaea73"
    with pytest.raises(StaleRunError, match="worst_case True instead of False"):
        whole(tmp_path / "run")
    assert SPEC.hash() != spec.hash() and from_dict(done.spec.to_dict()) == done.spec
    assert "few-samples" not in [one.code for one in bare.trace().cautions]
    mine, theirs = done.trace(), bare.trace()
    assert mine.steps.equals(theirs.steps) and mine.layers.equals(theirs.layers)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no radius": ({"attack": "ddn", "eps": None}, "--worst-case: attack 'ddn' has no radius to attack within"),
    "l1": ({"norm": "l1"}, "--worst-case: attack 'pgd' has norm l1, and it needs linf or l2"),
    "no truth value": ({"worst_case": "yes"}, "--worst-case 'yes': needs true or false"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_it_cannot_be_is_told_in_a_line_before_anything_is_measured(kind: str, tmp_path: Path) -> None:
    changed, said = REFUSED[kind]
    with pytest.raises(SpecError, match=re.escape(said)) as caught:
        whole(tmp_path / "run", from_dict(SPEC.to_dict() | {k: v for k, v in changed.items() if v is not None}))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def ends_at(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + 0.01 * torch.ones_like(x) * (0.5 - x).sign()


OBJECTS: dict[str, tuple[Any, str]] = {
    "no radius": (ends_at, "has no radius to attack within"),
    "ddn": (fl.attacks.DDN(steps=2), "attack 'ddn' has no radius"),
    "l1": (fl.attacks.PGD(eps=1.0, norm="l1", steps=2), "has norm l1"),
    "a radius for each": (fl.attacks.PGD(eps=(0.1, 0.2), steps=2), "has a radius for each sample; give one for all"),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_python_refuses_the_same(kind: str) -> None:
    attack, said = OBJECTS[kind]
    data, model = fl.datasets.load(DATA), fl.models.load(MODEL, shape=(1, 8, 8), classes=10).model
    with pytest.raises(SpecError, match=re.escape(said)) as caught:
        fl.trace(model, data.x[:2], data.y[:2], attack=attack, worst_case=True)
    assert str(caught.value).startswith("worst_case=True: attack")


def test_others_attacks_are_refused_when_they_are_made(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", iterates=np.zeros((2, 2, 1, 8, 8), np.float32))
    spec = replace(SPEC, attack=f"path:{tmp_path}/p.npz", eps=None, limit=2)
    with pytest.raises(SpecError, match="has no radius to attack within"):
        whole(tmp_path / "run", spec)
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_its_passes() -> None:
    with_, without = plan(SPEC), plan(replace(SPEC, worst_case=False))
    more = with_.batches * attacked.passes(10)
    assert with_.forward_passes - without.forward_passes == with_.backward_passes - without.backward_passes == more


@pytest.mark.parametrize("wrong", [{"worst": {"value": "x"}}, {"masked": 1}, {"attacks": None}, None])
def test_a_record_that_cannot_be_is_one_line(wrong: Any, done: runs.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in done.path.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    unsealed(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["worst_case"] = "all" if wrong is None else manifest["worst_case"] | wrong
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StaleRunError, match="'worst_case' must be an object with worst, masked, attacks"):
        runs.load(folder)
