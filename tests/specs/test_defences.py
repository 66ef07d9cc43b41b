"""Four axes and the recipes over them: one way to write each, and one line for what cannot be, through both doors."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from flatlens_cli import app

from flatlens.errors import SpecError
from flatlens.specs.defences import AXES, RECIPES, canonical, chosen, in_words, resolved, uses_eps
from flatlens.specs.run import train_from_dict
from flatlens.specs.train import TrainSpec
from flatlens.training import recipes

DATA = "flatlens:digits"


def spec_hash(spec: TrainSpec) -> str:
    return hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).hexdigest()


# --- one way to write each -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_axes(name: str) -> None:
    by_name, by_axes = TrainSpec(DATA, defence=name), TrainSpec(DATA, **RECIPES[name].axes)
    assert by_name == by_axes == train_from_dict({"data": DATA, "defence": name})
    assert by_name.to_dict() == by_axes.to_dict() and by_name.defence is None and "defence" not in by_name.to_dict()
    assert by_name != TrainSpec(DATA)
    # What is stored is read as itself, and told by its name.
    assert train_from_dict(by_name.to_dict()) == by_name
    assert in_words(by_name.to_dict()) == name


@pytest.mark.parametrize("name", ["trades", "fam-pgd", "gan"])
def test_a_recipe_and_its_axes_are_found_in_one_place(name: str) -> None:
    by_name, by_axes = TrainSpec(DATA, defence=name), TrainSpec(DATA, **RECIPES[name].axes)
    assert recipes.recipe_sha256("flatlens:cnn", by_name) == recipes.recipe_sha256("flatlens:cnn", by_axes)


def test_recipes_are_not_one_another() -> None:
    axes = [tuple(resolved(name, {}).values()) for name in RECIPES]
    assert len(set(axes)) == len(RECIPES)
    assert len({spec_hash(TrainSpec(DATA, defence=name)) for name in RECIPES}) == len(RECIPES)


PINNED = [  # as they were before there was any axis but adversarial
    ({}, "87c3fec350d08236bc7f954269116b0654ed18c3c2695e23988e829efcd7033b",
     "06da513f00c079467e8cea98c5e09da863b2c80463178730afdcfb6dd1cd7500"),
    ({"adversarial": "pgd"}, "6e50b6fbb88f388719559d77eb38045a4384b1983f3fb2bf2dae5d02ae7a8f91",
     "a377c1c86a58fc1558419b97502b3e9dc19e5500efd4fdc2ac953f4b9d848392"),
    ({"adversarial": "pgd", "eps": 0.1, "epochs": 5},
     "1bf5af30c3e6e3fd22ec90b490a84c443da2b54c73c19f5340ce035fc403a1c1",
     "246b6bd7623587273b12b64b7c3bfeaa950eded940116e98dfc3a11c01ff4511"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "of_spec", "of_training"), PINNED)
def test_older_trainings_keep_their_hashes(values: dict[str, Any], of_spec: str, of_training: str) -> None:
    spec = TrainSpec(DATA, **values)
    assert spec_hash(spec) == of_spec and recipes.recipe_sha256("flatlens:cnn", spec) == of_training
    if "adversarial" in values:
        rest = {key: value for key, value in values.items() if key != "adversarial"}
        assert TrainSpec(DATA, defence="pgd", **rest) == spec


WRITTEN: list[tuple[str, str | None, str | None]] = [
    ("adversarial", None, None),
    ("adversarial", "none", None),
    ("adversarial", "pgd", "pgd"),
    ("adversarial", "pgd?", "pgd"),
    ("adversarial", "fgsm?size=1.25&start=random", "fgsm"),
    ("adversarial", "fgsm?start=clean&size=1", "fgsm?size=1.0&start=clean"),
    ("adversarial", "free?replays=04", "free"),
    ("adversarial", "gan?lr=5e-3&width=8", "gan?width=8"),
    ("loss", "mix?weight=1", "mix"),
    ("loss", "mix?weight=1/2", "mix?weight=0.5"),
    ("loss", "trades?beta=6.0", "trades"),
    ("perturb_weights", "sam?rho=5e-2", "sam"),
    ("perturb_weights", "awp?warmup=2&gamma=.01", "awp?gamma=0.01&warmup=2"),
    ("penalty", "fam", "fam"),
    ("penalty", "gradient+fam", "fam+gradient"),
    ("penalty", "spectral?weight=0.1+fam?at=clean&weight=0.1", "fam?weight=0.1&at=clean+spectral?weight=0.1"),
    ("penalty", "fam?weight=1e+20+gradient", "fam?weight=1e+20+gradient"),
    ("penalty", "fam?weight=100000000000000000000", "fam?weight=1e+20"),
    ("penalty", "fam?weight=1e-9", "fam?weight=1e-09"),
]


@pytest.mark.parametrize(("axis", "text", "form"), WRITTEN)
def test_one_way_to_write_each(axis: str, text: str | None, form: str | None) -> None:
    assert canonical(axis, text) == form
    assert canonical(axis, form) == form and chosen(axis, form) == tuple(
        sorted(chosen(axis, text), key=lambda one: list(AXES[axis]).index(one.name))
    )


SAME = [
    ({"adversarial": "none", "norm": "linf", "keep": "last", "eps_warmup": 0}, {}),
    ({"defence": "none"}, {}),
    ({"adversarial": "pgd", "loss": "adversarial"}, {"adversarial": "pgd"}),
    ({"defence": "trades", "loss": "trades?beta=6"}, {"defence": "trades"}),
    ({"defence": "trades", "loss": "trades?beta=3"}, {"adversarial": "pgd", "loss": "trades?beta=3"}),
    ({"defence": "fam", "penalty": "gradient+fam"}, {"defence": "flat-lipschitz"}),
    ({"defence": "sam", "adversarial": "fgsm"}, {"adversarial": "fgsm", "perturb_weights": "sam"}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_ways_to_say_one_thing(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert TrainSpec(DATA, **one).to_dict() == TrainSpec(DATA, **other).to_dict()
    assert train_from_dict({"data": DATA, **one}) == TrainSpec(DATA, **other)


@pytest.mark.parametrize(
    ("values", "words", "eps"),
    [
        ({}, "standard", False),
        ({"defence": "trades"}, "trades", True),
        ({"perturb_weights": "sam"}, "sam", False),
        ({"penalty": "gradient"}, "gradient", True),
        ({"defence": "trades", "loss": "trades?beta=3"}, "pgd · trades?beta=3.0", True),
        ({"defence": "pgd", "perturb_weights": "awp", "penalty": "fam"}, "pgd · awp · fam", True),
    ],
)
def test_in_words(values: dict[str, Any], words: str, eps: bool) -> None:
    plain = TrainSpec(DATA, **values).to_dict()
    assert (in_words(plain), uses_eps(plain)) == (words, eps)


# --- what cannot be, through both doors ------------------------------------------------------------------------------

PGD = {"adversarial": "pgd"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "defence": ({"defence": "trade"}, "no defence 'trade'; there are: none, fgsm, free, pgd, "),
    "defence, hint": ({"defence": "trade"}, "Did you mean 'trades'?"),
    "attack": ({"adversarial": "pdg"}, "no adversarial training 'pdg'; there are: none, pgd, fgsm, free, gan. Did you"),
    "attack in capitals": ({"adversarial": "PGD"}, "no adversarial training 'PGD'; there are: none, pgd, fgsm, free"),
    "loss": ({**PGD, "loss": "trads"}, "no loss 'trads'; there are: none, adversarial, mix, trades, mart. Did you me"),
    "step": ({"perturb_weights": "swa"}, "no perturbation of weights 'swa'; there are: none, sam, asam, awp. Did you"),
    "penalty": ({"penalty": "fma"}, "no penalty 'fma'; there are: none, fam, gradient, spectral. Did you mean 'fam'?"),
    "second penalty": ({"penalty": "fam+gradent"}, "no penalty 'gradent'; there are: none, fam, gradient, spectral. D"),
    "nothing joined": ({"penalty": "fam+"}, "no penalty ''; there are: none, fam, gradient, spectral."),
    "empty": ({"defence": ""}, "no defence ''; there are: none, "),
    "option": ({**PGD, "loss": "trades?bta=3"}, "no option 'bta'; 'trades' has: beta. Did you mean 'beta'?"),
    "option of a name without": ({"adversarial": "pgd?steps=3"}, "no option 'steps'; 'pgd' has no options: none."),
    "option twice": ({**PGD, "loss": "mix?weight=1&weight=2"}, "option 'weight' is given twice in 'mix?weight=1&weigh"),
    "option without a value": ({**PGD, "loss": "mix?weight"}, "option 'weight' in 'mix?weight' has no value; write na"),
    "beta 0": ({**PGD, "loss": "trades?beta=0"}, "beta=0 in 'trades?beta=0': needs a number above 0, for example 6.0"),
    "beta below": ({**PGD, "loss": "mart?beta=-1"}, "beta=-1 in 'mart?beta=-1': needs a number above 0, for example 5"),
    "beta nan": ({**PGD, "loss": "trades?beta=nan"}, "beta=nan in 'trades?beta=nan': needs a number above 0"),
    "beta inf": ({**PGD, "loss": "trades?beta=inf"}, "beta=inf in 'trades?beta=inf': needs a number above 0"),
    "beta word": ({**PGD, "loss": "trades?beta=six"}, "beta=six in 'trades?beta=six': needs a number above 0"),
    "weight 0": ({**PGD, "loss": "mix?weight=0"}, "weight=0 in 'mix?weight=0': needs a number above 0, for example 1"),
    "weight with a colon": ({**PGD, "loss": "mix?weight=1:2"}, "weight=1:2 in 'mix?weight=1:2': needs a number above"),
    "weight of fam": ({"penalty": "fam?weight=-0.1"}, "weight=-0.1 in 'fam?weight=-0.1': needs a number above 0"),
    "weight of gradient": ({"penalty": "gradient?weight=nan"}, "weight=nan in 'gradient?weight=nan': needs a number"),
    "at": ({"penalty": "fam?at=attacked"}, "no at 'attacked'; there are: trained-on, clean."),
    "rho 0": ({"perturb_weights": "sam?rho=0"}, "rho=0 in 'sam?rho=0': needs a number above 0, for example 0.05"),
    "rho inf": ({"perturb_weights": "asam?rho=inf"}, "rho=inf in 'asam?rho=inf': needs a number above 0"),
    "rho of 400 digits": ({"perturb_weights": f"sam?rho={'9' * 400}"}, "needs a number above 0, for example 0.05"),
    "gamma 0": ({**PGD, "perturb_weights": "awp?gamma=0"}, "needs a number above 0 and below 1, for example 0.005"),
    "gamma 1": ({**PGD, "perturb_weights": "awp?gamma=1"}, "gamma=1 in 'awp?gamma=1': needs a number above 0 and bel"),
    "size": ({"adversarial": "fgsm?size=2.5"}, "size=2.5 in 'fgsm?size=2.5': needs a number above 0 and "),
    "start": ({"adversarial": "fgsm?start=zero"}, "no start 'zero'; there are: random, clean. (in 'fgsm?start=zero')"),
    "replays 0": ({"adversarial": "free?replays=0"}, "replays=0 in 'free?replays=0': needs a whole number"),
    "replays half": ({"adversarial": "free?replays=1.5"}, "replays=1.5 in 'free?replays=1.5': needs a whole number"),
    "replays of 400 digits": (
        {"adversarial": f"free?replays={'9' * 400}"},
        "needs a whole number",
    ),
    "warmup": ({**PGD, "perturb_weights": "awp?warmup=30"}, "warmup=30 in 'awp?warmup=30': needs a number of epochs"),
    "warmup below": ({**PGD, "perturb_weights": "awp?warmup=-1"}, "warmup=-1 in 'awp?warmup=-1': needs a whole numbe"),
    "eps warmup": ({**PGD, "eps_warmup": 30}, "--eps-warmup 30: needs a whole number of epochs from 0 to 29"),
    "eps warmup below": ({**PGD, "eps_warmup": -1}, "--eps-warmup -1: needs a whole number of epochs from 0 to 29"),
    "eps 0": ({**PGD, "eps": 0.0}, "--eps 0: needs a number above 0"),
    "norm": ({**PGD, "norm": "l3"}, "no norm 'l3'; there are: linf, l2."),
    "keep": ({"keep": "first"}, "no keep 'first'; there are: last, best."),
    "contradiction": (
        {"defence": "trades", "loss": "mart"},
        "--defence trades is --loss trades, which --loss mart contradicts; leave out one of them",
    ),
    "contradiction of the attack": (
        {"defence": "gan", "adversarial": "pgd"},
        "--defence gan is --adversarial gan, which --adversarial pgd contradicts; leave out one of them",
    ),
    "contradiction of the step": ({"defence": "trades-awp", "perturb_weights": "sam"}, "--perturb-weights sam contrad"),
    "contradiction of a penalty": ({"defence": "flat-lipschitz", "penalty": "fam"}, "which --penalty fam contradicts"),
    "contradiction by none": ({"defence": "trades", "loss": "none"}, "which --loss none contradicts; leave out one"),
    "loss without an attack": ({"loss": "trades"}, "--loss trades: needs attacked inputs; add --adversarial pgd"),
    "free and a step": ({"adversarial": "free", "perturb_weights": "awp"}, "--adversarial free with --perturb-weights"),
    "free and trades": ({"adversarial": "free", "loss": "trades"}, "--adversarial free with --loss trades: free makes"),
    "free and mart": ({"defence": "free", "loss": "mart"}, "--adversarial free with --loss mart: free makes one pass"),
    "penalty twice": ({"penalty": "fam+fam?weight=1"}, "--penalty fam+fam?weight=1: names fam twice; give one"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_one_line_through_both_doors(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, said = BAD[name]
    lines = []
    for call in (lambda: TrainSpec(DATA, **values), lambda: train_from_dict({"data": DATA, **values})):
        with pytest.raises(SpecError) as caught:
            call()
        lines.append(str(caught.value))
    flags = [word for key, value in values.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    out = tmp_path / "t.safetensors"
    assert app.run(["train", "--model", "flatlens:mlp", "--data", DATA, "--out", str(out), *flags]) == 2
    lines += capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and {line.removeprefix("error: ") for line in lines} == {lines[0]}
    assert said in lines[0] and not out.exists()


@pytest.mark.parametrize("key", ["defence", *AXES])
def test_a_value_that_is_no_text(key: str) -> None:
    for call in (lambda: TrainSpec(DATA, **{key: 5}), lambda: train_from_dict({key: 5})):
        with pytest.raises(SpecError, match=f"--{key.replace('_', '-')} 5: needs text"):
            call()


# --- flatlens defences -----------------------------------------------------------------------------------------------


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["defences"]) == 0
    said, err = capsys.readouterr()
    assert not err
    for axis, entries in AXES.items():
        assert f"--{axis.replace('_', '-')} NAME?option=value" in said
        for name, entry in entries.items():
            assert name in said
            for option, known in entry.options.items():
                assert f"{name}?{option}={known.default}" in said
    words = " ".join(said.split())
    for name, recipe in RECIPES.items():
        assert f"{name} {recipe.summary}: " in words


def test_everything_has_its_source() -> None:
    for entries in AXES.values():
        assert [name for name, entry in entries.items() if not re.search(r"\b(19|20)\d\d\b", entry.summary)] == []


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["defences", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {*AXES, "defence"}
    for axis, entries in AXES.items():
        assert list(found[axis]) == list(entries)
        for name, entry in entries.items():
            options = found[axis][name]["options"]
            assert {key: one["default"] for key, one in options.items()} == entry.defaults()
            assert found[axis][name]["summary"] and all(one["about"] for one in options.values())
            # Written out with every default, it is read as the name alone.
            query = "&".join(f"{key}={one['default']}" for key, one in options.items())
            assert canonical(axis, f"{name}?{query}") == name
    for name, recipe in found["defence"].items():
        recipe.pop("summary")
        assert TrainSpec(DATA, **recipe) == TrainSpec(DATA, defence=name)
