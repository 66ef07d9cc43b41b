"""Every ordered pair of a data set's classes, by names: the table of `flatlens.immunity.pairs`, kept in a folder."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from flatlens import datasets, models
from flatlens.errors import DataError, SpecError
from flatlens.files.atomic import disk, write_file, write_json
from flatlens.files.sealing import file_sha256
from flatlens.hessian.condition import Floats
from flatlens.immunity import folder
from flatlens.immunity.folder import SCHEMA_VERSION
from flatlens.immunity.immunize import Asked
from flatlens.immunity.pairs import SCHEMA, Row, by_class, halved, rows
from flatlens.measure.features import features
from flatlens.measure.load import samples_of
from flatlens.measure.prepare import device_of
from flatlens.progress import Report
from flatlens.records.immunized import BEGUN, PAIRS, SUMMARY
from flatlens.specs.run import RunSpec
from flatlens.specs.trust import TRUST

MOST_CLASSES = 64
"""Classes of a data set: n of them make n(n − 1) pairs."""
EVERY = 5.0
"""Seconds after which what was found is kept again."""
IDENTITY = b"identity"
PIXELS = "flatlens:cnn"
"""Stands in a spec for a model where the features are pixels, and is not loaded."""


def of_data(
    spec: RunSpec, asked: Asked, out: Path, *, pixels: bool, halve: bool, force: bool = False,
    progress: Report | None = None,
) -> pa.Table:  # fmt: skip
    """Immunize every ordered pair of classes, or find it done.

    Args:
        spec: with ``data``, ``model``, ``layer``, ``limit``, ``batch_size`` and ``device``.
        asked: what is asked of each immunization.
        out: the folder of the result.
        pixels: the features are the inputs themselves; the spec's model is not loaded.
        halve: of pixels, the means of 2 × 2.
        force: replace the result that is there.
        progress: called after each pair.

    Returns:
        The table of pairs.

    Raises:
        DataError: data that cannot be.
        RunError: ``out`` holds another result.
        SpecError: more than one layer is named.
    """
    data = datasets.load(spec.data)
    data = data.take(samples_of(spec, data.y))
    known = {**asked._asdict(), "data_sha256": data.sha256, "pixels": pixels, "halve": halve}
    about = None
    if pixels:
        x: Floats = halved(data.x) if halve else data.x.reshape(len(data.y), -1).astype("float64")
    else:
        x, about = _features(spec, data)
        known |= {"model": spec.model, "weights_sha256": about["sha256"], "layer": about["layer"]}
    tasks = by_class(x, data.y)
    if len(tasks) > MOST_CLASSES:
        raise DataError(
            f"'{spec.data}' has {len(tasks)} classes, which make {len(tasks) * (len(tasks) - 1):,} pairs; at most "
            f"{MOST_CLASSES} classes can be asked for"
        )
    with folder.opened(out, known, force=force) as place:
        if not (place.path / SUMMARY).exists():
            found = _found(place, tasks, asked, progress)
            told = {"method": asked.method, "ridge": asked.ridge, "model": about, "data": {"uri": spec.data}}
            _finish(place, found, told)
        return pq.read_table(out / PAIRS)


def _features(spec: RunSpec, data: datasets.Dataset) -> tuple[Floats, dict[str, Any]]:
    if len(spec.layer) != 1:
        raise SpecError(f"--layer {', '.join(spec.layer)}: a probe has the features of one layer; name one")
    trust = {key: getattr(spec, key) for key in TRUST}
    loaded = models.load(spec.model, shape=data.shape, classes=data.classes, **trust)
    size = spec.batch_size if isinstance(spec.batch_size, int) else 256
    taken = features(
        loaded.model, torch.from_numpy(data.x), spec.layer[0], batch_size=size, device=device_of(spec.device)
    )
    return taken.x, {"uri": spec.model, "sha256": loaded.sha256, "layer": taken.target}


def _found(place: folder.Kept, tasks: dict[str, Floats], asked: Asked, progress: Report | None) -> pa.Table:
    """The table of pairs; those that an interrupted search has found are not searched again."""
    told, last = [], time.monotonic()
    for row in rows(tasks, asked, _known(place), progress):
        told.append(row)
        if time.monotonic() - last >= EVERY:
            with disk(place.path):
                begun = pa.Table.from_pylist(told, SCHEMA).replace_schema_metadata({IDENTITY: repr(place.identity)})
                write_file(place.path / BEGUN, _parquet(begun))
            last = time.monotonic()
    return pa.Table.from_pylist(told, SCHEMA)


def _known(place: folder.Kept) -> list[Row]:
    """The rows that are kept of an interrupted search; none where they are of another, damaged, or not there."""
    try:
        table = pq.read_table(place.path / BEGUN)
    except (OSError, pa.ArrowException):
        return []
    own = table.schema.metadata or {}
    same = own.get(IDENTITY) == repr(place.identity).encode() and table.schema.remove_metadata().equals(SCHEMA)
    return table.to_pylist() if same else []


def _parquet(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def _finish(place: folder.Kept, found: pa.Table, told: dict[str, Any]) -> None:
    with disk(place.path):
        write_file(place.path / PAIRS, _parquet(found))
        sums = {PAIRS: file_sha256(place.path / PAIRS)}
        about = {"schema_version": SCHEMA_VERSION, "asked": place.identity, **told, "cautions": [], "files": sums}
        write_json(place.path / SUMMARY, about)
        (place.path / BEGUN).unlink(missing_ok=True)
