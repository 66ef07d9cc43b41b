"""Which attack of whose it was stands in the manifest, and what is not known is not made up."""

from __future__ import annotations

import functools
import json
from importlib import metadata

import pytest
import torch
from flatlens_cli import app
from torch import nn

import flatlens as fl
from flatlens import models
from flatlens.measure import plan as planning
from flatlens.specs.run import RunSpec
from tests.expected import cautioned

X, Y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])


@pytest.fixture(scope="module")
def model():
    return models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model


def plain(model, x, y, eps=0.1, kind="sign"):
    x = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)
    return (x + eps * g.sign()).clamp(0, 1).detach()


class Callable:
    def __init__(self):
        self.eps, self.data, self._own = 0.2, torch.zeros(3), 1

    def __call__(self, model, x, y):
        return plain(model, x, y, eps=self.eps)


def made(name, model):
    import foolbox
    import pyautoattack
    import torchattacks

    return {
        "torchattacks": lambda: torchattacks.PGD(model, eps=0.2, alpha=0.05, steps=3),
        "torchattacks-auto": lambda: torchattacks.AutoAttack(model, eps=0.2),
        "foolbox": lambda: foolbox.attacks.LinfPGD(steps=3, rel_stepsize=0.2),
        "autoattack": lambda: pyautoattack.AutoAttack(model, norm="Linf", eps=0.2, version="standard", device="cpu"),
        "function": lambda: plain,
        "partial": lambda: functools.partial(plain, eps=0.3),
        "object": Callable,
    }[name]()


@pytest.mark.parametrize(
    ("name", "library", "attack", "parameters"),
    [
        ("torchattacks", "torchattacks", "PGD", {"eps": 0.2, "alpha": 0.05, "steps": 3, "random_start": True}),
        ("torchattacks-auto", "torchattacks", "AutoAttack", {"eps": 0.2, "version": "standard", "n_classes": 10}),
        (
            "foolbox",
            "foolbox",
            "LinfProjectedGradientDescentAttack",
            {"steps": 3, "rel_stepsize": 0.2, "epsilons": 0.2},
        ),
        ("autoattack", "pyautoattack", "AutoAttack", {"epsilon": 0.2, "norm": "Linf", "version": "standard"}),
        ("function", None, f"{__name__}.plain", {"eps": 0.1, "kind": "sign"}),
        ("partial", None, f"{__name__}.plain", {"eps": 0.3, "kind": "sign"}),
        ("object", None, f"{__name__}.Callable", {"eps": 0.2}),
    ],
)
def test_what_can_be_read_off_an_attack(model, name, library, attack, parameters):
    found = fl.attacks.recorded(made(name, model), eps=0.2).provenance
    assert (found["library"], found["attack"]) == (library, attack)
    assert found["version"] == (metadata.version(library) if library else None)
    known = found["parameters"] | {"epsilons": found.get("epsilons")}
    assert {key: known[key] for key in parameters} == parameters
    assert json.loads(json.dumps(found, allow_nan=False)) == found and "_own" not in known and "data" not in known


def test_attacks_within_attacks_are_settings(model):
    found = fl.attacks.recorded(made("autoattack", model)).provenance["parameters"]
    assert found["apgd"]["n_iter"] == 100 and found["square"]["n_queries"] == 5000


@cautioned("low-accuracy")
@pytest.mark.parametrize("name", ["torchattacks", "foolbox", "function"])
def test_it_stands_in_the_manifest(model, name):
    found = fl.trace(model, X, Y, attack=fl.attacks.recorded(made(name, model), eps=0.2)).manifest
    assert found["recorded_attack"]["parameters"] and json.dumps(found)


@cautioned("not-converged")
def test_also_of_a_run_by_name_and_not_of_flatlens_own(tmp_path):
    spec = RunSpec("flatlens:digits-cnn", "flatlens:digits", attack="torchattacks:PGD?steps=2&eps=0.1", limit=4)
    found = fl.run(spec, tmp_path / "a").manifest["recorded_attack"]
    assert found["library"] == "torchattacks" and found["parameters"]["steps"] == 2
    own = RunSpec("flatlens:digits-cnn", "flatlens:digits", steps=1, limit=4)
    assert "recorded_attack" not in fl.run(own, tmp_path / "b").manifest


# ---- plans and costs


@pytest.mark.parametrize(
    ("attack", "steps"),
    [
        ("pgd", 40),
        ("fgsm", 1),
        ("torchattacks:PGD?steps=7", 7),
        ("torchattacks:DeepFool", 50),
        ("torchattacks:GN", None),
    ],
)
def test_a_dry_run_says_where_a_length_is_not_known(capsys, attack, steps):
    words = ["trace", "--model", "flatlens:digits-cnn", "--data", "flatlens:digits", "--attack", attack, "--limit", "4"]
    assert planning.plan(RunSpec("flatlens:digits-cnn", "flatlens:digits", attack=attack, limit=4)).says_steps == (
        steps is not None
    )
    assert app.run([*words, "--dry-run"]) == 0
    assert ("does not say how many" in capsys.readouterr().out) == (steps is None)
    assert app.run([*words, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["says_steps"]) == (steps or 40, steps is not None)


def test_layers_give_passes_exactly_and_time_with_its_spread(capsys):
    assert app.run(["layers", "--model", "flatlens:cnn", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["layers"]}
    assert rows["fc"]["passes"] == 0 and all(rows[name]["passes"] == 9 for name in ("conv1", "conv2", "hidden"))
    assert all(row["cost_low"] <= row["cost"] <= row["cost_high"] for row in rows.values())
    assert app.run(["layers", "--model", "flatlens:cnn"]) == 0
    said = capsys.readouterr().out
    assert "passes" in said and said.count("…") == len(rows)
