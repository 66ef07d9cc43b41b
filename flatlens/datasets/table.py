"""``table:FILE?target=COLUMN``: a CSV or Parquet file, a row a sample, whose target may be any number."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flatlens.errors import DataError, one_line, unknown
from flatlens.files.archives import check
from flatlens.specs import uris
from flatlens.specs.uris import Uri

Floats = NDArray[np.float64]


class Regression(NamedTuple):
    """Features and a target to be predicted.

    Attributes:
        x: features ``[n, d]``, float64, in the file's units.
        y: the target ``[n]``, float64.
        names: of the features, ``d`` of them.
        target: the target's name.
    """

    x: Floats
    y: Floats
    names: tuple[str, ...]
    target: str


def regression(uri: str) -> Regression:
    """The features and the target in a CSV or Parquet file.

    Numbers are taken as they are and an empty one as its column's median; of text, each value becomes its place among
    the column's values in alphabetical order, from 0 on, empty being a value of its own, the first.

    Args:
        uri: ``table:FILE?target=COLUMN``; ``&without=A,B`` leaves columns out.

    Raises:
        DataError: a file or column that is missing, damaged, empty, or of a type that is neither number nor text.
    """
    return read(uris.parse(uri, DataError))


def read(uri: Uri) -> Regression:
    """The same, of a name that is already taken apart."""
    if uri.scheme != "table":
        raise DataError(f"'{uri.text}' is no table; write table:FILE.csv?target=COLUMN")
    uri.only(["target", "without"])
    table = _table(uri.file, uri.path)
    names = table.column_names
    if (target := uri.options.get("target")) is None:
        shown = ", ".join(names[:24])
        raise DataError(f"'{uri.text}' has no target; it has the columns {shown}; add ?target=COLUMN")
    left_out = [name for name in uri.options.get("without", "").split(",") if name]
    for name in (target, *left_out):
        if name not in names:
            raise DataError(unknown("column", name, names, where=f"'{uri.path}' has"))
    if len(table) == 0:
        raise DataError(f"'{uri.text}' is empty; at least one row is needed")
    x, kept = encoded(table.drop_columns(sorted({target, *left_out})), uri.path)
    return Regression(x, _target(table[target], target, uri.path), kept, target)


def encoded(table: pa.Table, file: str) -> tuple[Floats, tuple[str, ...]]:
    """A table's columns as numbers ``[n, d]``, as `regression` has them, and their names.

    Args:
        table: of numbers, booleans and text.
        file: where it is from, for messages.

    Raises:
        DataError: it has no columns, or one that is empty, infinite, or of another type.
    """
    if not table.num_columns:
        raise DataError(f"'{file}' has no columns beside the target; at least one feature is needed")
    columns = [_numbers(table[name], name, file) for name in table.column_names]
    return np.column_stack(columns), tuple(table.column_names)


def _table(file: Path, shown: str) -> pa.Table:
    if not shown or not file.is_file():
        what = "is a folder; name a file in it" if shown and file.is_dir() else "is not there"
        raise DataError(f"file '{shown}' {what}; table:FILE needs a CSV or Parquet file")
    check(file, DataError)
    try:
        found = pq.read_table(file, partitioning=None) if file.suffix == ".parquet" else pyarrow.csv.read_csv(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"'{shown}' is no CSV or Parquet file, or is damaged or cut off ({one_line(error)}); copy it again"
        ) from error
    twice = sorted({name for name in found.column_names if found.column_names.count(name) > 1})
    if twice:
        raise DataError(f"'{shown}' has the column '{twice[0]}' more than once; rename one")
    return found


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(column: pa.ChunkedArray, name: str, file: str) -> Floats:
    column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        values = column.to_pylist()
        # Sorted in Python, by code points: the same on every machine.
        place = {value: at for at, value in enumerate(sorted({v or "" for v in values}))}
        return np.array([place[value or ""] for value in values], dtype=np.float64)
    if not _is_number(column.type):
        raise DataError(f"column '{name}' of '{file}' is {column.type}; needs numbers or text, or ?without={name}")
    found = _floats(column)
    if np.isinf(found).any():
        raise DataError(f"column '{name}' of '{file}' holds infinite values; remove these rows, or ?without={name}")
    empty = np.isnan(found)
    if empty.all():
        raise DataError(f"column '{name}' of '{file}' is empty; leave it out: ?without={name}")
    return np.where(empty, np.median(found[~empty]), found)


def _target(column: pa.ChunkedArray, name: str, file: str) -> Floats:
    if not _is_number(column.type):
        raise DataError(f"the target column '{name}' of '{file}' is {column.type}; a target needs to be a number")
    found = _floats(column.combine_chunks())
    if bad := int((~np.isfinite(found)).sum()):
        raise DataError(f"the target column '{name}' of '{file}' is empty or not finite in {bad} rows; remove them")
    return found


def _floats(column: pa.Array) -> Floats:
    """NaN where the column is empty."""
    wide = pc.cast(column, pa.float64(), safe=False) if not pa.types.is_boolean(column.type) else column.cast("int8")
    return np.asarray(wide.to_numpy(zero_copy_only=False), dtype=np.float64)
