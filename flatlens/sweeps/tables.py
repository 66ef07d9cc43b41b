"""A sweep's tables over all its finished cells, in Arrow.

``cells`` has a row per cell, path and layer, and comes from manifests and digests alone; ``steps`` and ``layers`` are
the runs' tables with the cell's key in front.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.errors import RunError
from flatlens.files.atomic import disk, replacing
from flatlens.files.borders import DamageError
from flatlens.records import runs, worst_case
from flatlens.records.digest import ADDED
from flatlens.records.schema import LAYERS, STEPS
from flatlens.records.stored import KEY as KEY
from flatlens.records.stored import fitting as fitting
from flatlens.records.stored import pieces
from flatlens.records.valley import Fraction, Median, Summary
from flatlens.specs.run import SUBTABLES, RunSpec
from flatlens.specs.values import shown
from flatlens.specs.wording import IMMUNIZE, flat
from flatlens.sweeps import finished
from flatlens.sweeps.folder import Sweep
from flatlens.sweeps.opening import damaged

RUN_TABLES = {"steps": STEPS, "layers": LAYERS}
CELL = pa.field("cell", pa.dictionary(pa.int32(), pa.string()))
LAYER_SETTING = "layers"
"""The column of the setting ``layer``, which may name several; ``layer`` is the one that a row is of."""
_AT_ONCE = 500
"""Cells whose figures are held as Python's objects at the same time."""


def cells(sweep: Sweep) -> pa.Table:
    """A row per finished cell, path and layer: its settings, and what became of its samples.

    Columns are those of `CELLS`: every setting by its flag's name (``train.epochs`` of a recipe; a list as text;
    ``layers`` of what ``--layer`` named), the hashes of weights and data, seconds, accuracies, and the fields of
    `flatlens.records.valley.Summary`, each share and median with ``_low``, ``_high``, ``_n``; of a language model's
    head ``kappa_matched``, κ where the loss first falls to `flatlens.records.digest.MATCHED` nats. What is not known
    is null.

    Raises:
        RunError: a cell is damaged.
    """
    keys = finished.keys(sweep)
    found = [_figures(sweep, keys[i : i + _AT_ONCE]) for i in range(0, len(keys), _AT_ONCE)]
    return pa.concat_tables(found) if found else CELLS.empty_table()


def save(sweep: Sweep) -> Path:
    """Write the table of cells into the sweep's folder and return where it is.

    Raises:
        RunError: a cell is damaged.
        DiskError: the disk is full or not writable.
    """
    file, table = sweep.path / "cells.parquet", cells(sweep)
    with disk(sweep.path), replacing(file) as out:
        pq.write_table(table, out, write_page_checksum=True)
    return file


def joined(sweep: Sweep, name: str) -> pa.Table:
    """The tables ``steps`` or ``layers`` of all finished cells.

    Raises:
        RunError: a cell is damaged.
    """
    schema = RUN_TABLES[name]
    found = list(stream(sweep, name))
    return pa.concat_tables(found).unify_dictionaries() if found else schema.insert(0, CELL).empty_table()


def stream(sweep: Sweep, name: str) -> Iterator[pa.Table]:
    """The tables ``steps`` or ``layers`` of the finished cells, a part of a cell at a time.

    Yields:
        some rows of a cell, behind its key.

    Raises:
        RunError: a cell is damaged.
    """  # noqa: DOC501 (a function makes the error)
    for key in finished.keys(sweep):
        try:
            for part in parts(sweep.cell(key), name):
                yield part.add_column(0, CELL, constant(key, CELL.type, part.num_rows))
        except (DamageError, RunError) as error:
            raise damaged(
                sweep.cell(key), error.__cause__ or error if isinstance(error, RunError) else error
            ) from error


def parts(run: Path, name: str) -> Iterator[pa.Table]:
    """A run's table as it was measured, batch by batch.

    Yields:
        a batch of rows each.

    Raises:
        DamageError: it is not what was written, or no such table.
    """
    yield from pieces(run, name, runs.load(run).files)


def constant(value: Any, kind: pa.DataType, n: int) -> pa.Array:
    """A column of one value."""
    if not pa.types.is_dictionary(kind):
        return pa.repeat(pa.scalar(value, kind), n)
    places = pa.nulls(n, kind.index_type) if value is None else pa.repeat(pa.scalar(0, kind.index_type), n)
    return pa.DictionaryArray.from_arrays(places, pa.array([] if value is None else [value], kind.value_type))


# ---- settings ---------------------------------------------------------------------------------------


def setting(point: Mapping[str, Any], key: str) -> Any:
    """A setting as the value of a column: lists, and what may be either number or word, as text."""
    value = point.get(key)
    if isinstance(value, (list, tuple)):
        return _text(",".join(map(shown, value)) if key == "samples" else shown(value))
    return _text(str(value)) if value is not None and _SETTINGS[key] == pa.string() else value


def _text(value: str) -> str:
    """Text for a column, which is UTF-8; names of files may be none."""
    return value.encode("utf-8", "backslashreplace").decode()


def is_setting(key: str) -> bool:
    """Whether this flatlens knows a setting; a plan may be a later one's."""
    return key in _SETTINGS


def column(key: str) -> pa.Field:
    """The column of a setting."""
    return pa.field(LAYER_SETTING if key == "layer" else key, _SETTINGS[key])


def _types(of: type[Any], prefix: str = "") -> dict[str, pa.DataType]:
    """The settings that are a table's columns, with the types that Arrow has for them."""
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    hints = typing.get_type_hints(of)
    names = [field.name for field in fields(of) if field.name not in SUBTABLES]
    return {f"{prefix}{name}": plain.get(_without_none(hints[name]), pa.string()) for name in names}


def _without_none(hint: Any) -> Any:
    left = [one for one in typing.get_args(hint) if one is not types.NoneType]
    return left[0] if isinstance(hint, types.UnionType) and len(left) == 1 else hint


_SETTINGS = _types(RunSpec)
for _table, _of in SUBTABLES.items():
    _SETTINGS |= _types(_of, f"{_table}.")


# ---- figures ----------------------------------------------------------------------------------------


class _Figure(NamedTuple):
    """A column of the table of cells, and where it is in a row of a digest."""

    field: pa.Field
    name: str
    part: str | None = None


def _parts(name: str, of: type[Fraction] | type[Median], prefix: str = "") -> list[_Figure]:
    """The columns of a share or a median."""
    kinds = {"count": pa.int64(), "n": pa.int64()}
    columns = {part: prefix + (name if part == "value" else f"{name}_{part}") for part in of._fields}
    return [_Figure(pa.field(at, kinds.get(part, pa.float64())), name, part) for part, at in columns.items()]


def _summary() -> list[_Figure]:
    found = []
    for name, hint in typing.get_type_hints(Summary).items():
        if hint in (Fraction, Median):
            found += _parts(name, hint)
        else:
            found.append(_Figure(pa.field(name, pa.int64() if hint is int else pa.float64()), name))
    return found


_HASHES = ("weights_sha256", "data_sha256")
_ACCURACY = [*_parts("clean", Fraction, "accuracy_"), *_parts("attacked", Fraction, "accuracy_")]
_TRAINED = [
    *_parts("worst", Fraction, "train_"),
    *_parts("pgd", Fraction, "train_"),
    *_parts("loss_gap", Median, "train_"),
    *_parts("kappa", Median, "train_"),
    _Figure(pa.field("train_lipschitz", pa.float64()), "lipschitz"),
    _Figure(pa.field("train_masked", pa.bool_()), "masked"),
    _Figure(pa.field("train_step_seconds", pa.float64()), "step_seconds"),
]
"""Of what the record of a training by recipe tells; null of other models."""
_WORST_CASE = [*_parts("worst", Fraction), _Figure(pa.field("masked", pa.bool_()), "masked")]
"""Of the worst of several attacks on a cell's own samples; null where it was not asked for."""
_IMMUNIZED = [
    _Figure(pa.field(f"{IMMUNIZE}_{name}", pa.float64()), name)
    for name in ("i", "ii", "rir", "bound", "heldout_i", "heldout_ii", "heldout_rir", "harmful_left",
                 "harmful_left_before", "primary_left", "primary_left_before")
]  # fmt: skip
"""Of what an immunization reached; null of other models."""
_TEXTS = [_Figure(pa.field(name, pa.string()), name) for name in ("path", "layer", "measure", "method")]
_ROW = [*_TEXTS, _Figure(pa.field("exact", pa.bool_()), "exact"), *_summary(), *_parts("matched", Median, "kappa_")]
CELLS = pa.schema(
    [
        ("cell", pa.string()),
        *map(column, _SETTINGS),
        *((name, pa.string()) for name in _HASHES),
        ("seconds", pa.float64()),
        *(figure.field for figure in (*_ACCURACY, *_WORST_CASE, *_TRAINED, *_IMMUNIZED, *_ROW)),
    ]
)
"""The columns of the table of cells."""


def _figures(sweep: Sweep, keys: Sequence[str]) -> pa.Table:
    """The rows of some cells."""
    manifests, digests = zip(*(finished.figures(sweep, key) for key in keys), strict=True)
    try:
        points = [flat(sweep.plan[key]) for key in keys]
        about: list[list[Any]] = [list(keys)]
        about += [[setting(point, key) for point in points] for key in _SETTINGS]
        about += [[found.get(name) for found in manifests] for name in (*_HASHES, "seconds")]
        about += [[_at(found["accuracy"], figure) for found in digests] for figure in _ACCURACY]
        about += [[_told(worst_case.told(found), figure) for found in manifests] for figure in _WORST_CASE]
        about += [[_told(found.get("trained"), figure) for found in manifests] for figure in _TRAINED]
        about += [[_told(found.get("immunized"), figure) for found in manifests] for figure in _IMMUNIZED]
        rows = [(i, row) for i, found in enumerate(digests) for row in found["rows"]]
        figures = [[_at(row, figure) for _, row in rows] for figure in _ROW]
        fields = list(CELLS)
        alike = pa.table([_array(*pair) for pair in zip(about, fields, strict=False)], names=CELLS.names[: len(about)])
        own = [_array(*pair) for pair in zip(figures, fields[len(about) :], strict=True)]
        return pa.table([*alike.take(pa.array([i for i, _ in rows], pa.int64())).columns, *own], schema=CELLS)
    except (pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
        if len(keys) == 1:
            lacking = isinstance(error, KeyError)
            what = DamageError(f"its digest has no '{error.args[0]}'") if lacking else error
            raise damaged(sweep.cell(keys[0]), what) from error
    # Each by itself, to find the one that it is about.
    return pa.concat_tables([_figures(sweep, [key]) for key in keys])


def _at(row: Mapping[str, Any], figure: _Figure) -> Any:
    found = row.get(figure.name) if figure.name in ADDED else row[figure.name]
    return found if figure.part is None or found is None else found[figure.part]


def _told(trained: Mapping[str, Any] | None, figure: _Figure) -> Any:
    found = None if trained is None else trained.get(figure.name)
    if figure.part is None or found is None:
        return found
    if figure.part != "count":
        return found.get(figure.part)
    # A share in a record has no count, which follows from it; one of no samples is null.
    return round(found["value"] * found["n"]) if isinstance(found["value"], (int, float)) else None


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    # In JSON an infinity is text.
    if field.type == pa.float64() and any(isinstance(value, str) for value in values):
        values = [float(value) if isinstance(value, str) else value for value in values]
    return pa.array(values, field.type)
