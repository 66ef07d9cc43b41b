"""What a run must be of to have a worst case."""

from __future__ import annotations

import re
from typing import Any

import pytest

from flatlens.errors import SpecError
from flatlens.specs.run import RunSpec
from flatlens.specs.worst_case import demand_ball

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "no radius": (("ddn", "l2", None), "attack 'ddn' has no radius to attack within"),
    "no norm": (("mine", None, 0.1), "attack 'mine' has no norm, and it needs linf or l2"),
    "l1": (("pgd", "l1", 0.1), "attack 'pgd' has norm l1, and it needs linf or l2"),
    "a radius for each": (("pgd", "linf", (0.1, 0.2)), "attack 'pgd' has a radius for each sample; give one for all"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_none_is_named(kind: str) -> None:
    given, said = REFUSED[kind]
    with pytest.raises(SpecError, match=f"^--worst-case: {re.escape(said)}"):
        demand_ball(*given)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_is_a_number(norm: str) -> None:
    assert demand_ball("pgd", norm, 1) == 1.0


def test_a_spec_asks_before_a_model_is_loaded_and_takes_the_radius_that_is_left_out() -> None:
    with pytest.raises(SpecError, match="attack 'ddn' has no radius"):
        RunSpec("flatlens:nothing", "flatlens:nothing", attack="ddn", worst_case=True)
    assert RunSpec("flatlens:nothing", "flatlens:nothing", worst_case=True).resolved().eps == 8 / 255
    # A library's attack may have a radius of its own: that is asked when it is made.
    assert RunSpec("flatlens:nothing", "flatlens:nothing", attack="torchattacks:PGD", worst_case=True).worst_case
