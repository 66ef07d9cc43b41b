"""A sweep file, and the cells that it amounts to: what all runs share, what varies, what is left out (no torch).

A file from somebody else runs no code by being read, nor by being run, unless a flag allows it. For example::

    [run]                                # keys of a run's spec.toml; [run.train], [run.immunize] are tables
    data = "flatlens:digits"
    [grid]                               # the product of these lists
    model = ["flatlens:cnn", "flatlens:mlp"]
    train.adversarial = ["none", "pgd"]
    [[zip]]                              # keys that move together; name is what a cell is called, and nothing else
    norm = ["linf", "l2"]
    eps = [0.3, 2.0]
    name = ["small", "round"]
    [[exclude]]                          # cells to leave out: all of its keys fit
    model = "flatlens:mlp"
    norm = "l2"
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from flatlens.errors import SpecError, unknown
from flatlens.records.schema import MEASUREMENT_VERSION
from flatlens.specs.run import KEYS, NEEDED, SUBTABLES, RunSpec, coerce, from_dict
from flatlens.specs.spelling import ALIASES, settings_of
from flatlens.specs.toml import parse_toml, read_text
from flatlens.specs.trust import NAMES_CODE, TRUST, demand_code, without_trust
from flatlens.specs.values import missing
from flatlens.specs.wording import text

TABLES = ("run", "grid", "zip", "exclude")
MOST = 100_000
"""Cells of a sweep."""


class Cell(NamedTuple):
    """One run of a sweep.

    Attributes:
        key: 16 hex digits of the hash of the resolved spec and the measurement version.
        spec: the run, resolved.
    """

    key: str
    spec: RunSpec


class Grid(NamedTuple):
    """The cells of a sweep file in its order, what a reader of it should know, and the file's own text."""

    cells: list[Cell]
    notes: list[str]
    text: str = ""


Point = dict[str, Any]
"""Settings by flat key: ``eps``, ``train.epochs``."""


def read(file: str | Path, **trust: bool) -> Grid:
    """The cells of a sweep file.

    Args:
        file: a TOML file.
        trust: what the user has said may run code: ``trust_pickle``, ``trust_remote_code``, ``trust_code``.

    Raises:
        SpecError: the file is no sweep, a cell of it cannot be, or it asks for code to run without permission.
    """
    text = read_text(file)
    return cells_of(parse_toml(text, file), name=str(file), **trust)._replace(text=text)


def cells_of(tables: Mapping[str, Any], *, name: str = "sweep", **trust: bool) -> Grid:
    """The cells of a sweep file's tables; ``name`` is the file's, for messages. See `read`."""
    for key in tables:
        if key not in TABLES:
            raise SpecError(f"{unknown('table', key, TABLES, where='a sweep file has')} (in '{name}')")
    shared = _flat(_table(tables, "run"))
    axes = [*_grid(_table(tables, "grid")), *_zips(tables.get("zip", []))]
    once: set[str] = set()
    for key in itertools.chain.from_iterable(dict.fromkeys(itertools.chain.from_iterable(axis)) for axis in axes):
        if key in once:
            raise SpecError(f"'{key}' varies twice in '{name}'; name it in [grid] or in one [[zip]]")
        once.add(key)
    for key in NEEDED:
        if key not in shared and key not in once:
            raise SpecError(f"{missing(key)}; '{name}' needs it in [run], or a list of them in [grid]")
    for settings in [shared, *(part for axis in axes for part in axis)]:
        without_trust(settings, trust, name)
    count = math.prod(len(axis) for axis in axes)
    if count > MOST:
        raise SpecError(f"'{name}' has {count:,} cells; a sweep has at most {MOST:,}: split the file")
    excludes = [_Exclude(table) for table in _tables(tables.get("exclude", []), "exclude")]
    found: dict[str, Cell] = {}
    kept = 0
    for parts in itertools.product(*axes):
        point: Point = dict(shared)
        for part in parts:
            point |= part
        fitting = [exclude.fits(point) for exclude in excludes]
        if any(fitting):
            continue
        kept += 1
        cell = _cell(point, {key: value for part in parts for key, value in part.items()}, trust)
        found.setdefault(cell.key, cell)
    if not found:
        raise SpecError(f"'{name}' has no cells: [[exclude]] leaves none")
    notes = [f"[[exclude]] {exclude.text} leaves out no cell" for exclude in excludes if not exclude.used]
    if kept > len(found):
        notes.append(f"{kept - len(found)} of {kept} cells are the same as others, once defaults are filled in")
    named = ((key, getattr(cell.spec, key)) for cell in found.values() for key in NAMES_CODE)
    demand_code(named, trust, name)
    return Grid(list(found.values()), notes)


def key_of(spec: RunSpec) -> str:
    """The name of a cell: its resolved spec and the measurement version, hashed."""
    return hashlib.sha256(f"{spec.hash()} {MEASUREMENT_VERSION}".encode()).hexdigest()[:16]


def _cell(point: Point, varied: Point, trust: Mapping[str, bool]) -> Cell:
    values = {key: value for key, value in point.items() if "." not in key and key not in TRUST}
    for table in SUBTABLES:
        own = {key.partition(".")[2]: value for key, value in point.items() if key.partition(".")[0] == table}
        own = {name: value for name, value in own.items() if name}
        if own:
            values[table] = own
    leave: dict[str, Any] = {key: bool(trust.get(key)) for key in TRUST}
    try:
        spec = replace(from_dict(values), **leave).resolved()
    except SpecError as error:
        which = ", ".join(f"{key} {text(key, value)}" for key, value in varied.items())
        raise SpecError(f"{error} (in the cell {which})" if which else str(error)) from error
    return Cell(key_of(spec), spec)


def _flat(table: Mapping[str, Any]) -> Point:
    """A table of settings by flat key: ``eps`` for ``attack.eps``, ``train.epochs``."""
    found = settings_of(table)
    for key in SUBTABLES:
        if isinstance(own := found.get(key), Mapping):
            del found[key]
            found |= {f"{key}.{name}": item for name, item in own.items()}
    for key in found:
        _known(key)
    return found


def _known(key: str) -> None:
    table, dot, name = key.rpartition(".")
    known = getattr(SUBTABLES.get(table), "__dataclass_fields__", {})
    if table in SUBTABLES and name not in known:
        raise SpecError(unknown("setting", name, known, where=f"[{table}] has"))
    if table not in SUBTABLES and (dot or key not in KEYS):
        raise SpecError(unknown("setting", key, KEYS, where="a run has"))


def _grid(table: Mapping[str, Any]) -> Iterator[list[Point]]:
    for key, values in _lists(table, "[grid]"):
        yield [_flat({key: value}) if "." not in key else {key: value} for value in values]


def _zips(tables: Any) -> Iterator[list[Point]]:
    for table in _tables(tables, "zip"):
        lists = list(_lists(table, "[[zip]]"))
        lengths = {key: len(values) for key, values in lists}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{key} {n}" for key, n in lengths.items())
            raise SpecError(f"the lists of a [[zip]] differ in length: {said}; give each as many values")
        axis: list[Point] = [{} for _ in lists[0][1]] if lists else []
        for key, values in lists:
            for point, value in zip(axis, values, strict=True):
                point |= _flat({key: value}) if "." not in key else {key: value}
        if axis:
            yield axis


def _lists(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, list[Any]]]:
    """The lists of an axis by flat key; ``train.epochs = […]`` is a table within the table to TOML."""
    for key, values in table.items():
        nested = values.items() if key in SUBTABLES and isinstance(values, Mapping) else None
        for name, items in (
            [(ALIASES.get(key, key), values)] if nested is None else [(f"{key}.{k}", v) for k, v in nested]
        ):
            _known(name)
            if items == []:
                raise SpecError(f"{where} {name} = []: needs a list of values, at least one; or leave {name} out")
            if not isinstance(items, list):
                raise SpecError(f"{where} {name} = {items!r}: needs a list of values, for example {name} = [{items!r}]")
            yield name, items


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tables.get(name, {})
    if not isinstance(found, Mapping):
        raise SpecError(f"{name} = {found!r}: needs a table, for example [{name}]")
    return found


def _tables(found: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(table, Mapping) for table in found):
        raise SpecError(f"'{name}' needs tables of its own: write [[{name}]]")
    return found


class _Exclude:
    """What is left out: a value, or one of a list of values, for each key."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.wanted = {
            key: [_plain(key, item) for item in (value if isinstance(value, list) and value else [value])]
            for key, value in _flat(table).items()
        }
        self.text = ", ".join(f"{key} {text(key, values)}" for key, values in self.wanted.items())
        self.used = False
        if not self.wanted:
            raise SpecError("an [[exclude]] without keys would leave out every cell; name what it is to leave out")

    def fits(self, point: Point) -> bool:
        fits = all(_plain(key, point.get(key, _default(key))) in values for key, values in self.wanted.items())
        self.used = self.used or fits
        return fits


def _plain(key: str, value: Any) -> Any:
    """A value in its one form, so that 0.1 and "1/10", or "head" and ["head"], are the same."""
    table, _, name = key.rpartition(".")
    if table == "immunize" and name == "method":
        return value  # none, too, is a value there: it stands for no immunization
    return coerce(name, value, SUBTABLES[table] if table else RunSpec)


def _default(key: str) -> Any:
    table, _, name = key.rpartition(".")
    return getattr(SUBTABLES[table] if table else RunSpec, name, None)
