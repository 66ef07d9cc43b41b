"""Tables and images of a run's folder, read as if a stranger had written them: columns, sizes and bits are checked.

No torch. What is wrong is a `flatlens.files.borders.DamageError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from flatlens.errors import one_line
from flatlens.files.borders import DamageError, plain_file
from flatlens.files.sealing import file_sha256
from flatlens.records import surfaces as planes
from flatlens.records.schema import (
    ATTACK,
    CONDITION,
    PEERS,
    SPECTRUM,
    TABLES,
    TEXT_TABLES,
    Embeddings,
    Gradients,
    Images,
)
from flatlens.records.surfaces import Surfaces

SCHEMAS = {
    **{name: table.schema for name, table in (TABLES | TEXT_TABLES).items()},
    "spectrum": SPECTRUM,
    "peers": PEERS,
    "condition": CONDITION,
}
KEY = ("path", "restart", "sample", "step", "kind")
"""What a row of ``steps`` is of; a row of ``layers`` is of a layer, too."""
NEVER_NULL = {
    "steps": (*KEY, "flipped"),
    "layers": (*KEY, "layer"),
    "positions": (*KEY, "position", "token"),
    "tokens": (*KEY, "slot", "token"),
    "spectrum": ("at",),
    "peers": ("sample", "at", "step", "layer"),
    "condition": ("path", "restart", "step", "n"),
}
_SPARE, _A_BYTE = 200_000, 50
"""Rows that a table may always have, and how many more for each of its bytes: real ones take several bytes each."""
MOST_PLACES = 20_000_000
"""Samples × steps of a table whose rows are far fewer: each column of it is laid out as such a matrix."""
LONGEST_NAME = 10_000


def verify(path: Path, files: Mapping[str, str] | None) -> Path:
    """The path of a run's file, which must have the hash in the manifest; manifests of early runs have no hashes.

    Raises:
        DamageError: it is not what was written, or no plain file.
        FileNotFoundError: it is not there.
    """
    plain_file(path)
    if files is not None and files.get(path.name) != file_sha256(path):
        said = "is not what was written: its SHA-256 differs" if path.name in files else "is not of this run"
        raise DamageError(f"{path.name} {said}")
    return path


def table(folder: Path, name: str, files: Mapping[str, str] | None = None, prefix: str = "") -> pa.Table:
    """The table ``steps``, ``layers``, ``spectrum`` or ``peers`` of a run's folder. See `pieces`."""
    schema = SCHEMAS[name]
    found = list(pieces(folder, name, files, prefix))
    return pa.concat_tables(found) if found else schema.empty_table()


def table_file(folder: Path, name: str, files: Mapping[str, str] | None = None) -> Path:
    """A table's file, whose size fits its rows; nothing of it is read. See `pieces`."""
    path = verify(folder / f"{name}.parquet", files)
    try:
        opened(path).close()
    except (OSError, pa.ArrowException, OverflowError, ValueError) as error:
        if isinstance(error, DamageError):
            raise
        raise DamageError(f"{path.name}: {_what(error)}") from error
    return path


def pieces(folder: Path, name: str, files: Mapping[str, str] | None = None, prefix: str = "") -> Iterator[pa.Table]:
    """A table as it was measured, batch by batch; columns that flatlens did not know then are null.

    The file's name begins with ``prefix``: a finished batch of an unfinished run has its number there.

    Yields:
        a batch of rows each.

    Raises:
        DamageError: it is damaged, or no such table.
    """  # noqa: DOC501 (no other error leaves it)
    path = folder / f"{prefix}{name}.parquet"
    try:
        with opened(verify(path, files)) as file:
            for i in range(file.num_row_groups):
                yield fitting(file.read_row_group(i), SCHEMAS[name], name)
    except (OSError, pa.ArrowException, OverflowError, ValueError) as error:
        if isinstance(error, DamageError):
            raise
        raise DamageError(f"{path.name}: {_what(error)}") from error


def opened(path: Path) -> pq.ParquetFile:
    """A Parquet file, opened: its rows are in proportion to its size; a text that is repeated is read once."""
    size = path.stat().st_size
    file = pq.ParquetFile(path, page_checksum_verification=True)
    try:
        known = file.metadata
        if known.num_rows > _SPARE + _A_BYTE * size:
            raise DamageError(f"{path.name} has {size:,} bytes and would be {known.num_rows:,} rows")
        columns = (known.schema.column(i) for i in range(known.num_columns))
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    except BaseException:
        file.close()
        raise
    file.close()
    return pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts)


def fitting(part: pa.Table, schema: pa.Schema, name: str = "") -> pa.Table:
    """A table with this schema's columns; those that flatlens did not measure when it was made are null.

    Raises:
        pyarrow.ArrowInvalid: columns are of other types, or the keys are missing.
    """
    for field in schema:
        if field.name not in part.column_names:
            if field.name in NEVER_NULL.get(name, KEY):
                raise pa.ArrowInvalid(f"there is no column '{field.name}'")
            part = part.append_column(field, pa.nulls(part.num_rows, field.type))
    part = part.select(schema.names)
    for column in part.columns:
        if pa.types.is_dictionary(column.type):
            _check_names(column)
    part = part.cast(schema)
    for required in NEVER_NULL.get(name, ()):
        if part[required].null_count:
            raise pa.ArrowInvalid(f"column '{required}' has rows without a value")
    return part


def _check_names(column: pa.ChunkedArray) -> None:
    for chunk in column.chunks:
        longest = pc.max(pc.binary_length(chunk.dictionary)).as_py()
        if longest is not None and longest > LONGEST_NAME:
            raise pa.ArrowInvalid(f"it holds a name of {longest:,} bytes")


def check_points(steps: Any, layers: Any) -> None:
    """Check that two tables are of the same points, and of no more samples and steps than they have rows for.

    Raises:
        DamageError: they are not.
    """
    if not steps.num_rows:
        return
    for name, rows in (("steps", steps), ("layers", layers)):
        for required in NEVER_NULL[name]:
            if rows[required].null_count:
                raise DamageError(f"column '{required}' of {name}.parquet has rows without a value")
    # A language model's rows have neither label nor prediction; one that has some of them is damaged.
    for name in ("label", "prediction"):
        if steps[name].null_count not in (0, steps.num_rows):
            raise DamageError(f"column '{name}' of steps.parquet has rows without a value")
    places(steps)
    if ATTACK not in pc.unique(_texts(steps, "path")).to_pylist():
        raise DamageError(f"steps.parquet has no path '{ATTACK}'")
    names = pc.unique(_texts(layers, "layer"))
    if layers.num_rows != steps.num_rows * len(names):
        raise DamageError(
            f"steps.parquet has {steps.num_rows:,} rows, layers.parquet {layers.num_rows:,} of {len(names):,} layers"
        )
    if layers.num_rows:
        places(layers)
        for name in names.to_pylist()[:1]:
            own = layers.filter(pc.equal(layers["layer"], name))
            if not all(_texts(own, key).equals(_texts(steps, key)) for key in KEY):
                raise DamageError("the rows of steps.parquet and layers.parquet are not of the same points")


def _texts(rows: Any, name: str) -> pa.ChunkedArray:
    """A column of a table, or of one that is read column by column, whose texts are dictionaries."""
    column = rows[name]
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def places(rows: Any) -> None:
    """Check that a table's samples × steps are in proportion to its rows.

    Raises:
        DamageError: they are not, or a number is below 0.
    """
    least = min(pc.min(rows[name]).as_py() for name in ("restart", "sample", "step"))
    if least < 0:
        raise DamageError("a sample, step or restart is below 0")
    size = pc.count_distinct(rows["sample"]).as_py() * (pc.max(rows["step"]).as_py() + 1)
    if size > max(MOST_PLACES, 20 * rows.num_rows):
        raise DamageError(f"{rows.num_rows:,} rows cannot be of {size:,} samples and steps")


def images(path: Path, files: Mapping[str, str] | None = None) -> Images:
    """The inputs that a run kept, by sample, then step.

    Raises:
        DamageError: the file is damaged.
        FileNotFoundError: it is not there.
    """
    return _by_sample(Images, path, files)


def image_file(path: Path, files: Mapping[str, str] | None = None) -> Path:
    """A file of inputs, which holds what flatlens writes; nothing of it is read. See `images`."""
    with _tensors(path, files, _INPUTS):
        return path


def gradients(path: Path, files: Mapping[str, str] | None = None) -> Gradients:
    """The gradients that a run kept, by sample, then step. See `images`."""
    return _by_sample(Gradients, path, files)


def embeddings(path: Path, files: Mapping[str, str] | None = None) -> Embeddings:
    """The slots that a run of a language model kept, by sample, then step. See `images`."""
    return _by_sample(Embeddings, path, files)


def gradient_file(path: Path, files: Mapping[str, str] | None = None) -> Path:
    """A file of gradients, which holds what flatlens writes; nothing of it is read. See `images`."""
    with _tensors(path, files, _GRADIENTS):
        return path


def surfaces(path: Path, files: Mapping[str, str] | None = None) -> Surfaces:
    """The surfaces of a run. See `images`."""
    with _reading(path, files) as stored:
        found = {name: stored.get_slice(name) for name in stored.keys() if name in planes.LAYOUT | planes.WEIGHT_LAYOUT}  # noqa: SIM118
        planes.check_shapes(found)
        tensors = {name: stored.get_tensor(name) for name in found}
    planes.check_values(tensors)
    return Surfaces(tensors)


_Kept = TypeVar("_Kept", Images, Gradients, Embeddings)


def _by_sample(made: type[_Kept], path: Path, files: Mapping[str, str] | None) -> _Kept:
    known = {Images: _INPUTS, Gradients: _GRADIENTS, Embeddings: _EMBEDDINGS}
    with _tensors(path, files, known[made]) as stored:
        found = {name: stored.get_tensor(name) for name in made._fields}
    order = np.lexsort((found["step"], found["sample"]))
    return made(**{name: found[name][order] for name in made._fields})


@contextlib.contextmanager
def _tensors(path: Path, files: Mapping[str, str] | None, known: Mapping[str, _Kind]) -> Iterator[Any]:
    with _reading(path, files) as stored:
        check_tensors({name: stored.get_slice(name) for name in stored.keys() if name in known}, known, path.name)  # noqa: SIM118
        yield stored


@contextlib.contextmanager
def _reading(path: Path, files: Mapping[str, str] | None) -> Iterator[Any]:
    try:
        with safe_open(verify(path, files), framework="numpy") as stored:
            yield stored
    except (SafetensorError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, DamageError):
            raise
        raise DamageError(f"{path.name}: {_what(error)}") from error


def as_tensors(kept: Images | Gradients | Embeddings | Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs, gradients or features as the arrays of a file."""
    plain = kept if isinstance(kept, Mapping) else kept._asdict()
    return {name: np.ascontiguousarray(values) for name, values in plain.items()}


class _Kind(NamedTuple):
    """What a tensor of a file may be: its types, and its dimensions; 0 = two or more."""

    types: tuple[str, ...]
    dimensions: int


_NUMBERS, _WHOLE = ("F16", "BF16", "F32", "F64"), ("I64", "I32")
_PLACES = {"sample": _Kind(_WHOLE, 1), "step": _Kind(_WHOLE, 1)}
_INPUTS = {"x": _Kind(_NUMBERS, 0), **_PLACES, "probabilities": _Kind(_NUMBERS, 2)}
_EMBEDDINGS = {"x": _Kind(("F32",), 3), **_PLACES}
_GRADIENTS = {"values": _Kind(("F32",), 0), **_PLACES, "own": _Kind(("U8",), 1)}


def check_images(slices: Mapping[str, Any]) -> None:
    """The tensors of a file of inputs, before they are read. See `check_tensors`."""
    check_tensors(slices, _INPUTS, "images.safetensors")


def check_tensors(slices: Mapping[str, Any], known: Mapping[str, _Kind], file: str) -> None:
    """The tensors of a file of inputs or gradients, before they are read: which there are, their types and shapes.

    Raises:
        DamageError: they are not those that flatlens writes.
    """
    for name, kind in known.items():
        if name not in slices:
            raise DamageError(f"{file} has no '{name}'")
        if slices[name].get_dtype() not in kind.types:
            raise DamageError(f"'{name}' of {file} is of type {slices[name].get_dtype()}")
    shapes = {name: tuple(slices[name].get_shape()) for name in known}
    if any(len(shapes[name]) != size if size else len(shapes[name]) < 2 for name, (_, size) in known.items()):
        raise DamageError(f"the tensors of {file} have the shapes {shapes}")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise DamageError(f"the tensors of {file} are of different lengths")


def _what(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)
