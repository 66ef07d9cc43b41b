"""A setting may be written in several ways; every way in reads them alike, and refuses a mistake in the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from flatlens_cli import options

from flatlens.errors import SpecError
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.toml import assign
from flatlens.sweeps.grid import cells_of

NEEDED = {"model": "flatlens:mlp", "data": "flatlens:digits"}


def _by_set(values: dict[str, Any], folder: Path) -> RunSpec:
    """Each setting as a ``--set`` of its own, the attack's with their table."""
    attack = values.get("attack")
    flat = {key: value for key, value in values.items() if key != "attack" or not isinstance(attack, dict)}
    if isinstance(attack, dict):
        flat |= {f"attack.{key}": value for key, value in attack.items()}
    return from_dict(assign({}, [f"{key}={_toml(value)}" for key, value in flat.items()]))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return tomli_w.dumps({"x": value}).partition("=")[2].strip()


def _by_config(values: dict[str, Any], folder: Path) -> RunSpec:
    (folder / "spec.toml").write_text(tomli_w.dumps(values))
    return options.run_spec({}, folder / "spec.toml")


WAYS: dict[str, Callable[[dict[str, Any], Path], RunSpec]] = {
    "python": lambda values, folder: from_dict(values),
    "config": _by_config,
    "sweep": lambda values, folder: cells_of({"run": values}).cells[0].spec,
    "set": _by_set,
}
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a table": ({"attack": {"name": "bim", "eps": 0.1}}, {"attack": "bim", "eps": 0.1}),
    "without a name": ({"attack": {"eps": "8/255"}}, {"eps": 8 / 255}),
    "another spelling": ({"layers": "head", "controls": ["all"]}, {"layer": ["head"], "control": ["all"]}),
    "another spelling in the table": ({"attack": {"controls": ["all"]}}, {"control": ["all"]}),
    "a name and the run's": ({"attack": {"name": "bim"}, "name": "first"}, {"attack": "bim", "name": "first"}),
    "twice the same": ({"attack": {"name": "pgd", "steps": 5}, "steps": 5}, {"steps": 5}),
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "twice": (
        {"steps": 4, "attack": {"name": "pgd", "steps": 5}},
        "steps 4 and attack.steps 5 are one setting and differ",
    ),
    "two spellings": ({"layer": "head", "layers": "all"}, "layer head and layers all are one setting and differ"),
    "two spellings, one in the table": (
        {"control": "all", "attack": {"controls": "line-to-end"}},
        "control all and attack.control line-to-end are one setting and differ",
    ),
    "trust": ({"attack": {"trust_pickle": True}}, "attack.trust_pickle = True: is no setting of an attack"),
    "a table within": ({"attack": {"name": {"a": 1}}}, "attack.name = {'a': 1}: is no setting of an attack"),
    "unknown": ({"attack": {"name": "pgd", "step": 3}}, "no setting 'step'; a run has: "),
    "of another type": ({"attack": {"name": "pgd", "steps": "x"}}, "--steps 'x': needs a whole number"),
    "no attack": ({"attack": {"name": "pdg"}}, "no attack 'pdg'; there are: "),
}
LAST_WINS = ("twice", "two spellings", "two spellings, one in the table")
"""Of two ``--set`` the later one wins, as of any other setting."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", SAME)
def test_one_setting_written_in_several_ways(which: str, way: str, tmp_path: Path) -> None:
    written, plain = SAME[which]
    assert WAYS[way](NEEDED | written, tmp_path).resolved() == from_dict(NEEDED | plain).resolved()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", REFUSED)
def test_a_mistake_is_told_in_the_same_words_everywhere(which: str, way: str, tmp_path: Path) -> None:
    written, words = REFUSED[which]
    if way == "set" and which in LAST_WINS:
        assert WAYS[way](NEEDED | written, tmp_path)
        return
    with pytest.raises(SpecError) as caught:
        WAYS[way](NEEDED | written, tmp_path)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("written", [{"layers": ["all"]}, {"layer": ["all"]}, {"attack": {"layers": ["all"]}}])
def test_a_flag_and_a_set_win_over_a_file_in_any_spelling(written: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(tomli_w.dumps(NEEDED | written))
    assert options.run_spec({"layer": ["head"]}, file).layer == ("head",)
    assert options.run_spec({}, file, ["layers=['head']"]).layer == ("head",)
    assert options.run_spec({}, file).layer == ("all",)
