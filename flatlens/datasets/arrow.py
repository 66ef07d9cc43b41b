"""``hf:FOLDER``: tables of images and labels in Arrow or Parquet files, read with pyarrow alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.datasets.images import ImageSource, LabelledImages, size_of
from flatlens.datasets.images import read as read_images
from flatlens.errors import DataError, one_line, unknown
from flatlens.files.archives import leads_out
from flatlens.specs.uris import Uri

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")
_FIX = "save it with datasets' save_to_disk, or as Parquet with a column of image bytes and one of labels"


def read(uri: Uri) -> LabelledImages:
    """LabelledImages and labels of a folder made by ``save_to_disk``, or of Parquet files.

    The images are encoded bytes, alone or in a struct with ``bytes``; the labels are whole numbers, whose names are
    taken from the table's features. ``split`` names a folder, or how the files' names begin; ``image`` and ``label``
    name the columns where they are called otherwise.

    Raises:
        DataError: a folder, file or column that is missing, damaged, or of another type.
    """
    uri.only(["split", "image", "label", "size"])
    root = uri.file
    if not uri.path or not root.is_dir():
        what = (
            "is a file; name the folder it is in" if root.is_file() else "is not there, and nothing is downloaded here"
        )
        raise DataError(f"folder '{uri.path}' {what}; hf:FOLDER needs Arrow or Parquet files")
    files = _files(root, uri)
    tables = [_table(file) for file in files]
    image = _column(tables[0], uri, "image", _IMAGES)
    label = _column(tables[0], uri, "label", _LABELS)
    sources: list[ImageSource] = []
    targets: list[Any] = []
    for file, table in zip(files, tables, strict=True):
        for name in (image, label):
            if name not in table.column_names:
                raise DataError(f"'{file}' has no column '{name}', which '{files[0].name}' has; {_FIX}")
        targets += _whole(file, table, label)
        for row, value in enumerate(table[image].to_pylist()):
            sources.append(_source(f"{file}, row {row}", value))
    if not sources:
        raise DataError(f"'{uri.text}' is empty; at least one sample is needed")
    x = read_images(sources, size=size_of(uri), fix=uri.text)
    return LabelledImages(x, np.asarray(targets, dtype=np.int64), _names(tables[0], files[0].parent, label))


def _files(root: Path, uri: Uri) -> list[Path]:
    """The files of the split, in order."""
    split = uri.options.get("split")
    if split is not None and leads_out(split):
        raise DataError(f"split '{split}' in '{uri.text}' leads out of the folder; name one that is in it")
    if split is not None and (root / split).is_dir():
        root, split = root / split, None
    splits = sorted(entry.name for entry in root.iterdir() if (entry / "state.json").is_file())
    if splits:
        if split is not None:
            raise DataError(unknown("split", split, splits, where=f"'{root}' has"))
        raise DataError(f"folder '{root}' has the splits {', '.join(splits)}; add ?split={splits[-1]}")
    if (state := root / "state.json").is_file():
        return _listed(root, state)
    found = sorted(
        file for ending in ("parquet", "arrow") for part in ("", "data/") for file in root.glob(f"{part}*.{ending}")
    )
    if not found:
        raise DataError(f"folder '{root}' has no Arrow or Parquet files; {_FIX}")
    begins = sorted({file.name.partition("-")[0].partition(".")[0] for file in found})
    if split is None and {"train", "test"} <= set(begins):
        raise DataError(f"folder '{root}' has the splits {', '.join(begins)}; add ?split=test")
    if split is not None and split not in begins:
        raise DataError(unknown("split", split, begins, where=f"'{root}' has"))
    return [file for file in found if split is None or file.name.partition("-")[0].partition(".")[0] == split]


def _listed(root: Path, state: Path) -> list[Path]:
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"'{state}' lists no files, or is cut off; {_FIX}") from error
    for name in names:
        if not isinstance(name, str) or leads_out(name):
            raise DataError(f"'{state}' names the file {name!r}, which leads out of its folder; copy it again")
        if not (root / name).is_file():
            raise DataError(f"file '{root / name}' is not there, which '{state.name}' names; copy it again")
    if not names:
        raise DataError(f"'{state}' lists no files; {_FIX}")
    return [root / name for name in names]


def _table(file: Path) -> pa.Table:
    try:
        if file.suffix == ".parquet":
            return pq.read_table(file, partitioning=None)
        with file.open("rb") as stream:
            return pa.ipc.open_stream(stream).read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"'{file}' is no Arrow or Parquet file, or is damaged or cut off ({one_line(error)}); copy it again"
        ) from error


def _column(table: pa.Table, uri: Uri, what: str, usual: tuple[str, ...]) -> str:
    names = table.column_names
    if (wanted := uri.options.get(what)) is not None:
        if wanted not in names:
            raise DataError(unknown("column", wanted, names, where=f"'{uri.path}' has"))
        return wanted
    for name in usual:
        if name in names:
            return name
    joined = "&" if uri.options else "?"
    shown = ", ".join(names[:24]) or "none"
    raise DataError(f"'{uri.path}' has no {what} column; it has: {shown}; name it: {uri.text}{joined}{what}=COLUMN")


def _whole(file: Path, table: pa.Table, name: str) -> list[Any]:
    column = table[name]
    if not pa.types.is_integer(column.type):
        raise DataError(f"column '{name}' of '{file}' is {column.type}; labels are whole numbers")
    if column.null_count:
        raise DataError(f"column '{name}' of '{file}' has {column.null_count} empty labels; fill or remove them")
    return [min(value, 2**63 - 1) for value in column.to_pylist()]


def _source(name: str, value: Any) -> ImageSource:
    found = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(found, bytes):
        raise DataError(f"the image at {name} holds no bytes (a link to a file is not followed); {_FIX}")
    return ImageSource(name, found)


def _names(table: pa.Table, folder: Path, label: str) -> tuple[str, ...] | None:
    """The classes' names in the table's own features, or in the file beside it."""
    texts = []
    if (kept := (table.schema.metadata or {}).get(b"huggingface")) is not None:
        texts.append(kept)
    if (info := folder / "dataset_info.json").is_file():
        texts.append(info.read_bytes())
    for text in texts:
        try:
            said = json.loads(text)
            names = said.get("info", said)["features"][label]["names"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None
