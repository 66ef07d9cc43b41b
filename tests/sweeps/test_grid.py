"""A sweep file's cells: every one is the run that `from_dict` makes of its point, and none is lost or double."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlens.errors import SpecError
from flatlens.specs.run import from_dict
from flatlens.specs.values import shown
from flatlens.specs.wording import flat, label, varying
from flatlens.sweeps.grid import cells_of, key_of, read

BASE = {"model": "flatlens:mlp", "data": "flatlens:digits"}
VALUES: dict[str, list[Any]] = {
    "model": ["flatlens:mlp", "flatlens:cnn", "flatlens:mlp?width=4"],
    "seed": [0, 1, 2, 3],
    "eps": [0.1, "8/255", 0.25, 1],
    "attack": ["pgd", "bim", "fgsm"],
    "norm": ["linf"],
    "steps": [1, 5, 40],
    "layer": ["head", ["head"], ["all"], "last:2"],
    "limit": [3, 7],
    "only_correct": [True, False],
    "batch_size": ["auto", 8],
    "dtype": ["float32", "float64"],
    "train.epochs": [1, 2],
    "train.adversarial": ["none", "pgd"],
}


def spec_of(point: dict[str, Any]) -> Any:
    """What `from_dict` makes of a point, its recipe's settings in their table."""
    recipe = {key.removeprefix("train."): value for key, value in point.items() if key.startswith("train.")}
    plain = {key: value for key, value in point.items() if not key.startswith("train.")}
    return from_dict(plain | ({"train": recipe} if recipe else {})).resolved()


def nested(settings_: dict[str, Any]) -> dict[str, Any]:
    """As TOML writes ``train.epochs = …``."""
    found: dict[str, Any] = {}
    for key, value in settings_.items():
        table, dot, name = key.partition(".")
        (found.setdefault(table, {}) if dot else found)[name or table] = value
    return found


def together(grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The recipe's keys last and side by side, as they are wherever they have a table of their own."""
    return dict(sorted(grid.items(), key=lambda item: "." in item[0]))


grids = st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries(
        {key: st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=3) for key in keys}
    ).map(together)
)


@settings(deadline=None, max_examples=60)
@given(grid=grids, cut=st.integers(0, 4), toml=st.booleans())
def test_the_cells_are_the_product(grid: dict[str, list[Any]], cut: int, toml: bool) -> None:
    """Some of the keys in [grid], the others, cut to one length, in a [[zip]]."""
    keys = list(grid)
    product, zipped = keys[:cut], keys[cut:]
    n = min((len(grid[key]) for key in zipped), default=0)
    tables: dict[str, Any] = {"run": dict(BASE), "grid": nested({key: grid[key] for key in product})}
    if zipped:
        tables["zip"] = [nested({key: grid[key][:n] for key in zipped})]
    if toml:
        tables = tomllib.loads(tomli_w.dumps(tables))
    rows = [dict(zip(zipped, row, strict=True)) for row in zip(*(grid[key][:n] for key in zipped), strict=True)] or [{}]
    points = [
        BASE | dict(zip(product, row, strict=True)) | more
        for row in itertools.product(*(grid[key] for key in product))
        for more in rows
    ]
    assert len(points) == math.prod(len(grid[key]) for key in product) * max(n, 1)
    wanted = list(dict.fromkeys(spec_of(point) for point in points))
    found = cells_of(tables)
    assert [cell.spec for cell in found.cells] == wanted
    assert all(cell.key == key_of(cell.spec) and len(cell.key) == 16 for cell in found.cells)
    double = len(points) - len(found.cells)
    said = f"{double} of {len(points)} cells are the same as others, once defaults are filled in"
    assert found.notes == ([said] if double else [])


@settings(deadline=None, max_examples=40)
@given(grid=grids, data=st.data())
def test_what_is_excluded_is_absent_and_nothing_else(grid: dict[str, list[Any]], data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(list(grid)), min_size=1, max_size=2, unique=True))
    exclude = {key: data.draw(st.sampled_from(grid[key])) for key in keys}
    points = [BASE | dict(zip(grid, row, strict=True)) for row in itertools.product(*grid.values())]

    def plain(key: str, value: Any) -> Any:
        if key == "eps" and value == "8/255":
            return 8 / 255
        return [value] if key == "layer" and isinstance(value, str) else value

    kept = [p for p in points if any(plain(key, p[key]) != plain(key, value) for key, value in exclude.items())]
    # A list stands for any of its values; a list of names is one in a list.
    said = {key: [value] if isinstance(value, list) else value for key, value in exclude.items()}
    tables = {"run": BASE, "grid": nested(grid), "exclude": [nested(said)]}
    if not kept:
        with pytest.raises(SpecError, match=r"has no cells: \[\[exclude\]\] leaves none"):
            cells_of(tables)
        return
    assert [cell.spec for cell in cells_of(tables).cells] == list(dict.fromkeys(map(spec_of, kept)))


def test_keys_are_the_same_in_every_process_and_for_every_order(tmp_path: Path) -> None:
    run = BASE | {"eps": 0.1, "steps": 5}
    grid: dict[str, list[Any]] = {"seed": [0, 1, 2], "dtype": ["float32", "float64"]}
    keys = {cell.key for cell in cells_of({"run": run, "grid": grid}).cells}
    rng = random.Random(0)
    for i in range(5):
        shuffled = {
            "grid": {k: rng.sample(grid[k], len(grid[k])) for k in rng.sample(list(grid), 2)},
            "run": {k: run[k] for k in rng.sample(list(run), len(run))},
        }
        (tmp_path / f"{i}.toml").write_text(tomli_w.dumps(shuffled))
    code = (
        "import sys, json; from flatlens.sweeps.grid import read; "
        "print(json.dumps([c.key for c in read(sys.argv[1]).cells]))"
    )
    for i, seed in enumerate("05"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"{i}.toml")],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        assert set(json.loads(done.stdout)) == keys
    for i in range(5):
        assert {cell.key for cell in read(tmp_path / f"{i}.toml").cells} == keys


def test_what_does_not_change_the_numbers_is_no_cell_of_its_own() -> None:
    found = cells_of({"run": BASE, "grid": {"images": ["none", "key"], "seed": [0, 1]}})
    assert len(found.cells) == 2
    assert found.notes == ["2 of 4 cells are the same as others, once defaults are filled in"]
    same = cells_of({"run": BASE | {"attack": "pgd"}, "grid": {"eps": [8 / 255, "8/255"], "steps": [40]}})
    assert len(same.cells) == 1


def test_recipes_and_the_tables_of_an_attack() -> None:
    tables = {
        "run": BASE | {"attack": {"name": "pgd", "eps": 0.1}, "train": {"epochs": 3}},
        "grid": {"train": {"adversarial": ["none", "pgd"]}, "seed": [0]},
    }
    plain, robust = (cell.spec for cell in cells_of(tables).cells)
    assert (plain.attack, plain.eps) == ("pgd", 0.1)
    assert plain.train and robust.train
    assert (plain.train.adversarial, robust.train.adversarial) == (None, "pgd")
    assert (robust.train.epochs, robust.train.data) == (3, "flatlens:digits")
    attacks = cells_of({"run": BASE, "grid": {"attack": ["fgsm", {"name": "pgd", "steps": 5}]}}).cells
    assert [(cell.spec.attack, cell.spec.steps) for cell in attacks] == [("fgsm", 1), ("pgd", 5)]


def test_an_exclude_that_fits_nothing_is_told_and_defaults_count() -> None:
    tables = {"run": BASE, "grid": {"seed": [0, 1]}}
    found = cells_of(tables | {"exclude": [{"seed": 7}]})
    assert len(found.cells) == 2 and found.notes == ["[[exclude]] seed 7 leaves out no cell"]
    found = cells_of(tables | {"exclude": [{"seed": [1, 7], "norm": "linf"}]})
    assert [cell.spec.seed for cell in found.cells] == [0] and found.notes == []
    found = cells_of({"run": BASE, "grid": {"control": [[], ["all"]]}, "exclude": [{"control": []}]})
    assert [bool(cell.spec.control) for cell in found.cells] == [True] and found.notes == []


def test_labels_name_what_varies() -> None:
    specs = [cell.spec.to_dict() for cell in cells_of({"run": BASE, "grid": {"eps": [0.1, 0.2], "seed": [0]}}).cells]
    assert varying(specs) == ["eps"]  # the step size follows from it
    assert [label(spec, varying(specs)) for spec in specs] == ["eps 0.1", "eps 0.2"]
    assert label(specs[0], []) == "the one cell"
    assert label({"control": []}, ["control"]) == "control –"
    assert label({"eps": float("nan")}, ["eps"]) == "eps nan"
    assert (shown(None), shown(["a", "b"]), shown(1 / 3)) == ("none", "a b", "0.333333")
    assert flat({"train": {"epochs": 3}, "seed": 1}) == {"seed": 1, "train.epochs": 3, "train.defence": "standard"}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"grids": {}}, "no table 'grids'; a sweep file has: run, grid, zip, exclude. Did you mean 'grid'?"),
        ({"run": 3}, r"run = 3: needs a table, for example \[run\]"),
        ({"grid": []}, "needs a table"),
        ({"zip": {"seed": [1]}}, r"'zip' needs tables of its own: write \[\[zip\]\]"),
        ({"zip": [3]}, "needs tables of its own"),
        ({"exclude": 3}, "needs tables of its own"),
        ({"exclude": [{}]}, r"\[\[exclude\]\] without keys would leave out every cell"),
        ({"exclude": [{"sed": 1}]}, "no setting 'sed'.*Did you mean 'seed'"),
        ({"exclude": [{"seed": "x"}]}, "--seed 'x': needs a whole number"),
        ({"grid": {"seed": 3}}, r"\[grid\] seed = 3: needs a list of values, for example seed = \[3\]"),
        ({"grid": {"seed": []}}, r"\[grid\] seed = \[\]: needs a list of values, at least one; or leave seed out"),
        ({"exclude": [{"seed": []}]}, r"--seed \[\]: needs a whole number"),
        ({"grid": {"control": [[]], "seed": [-1]}}, r"at least 0 \(in the cell control –, seed -1\)"),
        ({"grid": {"train": {"epochs": 3}}}, r"\[grid\] train.epochs = 3: needs a list"),
        ({"grid": {"train": {"epoch": [3]}}}, r"no setting 'epoch'; \[train\] has"),
        ({"grid": {"foo.epochs": [3]}}, "no setting 'foo.epochs'"),
        ({"grid": {"attack.eps": [3]}}, "no setting 'attack.eps'"),
        ({"grid": {"attack": {"eps": [3]}}}, r"\[grid\] attack = .*: needs a list"),
        ({"grid": {"__class__": [1]}}, "no setting '__class__'"),
        ({"grid": {"train.__class__": [1]}}, "no setting '__class__'"),
        ({"run": BASE | {"__class__": 1}}, "no setting '__class__'"),
        ({"run": BASE | {"to_dict": 1}}, "no setting 'to_dict'"),
        ({"grid": {"": [1]}}, "no setting ''"),
        ({"grid": {"seed": [0]}, "zip": [{"seed": [1]}]}, "'seed' varies twice"),
        ({"grid": {"eps": [0.1], "attack": ["pgd", {"name": "bim", "eps": 0.2}]}}, "'eps' varies twice"),
        ({"grid": {"train.epochs": [1], "train": [{"lr": 0.1}, {"epochs": 2}]}}, "'train.epochs' varies twice"),
        ({"zip": [{"seed": [0, 1], "eps": [0.1]}]}, r"lists of a \[\[zip\]\] differ in length: seed 2, eps 1"),
        ({"grid": {"seed": [0, "x"]}}, r"--seed 'x': needs a whole number \(in the cell seed x\)"),
        ({"grid": {"seed": [True]}}, "--seed True: needs a whole number"),
        ({"grid": {"seed": [-1]}}, "--seed -1: needs a whole number of at least 0"),
        ({"grid": {"eps": [math.nan]}}, "--eps nan: needs a number above 0"),
        ({"grid": {"model": [3]}}, "--model 3: needs text"),
        ({"grid": {"norm": ["l2"]}}, r"--eps must be given for l2.*\(in the cell norm l2\)"),
        ({"grid": {"train": [3]}}, "train = 3: needs a table"),
        ({"run": BASE | {"train": 3}}, "train = 3: needs a table"),
        ({"run": {"data": "flatlens:digits"}},
         r"--model is missing; `flatlens models` lists .*; 'sweep' needs it in \[run\], or a list of them in \[grid\]"),
        ({"grid": {"seed": list(range(1000)), "limit": list(range(1, 1001)), "steps": list(range(1, 1001))}},
         "has 1,000,000,000 cells; a sweep has at most 100,000: split the file"),
    ],
)  # fmt: skip
def test_what_is_no_sweep_is_told_in_one_line(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        cells_of({"run": BASE} | tables)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
names = st.sampled_from(["model", "data", "seed", "attack", "eps", "train", "layer", "trust_pickle", "train.epochs"])


@settings(deadline=None, max_examples=300)
@given(
    tables=st.dictionaries(
        st.sampled_from(["run", "grid", "zip", "exclude"]),
        st.dictionaries(names, anything, max_size=4)
        | st.lists(st.dictionaries(names, anything, max_size=3), max_size=2),
    )
)
def test_whatever_is_in_the_tables_is_cells_or_one_error(tables: dict[str, Any]) -> None:
    run = BASE | tables["run"] if isinstance(tables.get("run"), dict) else BASE
    with contextlib.suppress(SpecError):
        assert cells_of(tables | {"run": run}).cells


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = " + b"[" * 50_000, "is not TOML|within each other"),
        (b"a" + b".a" * 2_000 + b" = 1", "no table|is not TOML|within each other"),
        (b"[run]\nseed = \xff", "is not TOML: .*; save it as UTF-8"),
        (b"[run]\nseed = 1\nseed = 2", "is not TOML"),
        (b"\x00", "is not TOML"),
        (b"", "--model is missing"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "s.toml").write_bytes(content)
    with pytest.raises(SpecError, match=message):
        read(tmp_path / "s.toml")
    for file in (tmp_path, tmp_path / "nothing.toml"):
        with pytest.raises(SpecError, match="cannot read"):
            read(file)


def test_a_mark_at_the_beginning_is_none_of_the_file(tmp_path: Path) -> None:
    text = tomli_w.dumps({"run": BASE})
    (tmp_path / "s.toml").write_text(text, encoding="utf-8-sig")
    found = read(tmp_path / "s.toml")
    assert len(found.cells) == 1 and found.text == text
