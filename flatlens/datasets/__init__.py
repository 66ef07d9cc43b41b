"""Data by name: `load` turns ``flatlens:digits``, ``idx:FOLDER`` or ``npz:FILE`` into checked arrays."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from flatlens.datasets import images
from flatlens.datasets import torchvision as torchvision_data
from flatlens.errors import DataError, ResourceError, nearest, one_line, unknown
from flatlens.files import archives
from flatlens.files.archives import check
from flatlens.specs import uris
from flatlens.specs.language import SHIPPED
from flatlens.specs.uris import Uri

SCHEMES: dict[str, str] = {
    "flatlens": "data that come with flatlens: flatlens:digits[?split=train|test|all]",
    "idx": "a folder of MNIST-format files, raw or gzipped: idx:FOLDER[?split=train|test]",
    "npz": "a NumPy archive with x, y and, if you like, labels: npz:FILE",
    "imagefolder": "a folder of images for each class: imagefolder:FOLDER[?size=N]",
    "torchvision": "data of torchvision, downloaded before: torchvision:NAME?root=FOLDER[&split=train|test]",
    "hf": "a folder of Arrow or Parquet files: hf:FOLDER[?split=…&image=COLUMN&label=COLUMN&size=N]",
    "table": "a CSV or Parquet file, a row a sample: table:FILE?target=COLUMN[&without=COLUMN,…]",
}
"""Scheme -> one line about it."""

SPLIT = ("flatlens", "idx", "torchvision")
"""Schemes whose data come in a training and a test part."""

BUILT_IN: dict[str, str] = {
    "flatlens:digits": "1,797 handwritten digits of 8×8 pixels, from UCI; 450 of them are the test split",
}
"""Name of the data that come with flatlens -> one line about them."""

MOST_CLASSES = 1_000_000
"""A larger label is a mistake, and would size a model's last layer."""

_SHIPPED = Path(__file__).parents[1] / "shipped"
_FIX = "save it with np.savez(FILE, x=x, y=y)"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and labels, checked.

    Attributes:
        x: inputs, float32, ``[N, C, H, W]`` or ``[N, features]``; outside ``bounds`` is allowed.
        y: labels, int64 ``[N]``, from 0 to ``classes - 1``.
        ids: each sample's position in the data that ``uri`` names, int64 ``[N]``; subsets keep it.
        classes: how many classes there are, whether or not all of them occur.
        labels: names of the classes, or None.
        uri: how the data are named.
        sha256: of the arrays that ``uri`` names (bytes, shape and dtype); a subset keeps it.
        bounds: the range of valid inputs.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    ids: NDArray[np.int64]
    classes: int
    labels: tuple[str, ...] | None
    uri: str
    sha256: str
    bounds: tuple[float, float] = (0.0, 1.0)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, without the samples' axis."""
        return self.x.shape[1:]

    def take(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Dataset:
        """These samples in this order, with their ids.

        Raises:
            DataError: an index that does not exist, or is no whole number.
        """
        given = np.asarray(indices)
        if given.size and given.dtype.kind not in "iu":  # flags would be taken for samples 0 and 1
            fix = "np.flatnonzero(mask)" if given.dtype == bool else "whole numbers"
            raise DataError(f"indices of samples are {given.dtype}; give {fix}")
        index = given.astype(np.int64)
        if len(bad := index[(index < 0) | (index >= len(self))]):
            raise DataError(f"no sample {bad[0]} in '{self.uri}'; it has samples 0 to {len(self) - 1}")
        return replace(self, x=self.x[index], y=self.y[index], ids=self.ids[index])


def load(uri: str) -> Dataset:
    """The data that ``uri`` names.

    Args:
        uri: ``flatlens:digits``, ``idx:FOLDER`` or another name of `SCHEMES`, with its options.

    Raises:
        DataError: no such data, or data that are damaged, empty, of the wrong type, shape or range.
        ResourceError: they do not fit into memory.
    """
    parsed = uris.parse(uri, DataError)
    if parsed.scheme == "prompts" or uri in SHIPPED:
        raise DataError(f"'{uri}' holds prompts for language models (lm:…), and images are needed here")
    if parsed.scheme not in _LOADERS:
        names = [*BUILT_IN, *(f"{scheme}:…" for scheme in SCHEMES if scheme != "flatlens")]
        text, meant = unknown("data", uri, names, where="there are"), _meant(parsed)
        raise DataError(f"{text.partition(' Did you mean')[0]}{meant}" if meant else text)
    try:
        return _LOADERS[parsed.scheme](parsed)
    except MemoryError as error:
        raise ResourceError(f"'{uri}' does not fit into memory") from error


def _meant(uri: Uri) -> str:
    """A hint at what an unknown name of data was probably meant to be, where no whole name is near."""
    if not uri.scheme:
        place = uri.file
        kind = "npz" if uri.path.endswith(".npz") else "imagefolder" if uri.path and place.is_dir() else None
        return f" Did you mean '{kind}:{uri.path}'?" if kind else ""
    near = nearest(uri.scheme, SCHEMES)
    return f" Did you mean '{near}:{uri.path}'?" if near else ""


def with_split(uri: str, split: str) -> str:
    """The same data's other part: ``split`` is ``train`` or ``test``; data that come in one part stay as they are."""
    parsed = uris.parse(uri, DataError)
    if parsed.scheme not in SPLIT:
        return uri
    options = "&".join(f"{key}={quote(value)}" for key, value in (parsed.options | {"split": split}).items())
    return f"{parsed.scheme}:{parsed.path}?{options}"


def balanced(y: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Indices of at most ``most`` samples, ascending, drawn so that of each class there are as many as there can be."""
    shuffled = np.random.default_rng(seed).permutation(len(y))
    # A sample's rank within its class; taking the lowest ranks first takes the classes in turn.
    rank = np.empty(len(shuffled), dtype=np.int64)
    for label in np.unique(y):
        of_class = y[shuffled] == label
        rank[of_class] = np.arange(of_class.sum())
    return np.sort(shuffled[np.argsort(rank, kind="stable")[:most]])


def _dataset(uri: Uri, x: NDArray[np.float32], y: NDArray[np.int64], labels: tuple[str, ...] | None = None) -> Dataset:
    """Check what all data must satisfy, and put it together."""
    where = f"'{uri.text}'"
    if len(x) != len(y):
        raise DataError(f"{where} has {len(x)} inputs and {len(y)} labels; every input needs one label")
    if x.size == 0:
        raise DataError(f"{where} is empty (inputs of shape {x.shape}); at least one sample is needed")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    if bad.any():
        values = int((~np.isfinite(x)).sum())
        raise DataError(
            f"{where} holds {values} values that are not finite, in {int(bad.sum())} inputs, "
            f"the first at index {int(bad.argmax())}; remove or replace them"
        )
    most = MOST_CLASSES if labels is None else len(labels)
    if (wrong := (y < 0) | (y >= most)).any():
        first = int(wrong.argmax())
        why = "the last that can be" if labels is None else f"as {most} class names are given"
        raise DataError(f"{where} has label {y[first]} at index {first}; labels go from 0 to {most - 1}, {why}")
    classes = int(y.max()) + 1 if labels is None else most
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    return Dataset(x, y, np.arange(len(y)), classes, labels, uri.text, _sha256(x, y))


def _sha256(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _built_in(uri: Uri) -> Dataset:
    if (name := f"flatlens:{uri.path}") not in BUILT_IN:
        raise DataError(unknown("data", name, BUILT_IN, where="flatlens comes with"))
    uri.only(["split"])
    split = uri.choice("split", ("train", "test", "all"), "test")
    with np.load(_SHIPPED / "digits.npz", allow_pickle=False) as file:
        x, y, test = file["x"], file["y"], file["test"]
    keep = np.isin(np.arange(len(y)), test, invert=split == "train") | (split == "all")
    images = x[keep, None].astype(np.float32) / np.float32(16)
    return _dataset(uri, images, y[keep].astype(np.int64), tuple("0123456789"))


# ---- idx ----------------------------------------------------------------------------------------

_PREFIX = {"train": ("train",), "test": ("t10k", "test")}


def _idx(uri: Uri) -> Dataset:
    uri.only(["split"])
    split = uri.choice("split", ("train", "test"), "test")
    folder = uri.file
    if not uri.path or not folder.is_dir():
        what = "is a file; name the folder it is in" if folder.is_file() else "is not there"
        raise DataError(f"folder '{uri.path}' {what}; idx:FOLDER needs MNIST-format files")
    images = _read_idx(_find_idx(folder, split, "images", 3), 3)
    labels = _read_idx(_find_idx(folder, split, "labels", 1), 1)
    return _dataset(uri, images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _find_idx(folder: Path, split: str, part: str, dimensions: int) -> Path:
    names = [
        f"{prefix}-{part}{mark}idx{dimensions}-ubyte{end}"
        for prefix in _PREFIX[split]
        for mark in "-."
        for end in ("", ".gz")
    ]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"folder '{folder}' has no {split} {part}; needs {names[0]} or {names[1]}")


def _read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Unsigned bytes in idx format: 0, 0, type 8, dimensions, the sizes as big-endian uint32, the values."""
    opener: Callable[..., Any] = gzip.open if file.suffix == ".gz" else open
    magic = 0x0800 + dimensions
    try:
        with opener(file, "rb") as stream:
            head = stream.read(4 + 4 * dimensions)
            found = int.from_bytes(head[:4], "big")
            if len(head) >= 4 and found != magic:
                raise DataError(
                    f"'{file}' starts with {found:#010x}; idx files of unsigned bytes with {dimensions} "
                    f"dimension{'s' * (dimensions > 1)} start with {magic:#010x}"
                )
            if len(head) < 4 + 4 * dimensions:
                raise DataError(f"'{file}' is cut off within its header; copy it again")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            values = _read_exactly(stream, int(np.prod(shape, dtype=object)), file)
    except OSError as error:  # gzip.BadGzipFile is one
        raise DataError(f"cannot read '{file}': {error.strerror or error}; copy it again") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"'{file}' is a damaged or cut off gzip file ({one_line(error)}); copy it again") from error
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read_exactly(stream: Any, size: int, file: Path) -> bytearray:
    """``size`` bytes and then the end. In pieces, so that a header that lies allocates nothing."""
    values = bytearray()
    while piece := stream.read(min(1 << 20, size + 1 - len(values))):
        values += piece
    if len(values) != size:
        much = f"only {len(values)}" if len(values) < size else "more"
        raise DataError(f"'{file}' should hold {size} values by its header and holds {much}; copy it again")
    return values


# ---- npz ----------------------------------------------------------------------------------------


def _npz(uri: Uri) -> Dataset:
    uri.only([])
    file = uri.file
    if not uri.path or not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise DataError(f"file '{uri.path}' {what}; npz:FILE needs a NumPy archive, {_FIX}")
    arrays = _read_npz(file)
    for name in ("x", "y"):
        if name not in arrays:
            there = archives.arrays(file)
            near = nearest(name, [text.split()[0] for text in there])
            raise DataError(
                f"'{file}' has no array '{name}'; it has: {', '.join(there) or 'none'}; {_FIX}"
                + (f" (is '{near}' meant?)" if near else "")
            )
    labels = arrays.get("labels")
    try:
        return _dataset(uri, _inputs(file, arrays["x"]), _labels(file, arrays["y"]), _names(file, labels))
    except DataError as error:
        raise DataError(f"{error}; '{file.name}' holds: {', '.join(archives.arrays(file))}") from None


def _read_npz(file: Path) -> Mapping[str, NDArray[Any]]:
    check(file, DataError)
    try:
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise DataError(f"'{file}' is no NumPy archive (.npz), or is cut off; {_FIX}")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files if name in ("x", "y", "labels")}
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged archive raises whatever its zip, its zlib or its headers provoke
        if "allow_pickle" in str(error):
            why = "holds Python objects, which could run code and are not read; save plain number arrays"
        else:
            why = f"is damaged or cut off ({one_line(error)}); save or copy it again"
        raise DataError(f"'{file}' {why}") from error


def _inputs(file: Path, x: NDArray[Any]) -> NDArray[np.float32]:
    if x.ndim not in (2, 4):
        raise DataError(f"x in '{file}' has shape {x.shape}; needs [N, C, H, W] or [N, features]")
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255)
    if x.dtype.kind != "f":
        raise DataError(f"x in '{file}' is {x.dtype}; needs uint8 (0 to 255) or float (0 to 1)")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is reported as such
        return x.astype(np.float32)


def _labels(file: Path, y: NDArray[Any]) -> NDArray[np.int64]:
    if y.ndim != 1:
        raise DataError(f"y in '{file}' has shape {y.shape}; needs one label per input, [N]")
    if y.dtype.kind not in "iu":
        raise DataError(f"y in '{file}' is {y.dtype}; labels are whole numbers: y.astype('int64')")
    if y.dtype == np.uint64:
        y = np.minimum(y, np.iinfo(np.int64).max)  # above that it is out of range anyway
    return y.astype(np.int64)


def _names(file: Path, labels: NDArray[Any] | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if labels.ndim != 1 or labels.dtype.kind != "U":
        raise DataError(
            f"labels in '{file}' is {labels.dtype} of shape {labels.shape}; needs one name per class, as text"
        )
    return tuple(str(name) for name in labels)


# ---- images ---------------------------------------------------------------------------------------


def _of_images(read: Callable[[Uri], images.LabelledImages]) -> Callable[[Uri], Dataset]:
    """A loader from what reads unsigned bytes."""

    def load(uri: Uri) -> Dataset:
        found = read(uri)
        x = found.x.astype(np.float32)
        x /= np.float32(255)
        return _dataset(uri, x, found.y, found.labels)

    return load


def _of_tables(uri: Uri) -> images.LabelledImages:
    from flatlens.datasets import arrow as arrow_data  # pyarrow is not needed to list what there is

    return arrow_data.read(uri)


def _of_rows(uri: Uri) -> Dataset:
    from flatlens.datasets import table  # which needs pyarrow

    found = table.read(uri)
    if (found.y != np.floor(found.y)).any() or found.y.min() < 0 or found.y.max() >= MOST_CLASSES:
        raise DataError(
            f"the target '{found.target}' of '{uri.text}' is no class label (whole numbers from 0 on); only condition "
            "and immunize take other targets"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is reported as such
        return _dataset(uri, found.x.astype(np.float32), found.y.astype(np.int64))


_LOADERS: dict[str, Callable[[Uri], Dataset]] = {
    "flatlens": _built_in,
    "idx": _idx,
    "npz": _npz,
    "imagefolder": _of_images(images.folder),
    "torchvision": _of_images(torchvision_data.read),
    "hf": _of_images(_of_tables),
    "table": _of_rows,
}
