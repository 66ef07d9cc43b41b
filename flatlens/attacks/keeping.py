"""Generators that have learnt, kept in the cache: found again by what they learnt from, and damaged ones made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from flatlens.attacks.fitting import Fitted, Judged
from flatlens.errors import DiskError
from flatlens.files.atomic import write_file
from flatlens.files.locks import file_lock
from flatlens.files.places import cache

TRIED = 8
"""Inputs on which it is looked whether a model is the one whose generator is kept."""
ROUNDING = 1e-3
"""By how much, relative to the largest, its logits there may differ: in other batches their last digits do."""
LIKENESS = "likeness"


def kept(key: str, make: Callable[[], Fitted], likeness: Tensor, like: Mapping[str, Tensor]) -> tuple[Fitted, bool]:
    """The generator of a key, from the cache, or made now and kept there.

    Whoever else makes it is waited for. It is made anew if its file is damaged, and also if ``likeness`` is not as it
    was: then the key, which knows only of weights, is that of another model.

    Args:
        key: of all that it depends on, in hex digits.
        make: makes it.
        likeness: the model's logits on the first inputs that it learns from.
        like: weights of the shapes that a snapshot must have.

    Returns:
        it, and whether a file was there and damaged.

    Raises:
        DiskError: it cannot be written.
    """
    file = place(key)
    folder = file.parent
    with _writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(file.with_name(f".{file.name}.lock"), root=folder)
        lock.acquire()
    try:
        try:
            found = _read(file, key, likeness, like) if file.exists() else None
            damaged = False
        except Exception:  # a damaged file raises whatever its bytes provoke
            found, damaged = None, True
        if found is None:
            found = make()
            with _writing(file):
                write_file(file, _content(found, key, likeness))
    finally:
        lock.release()
    return found, damaged


def place(key: str) -> Path:
    """Where the generator of a key is kept."""
    return cache() / f"advgan-{key[:32]}.safetensors"


def digest(tensors: Mapping[str, Tensor], *more: str) -> str:
    """SHA-256 of tensors, by name, with shapes and types, and of more texts."""
    found = hashlib.sha256("\n".join(more).encode())
    for name, held in sorted(tensors.items()):
        plain = held.detach().cpu().contiguous()
        found.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _content(fitted: Fitted, key: str, likeness: Tensor) -> bytes:
    tensors = {f"{i:05d}.{name}": held for i, one in enumerate(fitted.snapshots) for name, held in one.items()}
    tensors = {name: held.contiguous() for name, held in tensors.items()} | {LIKENESS: likeness.contiguous()}
    plain = {
        "key": key,
        "snapshots": len(fitted.snapshots),
        "training": fitted.training,
        "fgsm": fitted.fgsm,
        "lr": fitted.lr,
        "starts": fitted.starts,
        "collapsed": fitted.collapsed,
    }
    record = json.dumps(plain)
    return save(tensors, {"record": record, "sha256": digest(tensors, record)})


def _read(file: Path, key: str, likeness: Tensor, like: Mapping[str, Tensor]) -> Fitted | None:
    """What a file holds; None if it is of another model.

    Raises:
        ValueError: it is not what was written.
    """
    with safetensors.safe_open(file, "pt") as held:
        known: dict[str, str] = held.metadata()
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 (it is no dict)
    record: dict[str, Any] = json.loads(known["record"])
    if digest(tensors, known["record"]) != known["sha256"] or record["key"] != key:
        raise ValueError("other bytes than were written")
    was = tensors[LIKENESS]
    size = float(likeness.abs().max())
    if was.shape != likeness.shape or not torch.allclose(was, likeness, rtol=0, atol=ROUNDING * size, equal_nan=True):
        return None
    snapshots = tuple({name: tensors[f"{i:05d}.{name}"] for name in like} for i in range(record["snapshots"]))
    if any(one[name].shape != held.shape for one in snapshots for name, held in like.items()):
        raise ValueError("weights of other shapes")
    return Fitted(
        snapshots,
        Judged(*record["training"]),
        Judged(*record["fgsm"]),
        record["lr"],
        record["starts"],
        record["collapsed"],
    )


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turn what the disk refuses into one clear line."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot keep the generator in '{file}': {error.strerror or error}; name another place by FLATLENS_CACHE"
        ) from error
