"""A linear map appended to a model's features and undone by its head: ``URI?append=theta.safetensors``.

What `flatlens immunize` finds. The logits stay what they were; who puts a head of their own on the features has others.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor, nn

from flatlens.errors import LayerError, ModelError, one_line, unknown
from flatlens.models.normalized import INSIDE

OPTION = "append"
"""The option of a model's name."""
THETA, HEAD = "theta", "head"
"""What the two parts are called that take the place of a head ``fc``: ``fc.theta`` and ``fc.head``."""


def appended(model: nn.Module, layer: str, theta: Float[Tensor, "d d"]) -> nn.Module:
    """A copy of a model whose features are xθ, and whose head takes θ back: its logits are the same to rounding.

    Args:
        model: has a Linear layer of this name; never changed.
        layer: its head, as in ``model.named_modules()``; "" where the model itself is the layer.
        theta: invertible; d is the number of the head's inputs.

    Returns:
        The copy. In place of the layer stand two: θ, without a bias, and the head with weight W θ⁻ᵀ.

    Raises:
        LayerError: there is no such layer, or one of another size.
        ModelError: θ is not invertible.
    """
    copied = copy.deepcopy(model)
    name = _name(copied, layer)
    head = copied.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise LayerError(f"layer '{layer}' is a {type(head).__name__}; a map is appended before a Linear layer")
    if theta.shape != (head.in_features, head.in_features):
        raise LayerError(
            f"θ has shape {list(theta.shape)} and layer '{layer}' takes {head.in_features} features; they need to match"
        )
    wide = theta.detach().double().cpu()
    # In double precision: a rounded inverse would move the logits by θ's condition number.
    folded, info = torch.linalg.solve_ex(wide, head.weight.detach().double().cpu().T)
    if info.item() or not torch.isfinite(folded).all():
        raise ModelError("θ is singular, or holds NaN; a head cannot undo it")
    before = nn.Linear(len(wide), len(wide), bias=False).to(head.weight)
    with torch.no_grad():
        before.weight.copy_(wide.T)
        head.weight.copy_(folded.T)
    pair = nn.Sequential(OrderedDict([(THETA, before), (HEAD, head)])).train(head.training)
    if not name:
        return pair
    parent, _, own = name.rpartition(".")
    setattr(copied.get_submodule(parent), own, pair)
    return copied


def read(file: Path) -> tuple[str, Tensor]:
    """The layer that a file's θ belongs before, and θ ``[d, d]``.

    Raises:
        ModelError: it is no such file.
    """
    if not file.is_file():
        raise ModelError(f"file '{file}' is not there; append=FILE needs the theta.safetensors of `flatlens immunize`")
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            layer, names = (opened.metadata() or {}).get("layer"), list(opened.keys())
            theta = opened.get_tensor(THETA) if THETA in names else None
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"'{file}' is no safetensors file, or is damaged ({one_line(error)}); copy it again"
        ) from error
    if theta is None:
        raise ModelError(f"'{file}' holds no θ; name the theta.safetensors of `flatlens immunize`")
    if layer is None:
        raise ModelError(
            f"'{file}' was made of features alone and names no layer; immunize with --model, or `appended`"
        )
    return layer, theta


def of_file(model: nn.Module, file: Path) -> nn.Module:
    """The model with the θ of a file appended."""
    return appended(model, *read(file))


def _name(model: nn.Module, layer: str) -> str:
    known = dict(model.named_modules())
    for name in (layer, f"{INSIDE}{layer}"):
        if name in known:
            return name
    linear = [name for name, module in known.items() if isinstance(module, nn.Linear)]
    raise LayerError(unknown("layer", layer, linear, where="this model has"))
