"""What stands at a model's two ends: the softmax that makes probabilities of its logits, and its inputs' rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.models.normalized import Normalized
from flatlens.victims.layers import as_logits, own_name


def softmax(model: nn.Module, x: Tensor) -> str:
    """What makes probabilities of a model's logits, and how it is taken away; for a model whose outputs sum to 1.

    Args:
        model: the user's.
        x: a few inputs.
    """
    last: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                last.append((name, output.detach()))

        return keep

    leaves = [(name, part) for name, part in model.named_modules() if name and not list(part.children())]
    hooks = [part.register_forward_hook(note(name)) for name, part in leaves]
    own = next(model.parameters(), x)
    try:
        with torch.no_grad():
            out = as_logits(model(x.to(own.device, own.dtype)))
    finally:
        for hook in hooks:
            hook.remove()
    ends = [name for name, output in last if output.shape == out.shape and torch.equal(output, out)]
    if ends:
        name = own_name(ends[-1], model)
        kind = type(model.get_submodule(ends[-1])).__name__
        return f"the {kind} '{name}' at the end makes them so; take it away: {_path(name)} = torch.nn.Identity()"
    inner = model.model if isinstance(model, Normalized) else model
    return f"the forward of {type(inner).__name__} makes them so; let it return what goes into the softmax"


def _path(name: str) -> str:
    """A layer's place as one would write it: ``model.head[2]``."""
    return "model" + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in name.split("."))


def rounding(x: Tensor) -> float:
    """By how much, relatively, values near a bound may lie beyond it by the rounding of the type that they came in.

    Values that float16 or bfloat16 hold exactly came in it, whatever their type is now; others are as float32 has them,
    after the two operations or so of a normalisation and back.
    """
    for kind in (torch.bfloat16, torch.float16):
        if x.dtype == kind or bool((x.to(kind).to(x.dtype) == x).all()):
            return torch.finfo(kind).eps
    return 8 * torch.finfo(torch.float32).eps
