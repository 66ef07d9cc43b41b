"""Whether a model is a deterministic classifier in eval mode: tried on a few inputs before anything is measured."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlens.errors import FlatlensError, ModelError, one_line
from flatlens.models import guard
from flatlens.victims.layers import Survey, survey


def check_mode(model: nn.Module) -> None:
    """Raise ModelError if any part of the model is in train mode."""
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    # A module without parameters or children (an activation) may carry a stale flag; dropout may not.
    if model.training or training:
        raise ModelError(f"the model is in train mode ('{training[0]}'); call model.eval() first")


def check_logits(model: nn.Module, x: Tensor) -> Survey:
    """Two passes over ``x``; return the last one's survey or raise ModelError saying why it has no logits."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(f"weight '{name}' holds {bad} values that are not finite; train or load the model again")
    before = _state(model)
    try:
        again, seen = survey(model, x).logits, survey(model, x)
    except FlatlensError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a model raises whatever its author chose
        if guard.is_out_of_memory(error):
            raise
        raise ModelError(f"the model fails on inputs of shape {tuple(x.shape)}: {one_line(error)}") from error
    _check_unchanged(before, _state(model))
    logits = seen.logits
    if logits.shape != again.shape:
        raise ModelError(
            f"the model is random: two passes over the same inputs return shapes {tuple(again.shape)} and "
            f"{tuple(logits.shape)}"
        )
    if logits.dim() != 2 or logits.shape[0] != x.shape[0]:
        raise ModelError(
            f"the model returns shape {tuple(logits.shape)} for {x.shape[0]} inputs; logits of shape [n, K] are needed"
        )
    if logits.shape[1] == 1:
        raise ModelError(
            "the model returns one logit; return two, (0, z) for a sigmoid of z, so that cross-entropy applies"
        )
    if not torch.equal(logits, again) and not (torch.isnan(logits).any() and torch.isnan(again).any()):
        raise ModelError(
            "the model is random: two passes over the same inputs differ "
            f"by {float((logits - again).abs().max()):.2g}; switch dropout and noise off"
        )
    return seen


class _State(NamedTuple):
    """A parameter or buffer as it was: what counts its edits, and its sum, which also shows those behind autograd."""

    kind: str
    tensor: Tensor
    version: int
    total: Tensor


def _state(model: nn.Module) -> dict[str, _State]:
    named = (("parameter", model.named_parameters()), ("buffer", model.named_buffers()))
    return {
        name: _State(kind, tensor, 0 if tensor.is_inference() else tensor._version, _sum(tensor.detach()))
        for kind, tensors in named
        for name, tensor in tensors
    }


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(dtype=torch.float32) if tensor.is_floating_point() else tensor.sum()


def _check_unchanged(before: dict[str, _State], after: dict[str, _State]) -> None:
    """Raise ModelError if a forward pass has changed a parameter or buffer; new ones, such as caches, may appear."""
    for name, old in before.items():
        new = after.get(name)
        edited = new is None or (old.tensor is new.tensor and old.version != new.version)
        if edited or (new is not None and not torch.equal(old.total, new.total)):
            raise ModelError(
                f"the model changes its {old.kind} '{name}' in a forward pass; "
                "it must stay as it is while it is attacked: leave such updates out in eval mode"
            )
