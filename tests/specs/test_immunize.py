"""The table [immunize] of a run: read, written, refused, and none where its method is none."""

from __future__ import annotations

import tomllib

import pytest

from flatlens.errors import SpecError
from flatlens.specs.immunize import METHODS, ImmunizeSpec, classes
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.toml import assign
from flatlens.specs.wording import flat, label, value_of, varying

RUN = {"model": "flatlens:cnn", "data": "flatlens:digits"}


@pytest.mark.parametrize("method", METHODS)
def test_it_is_written_as_it_is_read(method):
    given = {"method": method, "harmful_classes": "5-9", "ridge": 0.1, "limit": 50, "target": 20.0}
    spec = from_dict(RUN | {"immunize": given}).resolved()
    assert spec.immunize == ImmunizeSpec(primary="flatlens:digits", harmful="flatlens:digits", **given)
    again = from_dict(tomllib.loads(spec.to_toml()))
    assert again == spec and again.hash() == spec.hash() != from_dict(RUN).resolved().hash()


def test_the_method_none_is_no_immunization_at_all():
    spec = from_dict(RUN | {"immunize": {"method": "none", "ridge": 0.1}})
    assert spec.immunize is None and spec.hash() == from_dict(RUN).hash()
    assert "immunize" not in spec.to_dict()


def test_set_puts_a_value_into_the_table():
    found = assign(dict(RUN), ["immunize.method=alg1", "immunize.ridge=0.1"])
    assert from_dict(found).immunize == ImmunizeSpec(method="alg1", ridge=0.1)


WRONG = {
    "a method": ({"method": "alg2"}, "Did you mean 'alg1'?"),
    "a setting": ({"rigde": 1}, "[immunize] has"),
    "a ridge": ({"ridge": -1}, "--ridge -1"),
    "a target": ({"target": 0.5}, "--target 0.5"),
    "a share": ({"holdout": 1}, "--holdout 1"),
    "a limit": ({"limit": 0}, "--limit 0"),
    "classes": ({"harmful_classes": "5-x"}, "--harmful-classes '5-x'"),
    "a number of text": ({"steps": "many"}, "--steps 'many'"),
    "no table": ("alg1", "needs a table, for example [immunize] method"),
}


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_what_cannot_be_is_one_line(kind):
    given, says = WRONG[kind]
    with pytest.raises(SpecError) as error:
        from_dict(RUN | {"immunize": given})
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_language_model_cannot_be_immunized():
    with pytest.raises(SpecError, match="--immunize .*: is of image classifiers"):
        RunSpec(model="lm:folder", data="prompts:benign", immunize=ImmunizeSpec())


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, ()), ("3", (3,)), ("0-2", (0, 1, 2)), ("5, 7-8,5", (5, 7, 8)), ("2-1", ())],
)
def test_classes_are_numbers_and_ranges(text, expected):
    assert classes("primary", text) == expected


def test_what_varies_is_told_among_those_that_are_immunized():
    given = [{}, {"immunize": {"method": "alg1"}}, {"immunize": {"method": "alg1", "seed": 1}}]
    specs = [from_dict(RUN | more).resolved().to_dict() for more in given]
    assert varying(specs) == ["immunize.method", "immunize.seed"]
    assert varying(specs[1:]) == ["immunize.seed"]
    assert [value_of(spec, "immunize.method") for spec in specs] == ["none", "alg1", "alg1"]
    assert label(specs[1], varying(specs)) == "immunize.method alg1, immunize.seed 0"
    assert flat(specs[1])["immunize.ridge"] == 0.01 and "immunize" not in flat(specs[1])
