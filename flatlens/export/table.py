"""`export`: one tidy table over many runs, and their inputs, in files that other programs read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from flatlens.errors import ResourceError, RunError, SpecError, unknown
from flatlens.export import formats
from flatlens.export.images import write as write_images
from flatlens.files.atomic import clear_leftovers, disk, replacing
from flatlens.files.borders import DamageError
from flatlens.progress import Progress, Report
from flatlens.records import runs, stored
from flatlens.records.schema import LAYERS, STEPS
from flatlens.specs.wording import TRAIN_KEYS, flat, varying
from flatlens.sweeps import finished, tables
from flatlens.sweeps.folder import Sweep, is_sweep, load_sweep
from flatlens.sweeps.opening import damaged, demand

JOINED, STEPS_, LAYERS_, CELLS = "joined", "steps", "layers", "cells"
TABLES = {
    JOINED: "a row per run, path, sample, step and layer: all columns of both",
    STEPS_: "a row per run, path, sample and step: prediction, loss, distances",
    LAYERS_: "a row per run, path, sample, step and layer: curvature alone",
    CELLS: "a row per cell, path and layer: accuracy, flips, valleys",
}


class Exported(NamedTuple):
    """What was written.

    ``file`` is None where it went elsewhere; ``runs`` are how many are in it, ``missing`` how many cells of a sweep
    are not, as they are not finished; ``without_images`` the keys of those that keep none.
    """

    file: Path | None
    rows: int
    runs: int
    missing: int
    images: Path | None
    without_images: list[str]


class ExportedRun(NamedTuple):
    """A run whose rows are exported: its folder, and what stands in front of them."""

    key: str
    folder: Path
    front: dict[str, tuple[Any, pa.Field]]


def export(
    path: str | Path,
    *,
    format: str = formats.CSV,
    table: str = JOINED,
    out: str | Path | IO[bytes] | None = None,
    images: bool = False,
    progress: Report | None = None,
) -> Exported:
    """Write the finished runs of a sweep, or one run, as one table.

    In front of a run's own columns stand, for a sweep, its key ``cell`` and the settings in which the sweep's cells
    differ. No more than one batch of a run is in memory, or one run where its tables are not cut into batches.

    Args:
        path: the folder of a sweep or of a run.
        format: one of `flatlens.export.formats.FORMATS`, or ``jsonl``, which is its ``json``.
        table: one of `TABLES`.
        out: the file; ``export.csv`` and so on in the folder when left out.
        images: also write what the attacks have found and the clean inputs to an ``.npz`` of the same name: ``x_adv``,
            ``x``, ``sample``, ``label``, of a sweep's cells ``KEY/x_adv`` and so on.
        progress: called after each run.

    Raises:
        RunError: the folder holds neither, nothing in it is finished, or a run is damaged.
        DiskError: the disk is full or not writable.
        SpecError: there is no such format or table.
    """
    path = Path(path)
    written = formats.ALSO.get(format, format)
    for kind, name, known in (("format", written, formats.FORMATS), ("table", table, TABLES)):
        if name not in known:
            raise SpecError(unknown(kind, name, known, where="there are"))
    demand(path)
    whole = load_sweep(path) if is_sweep(path) else None
    if whole is None and table == CELLS:
        raise SpecError("a run has no table 'cells', which is a sweep's; it has: joined, steps, layers")
    found = [_run(path)] if whole is None else list(_cells(whole))
    if whole is not None and not found:
        raise RunError(f"no cell of the sweep in '{path}' is finished; `flatlens status` says why")
    file = path / f"export.{format}" if out is None else Path(out) if isinstance(out, (str, Path)) else None
    npz = (file or path / "export").with_suffix(".npz") if images else None
    if npz is not None and npz == file:
        raise SpecError(f"--out '{file}' would be both the table and the images; name it .{format}")
    parts = _figures(whole) if table == CELLS and whole is not None else _tell(_tables(found, table), found, progress)
    rows, without = 0, list[str]()
    with _opened(file, out) as stream:
        rows = formats.write(parts, stream, written)
    if npz is not None:
        with _opened(npz, None) as stream:
            without = write_images([(source.key, source.folder) for source in found], stream)
    missing = 0 if whole is None else len(whole.plan) - len(found)
    return Exported(file, rows, len(found), missing, npz, without)


# ---- what is exported -------------------------------------------------------------------------------


def _run(path: Path) -> ExportedRun:
    runs.load(path).demand_finished()
    return ExportedRun("", path, {})


def _cells(whole: Sweep) -> Iterator[ExportedRun]:
    # Where some models are trained and others are not, each setting of the training is a column.
    keys = [k for key in varying(list(whole.plan.values())) for k in (TRAIN_KEYS if key == "train" else (key,))]
    columns = {key: tables.column(key) for key in keys if tables.is_setting(key)}
    for key in finished.keys(whole):
        point = flat(whole.plan[key])
        front = {field.name: (tables.setting(point, name), _short(field)) for name, field in columns.items()}
        yield ExportedRun(key, whole.cell(key), {tables.CELL.name: (key, tables.CELL), **front})


def _short(field: pa.Field) -> pa.Field:
    return field.with_type(tables.CELL.type) if field.type == pa.string() else field


def _figures(whole: Sweep) -> Iterator[pa.Table]:
    yield tables.cells(whole)


def _tables(found: list[ExportedRun], table: str) -> Iterator[tuple[int, pa.Table]]:
    """The rows of all runs with what stands in front of them, and the run's place."""
    for i, source in enumerate(found):
        try:
            for part in _joined(source.folder) if table == JOINED else tables.parts(source.folder, table):
                front = {name: tables.constant(v, f.type, part.num_rows) for name, (v, f) in source.front.items()}
                yield i, pa.table({**front, **dict(zip(part.column_names, part.columns, strict=True))})
        except (OSError, pa.ArrowException, DamageError) as error:
            raise damaged(source.folder, error) from error


def _joined(folder: Path) -> Iterator[pa.Table]:
    """The two tables of a run as one, in the order of its steps, then of its layers."""
    run = runs.load(folder)
    files = [stored.verify(folder / f"{name}.parquet", run.files) for name in ("steps", "layers")]
    with stored.opened(files[0]) as steps, stored.opened(files[1]) as layers:
        batches = run.manifest["batches"]
        if steps.num_row_groups == layers.num_row_groups == batches:
            # A batch of samples is one piece of each.
            for i in range(batches):
                yield _join(steps.read_row_group(i), layers.read_row_group(i))
        else:
            yield _join(steps.read(), layers.read())


def _join(steps: pa.Table, layers: pa.Table) -> pa.Table:
    steps, layers = tables.fitting(steps, STEPS, "steps"), tables.fitting(layers, LAYERS, "layers")
    key = list(tables.KEY)
    left, right = (
        table.select(key).append_column(name, pa.array(range(table.num_rows), pa.int64()))
        for name, table in (("left", steps), ("right", layers))
    )
    rows = left.join(right, key, join_type="left outer").sort_by([("left", "ascending"), ("right", "ascending")])
    if pc.count(rows["right"]).as_py() != layers.num_rows:
        raise pa.ArrowInvalid("the rows of steps.parquet and layers.parquet are not of the same points")
    steps, layers = steps.take(rows["left"]), layers.drop_columns(key).take(rows["right"])
    place = len(key)
    names = [*key, "layer", *steps.column_names[place:], *(name for name in layers.column_names if name != "layer")]
    return pa.table({name: (steps if name in steps.column_names else layers)[name] for name in names})


def _tell(
    parts: Iterator[tuple[int, pa.Table]], found: list[ExportedRun], progress: Report | None
) -> Iterator[pa.Table]:
    for i, part in parts:
        if progress is not None:
            progress(Progress(i, len(found), "writing"))
        yield part


@contextlib.contextmanager
def _opened(file: Path | None, out: object) -> Iterator[IO[bytes]]:
    """Where to write: a file that appears whole, or what was handed over."""
    if file is None:
        yield out  # type: ignore[misc]
        return
    with disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise ResourceError(f"--out '{file}' is a folder; name a file")
        clear_leftovers(file.parent, file.name)
        with replacing(file) as stream:
            yield stream
