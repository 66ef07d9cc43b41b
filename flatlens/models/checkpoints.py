"""Saved weights: read without running anything, and put into a model whose every weight must be there."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from flatlens.archives import check
from flatlens.errors import ModelError


def read(file: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors in a safetensors file, or in a file of ``torch.save`` that holds nothing else.

    Args:
        file: what to read.
        trust_pickle: let a file of ``torch.save`` run code; it may then hold a whole model, too.

    Raises:
        ModelError: the file is missing, damaged, or would have to run code.
    """
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise ModelError(f"file '{file}' {what}; ckpt:FILE.safetensors?arch=URI needs saved weights")
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file, trust_pickle)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        detail = " ".join(str(error).split())
        raise ModelError(
            f"'{file}' is no safetensors file, or is damaged or cut off ({detail}); save or copy it again"
        ) from error


def _read_torch(file: Path, trust_pickle: bool) -> dict[str, Tensor]:
    check(file, ModelError, stored=True)
    try:
        found = torch.load(file, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if trust_pickle:
            raise ModelError(f"'{file}' is a damaged pickle ({' '.join(str(error).split())}); copy it again") from error
        raise ModelError(
            f"'{file}' is a pickle that could run code and is not read; save its state_dict as safetensors, "
            "or trust it with --trust-pickle"
        ) from error
    except Exception as error:  # a damaged file raises whatever its bytes provoke
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"'{file}' is damaged or holds no weights ({detail}); save or copy it again") from error
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"'{file}' holds no state_dict (names and tensors); save model.state_dict()")
    return found


def put(weights: Mapping[str, Tensor], model: nn.Module, name: str) -> None:
    """Copy ``weights`` into ``model``: every name, and every shape, must agree.

    Args:
        weights: as `read` returns them.
        model: changed in place.
        name: of the weights, for messages.

    Raises:
        ModelError: a weight is missing, left over, or of another shape.
    """
    wanted = model.state_dict()
    # Of tied weights, which share their memory, a file may hold one.
    present = {tensor.data_ptr() for key, tensor in wanted.items() if key in weights}
    missing = [k for k, tensor in wanted.items() if k not in weights and tensor.data_ptr() not in present]
    surplus = [key for key in weights if key not in wanted]
    for keys, verb in ((missing, "lacks"), (surplus, "has")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            end = "which the architecture has" if keys is missing else "which the architecture has not"
            raise ModelError(f"'{name}' {verb} weight '{keys[0]}'{more}, {end}; is arch= the model it was saved from?")
    for key, tensor in weights.items():
        if tensor.shape != wanted[key].shape:
            raise ModelError(
                f"weight '{key}' has shape {tuple(tensor.shape)} in '{name}', the architecture expects "
                f"{tuple(wanted[key].shape)}; is arch= the model it was saved from, with its options?"
            )
    with torch.no_grad():
        for key, tensor in weights.items():
            wanted[key].copy_(tensor)
