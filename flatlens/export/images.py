"""The inputs of many runs in one ``.npz``, written image by image."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from flatlens.records import runs, stored
from flatlens.sweeps.opening import damaged

_AT_ONCE = 64
"""Images that are held at the same time."""


def write(found: Iterable[tuple[str, Path]], out: IO[bytes]) -> list[str]:
    """Write what the attacks have found, and the clean inputs, of runs that keep them.

    Args:
        found: each run's key, or nothing where there is one run alone, and its folder.
        out: where to. The arrays are ``KEY/x_adv`` and ``KEY/x`` ``[n, …]``, ``KEY/sample`` and ``KEY/label`` ``[n]``,
            in the order of the samples.

    Returns:
        the keys of the runs that keep none.

    Raises:
        RunError: a run is damaged.
    """  # noqa: DOC501 (a function makes the error)
    without = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, folder in found:
            run = runs.load(folder)
            if run.kept("images.safetensors") is None:
                without.append(key)
                continue
            try:
                _add(archive, f"{key}/" if key else "", run)
            except (OSError, SafetensorError, pa.ArrowException, KeyError, IndexError, ValueError, TypeError) as error:
                raise damaged(folder, error) from error
    return without


def _add(archive: zipfile.ZipFile, prefix: str, run: runs.Run) -> None:
    file = stored.verify(run.path / "images.safetensors", run.files)
    with safe_open(file, framework="numpy") as tensors:
        stored.check_images({name: tensors.get_slice(name) for name in tensors.keys()})  # noqa: SIM118
        sample, step = tensors.get_tensor("sample"), tensors.get_tensor("step")
        # Of each sample the clean input is the first, and what the attack has found the last.
        order = np.lexsort((step, sample))
        starts = np.flatnonzero(np.append(True, np.diff(sample[order]) != 0)) if len(order) else order
        ends = np.append(starts[1:], len(order)) - 1 if len(order) else order
        images = tensors.get_slice("x")
        shape = tuple(images.get_shape()[1:])
        for name, places in (("x_adv", order[ends]), ("x", order[starts])):
            _member(archive, f"{prefix}{name}", (len(places), *shape), np.dtype("<f4"), _chosen(images, places))
        ids = sample[order[starts]]
    for name, values in (("sample", ids), ("label", _labels(run, ids))):
        _member(archive, f"{prefix}{name}", values.shape, np.dtype("<i8"), [values])


def _chosen(images: Any, places: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    for i in range(0, len(places), _AT_ONCE):
        yield np.concatenate([images[int(place) : int(place) + 1] for place in places[i : i + _AT_ONCE]])


def _labels(run: runs.Run, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    labels: dict[int, int] = {}
    for piece in stored.pieces(run.path, "steps", run.files):
        labels.update(zip(piece["sample"].to_pylist(), piece["label"].to_pylist(), strict=True))
    return np.array([labels[i] for i in ids.tolist()], dtype=np.int64)


def _member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: np.dtype[Any], pieces: Iterable[NDArray[Any]]
) -> None:
    """One array, whose rows come piece by piece."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        for piece in pieces:
            member.write(np.ascontiguousarray(piece, dtype=kind).tobytes())
