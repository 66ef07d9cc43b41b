"""Files of saved weights: read without running anything, unless they are trusted."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from flatlens.errors import ModelError, one_line
from flatlens.files.archives import check
from flatlens.models import statedicts

# What people's checkpoints hold beside tensors, and what can do nothing: figures of NumPy, and an argparse's result.
HARMLESS: list[Any] = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    argparse.Namespace,
]


def read(file: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a file that holds one model's weights. See `content`."""
    found = statedicts.candidates(content(file, trust_pickle=trust_pickle), str(file))
    return found[0].weights


def content(file: Path, *, trust_pickle: bool = False, beside: Path | None = None) -> Any:
    """What a safetensors file, or one of ``torch.save``, holds: tensors, and tables and lists of them.

    Args:
        file: what to read.
        trust_pickle: let a file of ``torch.save`` run code; it may then hold whole models, too.
        beside: where modules may be that such models are made of.

    Raises:
        ModelError: the file is missing, damaged, or would have to run code.
    """
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise ModelError(f"file '{file}' {what}; ckpt:FILE.safetensors?arch=URI needs saved weights")
    if file.suffix == ".safetensors" or _is_safetensors(file):
        return _read_safetensors(file)
    return _read_torch(file, trust_pickle, beside)


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(10)[8:] == b'{"'


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"'{file}' is no safetensors file, or is damaged or cut off ({one_line(error)}); save or copy it again"
        ) from error


def _read_torch(file: Path, trust_pickle: bool, beside: Path | None) -> Any:
    check(file, ModelError, stored=True)
    try:
        with _importable(beside if trust_pickle else None), torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if trust_pickle:
            raise ModelError(f"'{file}' is a damaged pickle ({one_line(error)}); copy it again") from error
        raise ModelError(
            f"'{file}' is a pickle that could run code and is not read; save its state_dict as safetensors, "
            "or trust it with --trust-pickle"
        ) from error
    except (Exception, SystemExit) as error:  # a damaged file raises whatever its bytes provoke
        if trust_pickle and isinstance(error, (AttributeError, ImportError)):
            raise ModelError(
                f"'{file}' holds a model whose code is not found ({one_line(error, kind=True)}); run this where it can "
                "be imported, or save model.state_dict()"
            ) from error
        detail = one_line(error, kind=True)
        if "TorchScript" in detail:
            raise ModelError(f"'{file}' is TorchScript; save the state_dict of the model it was made from") from error
        raise ModelError(f"'{file}' is damaged or holds no weights ({detail}); save or copy it again") from error


@contextlib.contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    """``folder``, and where the program was begun, last among the places to import from."""
    before = list(sys.path)
    if folder is not None:
        sys.path += [str(folder.resolve()), str(Path.cwd())]
        importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
