"""The ways in which settings may be written, and the one in which they are kept: in a run, a sweep and by flags alike.

``layers`` is written ``layer``, and the settings of an ``[attack]`` table stand beside the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatlens.errors import SpecError
from flatlens.specs.trust import TRUST
from flatlens.specs.values import shortened, shown

ALIASES = {"layers": "layer", "controls": "control"}
"""Another spelling of a setting, which is taken too -> the one that is written."""


def settings_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a table, each under its own name; those in a table ``attack`` stand among them.

    Raises:
        SpecError: one is given twice, with different values, or the attack's table holds what is no setting of it.
    """
    attack = table.get("attack")
    if not isinstance(attack, Mapping):
        return unaliased(table)
    beside = unaliased({key: value for key, value in table.items() if key != "attack"})
    for key, value in unaliased({"attack" if key == "name" else key: value for key, value in attack.items()}).items():
        written = f"attack.{'name' if key == 'attack' else key}"
        # What lets code run is looked for beside the table: it must not hide in it.
        if key in TRUST or isinstance(value, Mapping):
            raise SpecError(f"{written} = {shortened(repr(value))}: is no setting of an attack")
        _demand_agreement(key, beside.get(key, value), written, value)
        beside[key] = value
    return beside


def unaliased(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with each setting under the name that it is written by.

    Raises:
        SpecError: both spellings of one are there, and differ.
    """
    out: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        _demand_agreement(spelt.get(name, key), out.get(name, value), key, value)
        out[name], spelt[name] = value, key
    return out


def _demand_agreement(one: str, value: Any, other: str, its: Any) -> None:
    if _as_list(value) != _as_list(its):
        told = (f"{key} {shortened(shown(of))}" for key, of in ((one, value), (other, its)))
        raise SpecError(f"{' and '.join(told)} are one setting and differ")


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
