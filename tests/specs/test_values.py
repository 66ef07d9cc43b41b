"""Numbers are shown as people write them, and what is shown is read as the same number."""

from __future__ import annotations

from typing import Any

import pytest

from flatlens.attacks import libraries
from flatlens.specs.run import RunSpec, difference, from_dict
from flatlens.specs.values import number, radius, shown, written
from flatlens.specs.wording import text

VALUES: dict[str, tuple[str, Any, str]] = {
    "levels": ("eps", 8 / 255, "8/255"),
    "one level": ("step_size", 1 / 255, "1/255"),
    "levels of a recipe": ("train.eps", 8 / 255, "8/255"),
    "a decimal that is whole levels, too": ("eps", 0.2, "0.2"),
    "a decimal": ("eps", 0.3, "0.3"),
    "half a level": ("eps", 0.5 / 255, "0.00196078"),
    "beyond the levels": ("eps", 300 / 255, "1.17647"),
    "nothing": ("eps", 0.0, "0"),
    "a whole number": ("eps", 2, "2"),
    "no radius": ("momentum", 8 / 255, "0.0313725"),
    "a list": ("layer", ["head", "fc1"], "head fc1"),
    "a list of numbers": ("bounds", (0.0, 1.0), "0 1"),
    "not given": ("limit", None, "none"),
}


@pytest.mark.parametrize("which", VALUES)
def test_a_setting_is_shown_as_people_write_it(which: str) -> None:
    key, value, words = VALUES[which]
    assert written(key, value) == words
    assert text(key, value) == ("–" if value is None else words)
    if "eps" not in key and key != "step_size":
        assert shown(value) == words


def test_what_is_shown_is_read_as_the_same_radius() -> None:
    assert all(number(radius(level / 255)) == level / 255 for level in range(1, 255))


def test_specs_that_differ_say_radii_as_they_were_typed() -> None:
    a, b = (from_dict({"model": "m", "data": "d", "attack": "apgd-ce", "eps": eps}) for eps in ("8/255", 0.3))
    assert difference(a, b) == ["eps 8/255 instead of 0.3"]
    assert isinstance(a, RunSpec)


OPTIONS = {
    "8/255": 8 / 255, "8 / 255": 8 / 255, "0.3": 0.3, "3e-1": 0.3, "5": 5, "-1": -1, "true": True, "None": None,
    "inf": float("inf"), "l2": "l2", "8/0": "8/0", "1_000": "1_000", "٣": "٣", "": "",
}  # fmt: skip


@pytest.mark.parametrize("typed", OPTIONS, ids=ascii)
def test_options_of_others_attacks_are_read_like_settings(typed: str) -> None:
    found = libraries._value(typed)
    assert found == OPTIONS[typed] and type(found) is type(OPTIONS[typed])
