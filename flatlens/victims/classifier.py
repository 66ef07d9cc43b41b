"""Whether a model is a deterministic classifier in eval mode: tried on a few inputs before anything is measured."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlens.errors import FlatlensError, ModelError, one_line
from flatlens.models import guard
from flatlens.victims.layers import Survey, as_logits, survey


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
    again, seen = _pass(model, x).logits, _pass(model, x)
    _check_unchanged(before, _state(model))
    logits = seen.logits
    _check_shape(logits, again)
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
    _check_apart(model, x, logits)
    return seen


def _pass(model: nn.Module, x: Tensor) -> Survey:
    try:
        return survey(model, x)
    except (KeyboardInterrupt, FlatlensError):
        raise
    except BaseException as error:  # a model raises whatever its author chose
        if guard.is_out_of_memory(error):
            raise
        raise ModelError(f"the model fails on inputs of shape {tuple(x.shape)}: {one_line(error)}") from error


def _check_shape(logits: Tensor, again: Tensor) -> None:
    if logits.shape != again.shape:
        raise ModelError(
            f"the model is random: two passes over inputs of the same shape return shapes {tuple(again.shape)} and "
            f"{tuple(logits.shape)}"
        )


@torch.no_grad()
def _check_apart(model: nn.Module, x: Tensor, logits: Tensor) -> None:
    """Whether the logits of one input are the same, whatever the other inputs of its batch.

    Curvature is of one sample's loss, and batches are cut by what fits into memory: neither means anything where
    samples are not classified one by one.

    Raises:
        ModelError: they are not.
    """
    change = _change(model, x, logits)
    if change is None or _is_rounding(model, x):
        return
    raise ModelError(
        f"the model mixes samples: the logits of one input change by {change:.2g} with the other inputs of its batch; "
        "average and attend over a sample's own axes (batch_first=True), and let batch norm use its running "
        "statistics (track_running_stats=True)"
    )


def _change(model: nn.Module, x: Tensor, logits: Tensor) -> float | None:
    """By how much the logits of one input change with the others of its batch; None by no more than rounding."""
    # The first and the last: an RNN that takes samples for steps in time mixes into each what comes before it.
    for row in (0, len(x) - 1):
        # In the same memory format: it decides on the kernel.
        alike = torch.empty_like(x).copy_(x[row : row + 1].expand_as(x))
        if torch.equal(alike, x):  # of one sample, too
            return None
        other = _pass(model, alike).logits
        _check_shape(other, logits)
        change = float((other[row] - logits[row]).abs().max())
        if change > torch.finfo(logits.dtype).eps ** 0.5 * float(logits[row].abs().max()):
            return change
    return None


def _is_rounding(model: nn.Module, x: Tensor) -> bool:
    """Whether nothing is left of the change in float64: some models enlarge the rounding of their first layers."""
    if x.dtype == torch.float64 or not x.is_floating_point():
        return False
    try:
        exact = copy.deepcopy(model).double()
        return _change(exact, x.double(), as_logits(exact(x.double()))) is None
    except Exception:  # a model of one dtype alone raises whatever its author chose
        return False


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
