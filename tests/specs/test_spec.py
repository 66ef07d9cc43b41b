"""A spec survives its TOML form, and says what is wrong with a value."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatlens.attacks import ATTACKS, CONTROLS
from flatlens.errors import SpecError
from flatlens.specs.run import RunSpec, difference, from_dict
from flatlens.specs.toml import assign, read_toml
from flatlens.specs.values import number

LEAST = {"model": "flatlens:digits-cnn", "data": "flatlens:digits"}

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
specs = st.builds(
    RunSpec,
    model=words,
    data=words,
    # apgd-t chooses its targets itself
    attack=st.sampled_from(sorted(set(ATTACKS) - {"apgd-t"})),
    eps=st.floats(1e-6, 1e6),
    norm=st.sampled_from(["linf", "l2"]),
    step_size=st.none() | st.floats(1e-9, 10),
    steps=st.integers(1, 10_000),
    random_start=st.booleans(),
    targeted=st.none() | st.sampled_from(["next", "3"]),
    control=st.lists(st.sampled_from([*CONTROLS, "all"]), unique=True).map(tuple),
    layer=st.lists(words, min_size=1).map(tuple),
    samples=st.none() | st.lists(st.integers(0, 99), min_size=1, unique=True).map(tuple),
    limit=st.none() | st.integers(1, 99),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(["float32", "float64"]),
)


@given(specs)
def test_survives_toml(spec: RunSpec) -> None:
    assert from_dict(tomllib.loads(spec.to_toml())) == spec
    resolved = spec.resolved()
    assert resolved.resolved() == resolved
    assert from_dict(tomllib.loads(resolved.to_toml())).hash() == resolved.hash()


def test_defaults() -> None:
    spec = from_dict(LEAST).resolved()
    assert (spec.attack, spec.norm, spec.steps, spec.layer, spec.images) == ("pgd", "linf", 40, ("head",), "key")
    assert spec.eps == 8 / 255 and spec.step_size == 2.5 * spec.eps / 40
    assert from_dict(LEAST | {"attack": "fgsm", "eps": 0.1}).resolved().step_size == 0.1
    assert from_dict(LEAST | {"attack": "bim", "eps": 0.1, "steps": 5}).resolved().step_size == 0.1 / 5
    assert from_dict(LEAST | {"attack": "mi-fgsm", "steps": 5}).resolved().momentum == 1
    auto = from_dict(LEAST | {"attack": "apgd-t", "step_size": 0.1}).resolved()
    assert (auto.objective, auto.step_size) == ("dlr", None)
    ddn = from_dict(LEAST | {"attack": "ddn"}).resolved()
    assert (ddn.norm, ddn.eps, ddn.objective) == ("l2", None, "ce")
    assert from_dict(LEAST | {"control": "all"}).resolved().control == tuple(CONTROLS)


def test_the_attack_may_be_a_table() -> None:
    assert from_dict(LEAST | {"attack": {"name": "bim", "eps": "8/255"}}) == from_dict(
        LEAST | {"attack": "bim", "eps": 8 / 255}
    )


def test_assignments() -> None:
    assert assign({"eps": 1}, ["attack.eps=0.3", "random_start=true", "model=flatlens:cnn", "layer=['a', 'b']"]) == {
        "eps": 0.3,
        "random_start": True,
        "model": "flatlens:cnn",
        "layer": ["a", "b"],
    }


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.3", 0.3), ("3e-1", 0.3), ("1", 1.0)])
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    assert number(text) == value


def test_the_hash_is_of_what_determines_the_numbers() -> None:
    spec = from_dict(LEAST)
    assert spec.hash() == from_dict(LEAST | {"device": "cpu", "images": "none"}).hash()
    for change in ({"eps": 0.2}, {"seed": 1}, {"batch_size": 7}, {"layer": ["a"]}):
        assert from_dict(LEAST | change).hash() != spec.hash()


def test_difference_names_both_values() -> None:
    a, b = from_dict(LEAST | {"eps": 0.3}), from_dict(LEAST | {"eps": 0.1, "steps": 3})
    assert difference(a, b) == ["eps 0.3 instead of 0.1", "steps 40 instead of 3"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epz": 1}, "no setting 'epz'"),
        (
            {"attack": "pgdd"},
            "no attack 'pgdd'; there are: fgsm, bim, mi-fgsm, pgd, apgd-ce, apgd-dlr, apgd-t, ddn, advgan. Did you "
            "mean 'pgd'?",
        ),
        ({"norm": "l7"}, "no norm 'l7'"),
        ({"eps": 0}, "--eps 0: needs a number above 0, for example 8/255"),
        ({"eps": "abc"}, "'abc' is not a number; write 0.3 or 8/255"),
        ({"eps": "1/0"}, "'1/0' is not a number"),
        ({"eps": float("inf")}, "--eps inf: needs a number above 0"),
        ({"norm": "l2"}, "--eps must be given for l2"),
        ({"norm": "l1"}, "--eps must be given for l1"),
        ({"attack": "apgd-ce", "norm": "l1", "eps": 1}, "no norm 'l1'; attack apgd-ce has: linf, l2"),
        ({"attack": "apgd-t", "targeted": "next"}, "--targeted next: apgd-t chooses its targets itself"),
        ({"attack": "apgd-ce", "objective": "dlr"}, "attack 'apgd-ce' has no objective; those that have: fgsm, bim"),
        ({"attack": "ddn", "restarts": 2}, "attack 'ddn' has no restarts; those that have: pgd, apgd-ce"),
        ({"attack": "bim", "momentum": 1}, "attack 'bim' has no momentum; those that have: mi-fgsm, pgd"),
        ({"momentum": -1}, "--momentum -1: needs a number of at least 0"),
        ({"objective": "dlrr"}, "no objective 'dlrr'; there are: ce, dlr, margin. Did you mean 'dlr'?"),
        ({"restarts": 0}, "--restarts 0: needs a whole number of at least 1"),
        ({"step_size": -0.1}, "--step-size -0.1: needs a number above 0"),
        ({"steps": 0}, "--steps 0: needs a whole number of at least 1"),
        ({"steps": 2.5}, "--steps 2.5: needs a whole number"),
        ({"steps": True}, "--steps True: needs a whole number"),
        ({"batch_size": 0}, "--batch-size 0: needs a whole number of at least 1"),
        ({"limit": 0}, "--limit 0"),
        ({"probes": 4}, "--probes 4: needs at least 8"),
        ({"layer": []}, "--layer []: needs at least one name"),
        ({"samples": [3, -1]}, "--samples 3,-1: needs indices of at least 0"),
        ({"samples": [3, 3]}, "--samples 3,3: names a sample twice"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**63}, "--seed 9223372036854775808: needs a whole number below 2^63 = 9223372036854775808"),
        ({"train": {"seed": 2**64}}, "--seed 18446744073709551616: needs a whole number below 2^63"),
        ({"control": ["nois"]}, "no control 'nois'"),
        ({"targeted": "previous"}, "no target 'previous'"),
        ({"images": "some"}, "no images 'some'; there are: none, key, all"),
        ({"dtype": "float16"}, "no dtype 'float16'; there are: float32, float64."),
        ({"bounds": [1, 0]}, "--bounds [1.0, 0.0]: needs two numbers, the smaller first"),
        ({"only_correct": "yes"}, "--only-correct 'yes': needs true or false"),
    ],
)
def test_says_what_is_wrong(change: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as error:
        from_dict(LEAST | change)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_missing_model_or_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--model is missing; `flatlens models` lists what there is"):
        from_dict({"data": "x"})
    with pytest.raises(SpecError, match=r"--data is missing; `flatlens datasets` lists what there is"):
        from_dict({"model": "x"})
    with pytest.raises(SpecError, match="cannot read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(SpecError, match="is not TOML"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(SpecError, match="is not of the form key=value"):
        assign({}, ["eps"])
