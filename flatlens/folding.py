"""Batch norm folded into the convolution before it: the same function, a third less work per pass."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Relative to the largest logit, in float64: folding reorders sums and does nothing else.
AGREEMENT = 1e-9


def fold(model: nn.Module, example: Tensor) -> tuple[nn.Module, dict[str, Tensor]]:
    """Fold every batch norm that directly follows a convolution, where torch.fx traces the model.

    Args:
        model: in eval mode.
        example: inputs on which the folded model must agree with ``model``.

    Returns:
        the folded model, and for each folded convolution the row scale D = γ / √(var + eps), ``[O]``: the
        user's weight times D is the folded one. ``(model, {})`` where nothing can be folded.
    """
    if not any(isinstance(module, NORMS) for module in model.modules()):
        return model, {}
    # In float64, where a device has it: the comparison then sees a wrong function and not the rounding of weights.
    dtype = torch.float64 if example.device.type != "mps" else torch.float32
    try:
        wide = copy.deepcopy(model).to(dtype)
        folded = fx.symbolic_trace(copy.deepcopy(wide))
        scale = _fold_graph(folded)
        if not scale or not _agree(wide, folded, example.to(dtype)):
            return model, {}
    except Exception:  # fx and the model raise whatever they like; what cannot be folded runs as it is
        return model, {}
    return folded.to(example.dtype), {name: row.to(example.dtype) for name, row in scale.items()}


def _fold_graph(traced: fx.GraphModule) -> dict[str, Tensor]:
    modules = dict(traced.named_modules())
    calls: dict[str, int] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    scale: dict[str, Tensor] = {}
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], NORMS):
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = modules[str(before.target)], modules[node.target]
        once = calls[str(before.target)] == 1 and calls[node.target] == 1
        if type(conv) not in CONVOLUTIONS or not once or norm.running_var is None or norm.training:
            continue
        gamma = norm.weight if norm.weight is not None else torch.ones_like(norm.running_var)
        scale[str(before.target)] = (gamma / torch.sqrt(norm.running_var + norm.eps)).detach()
        fused = fuse_conv_bn_eval(conv, norm).requires_grad_(False)
        conv.weight, conv.bias = fused.weight, fused.bias
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return scale


def _agree(model: nn.Module, folded: nn.Module, example: Tensor) -> bool:
    """Whether both compute the same function, to rounding."""
    with torch.no_grad():
        expected, found = (getattr(out, "logits", out) for out in (model(example), folded(example)))
    bound = AGREEMENT if example.dtype == torch.float64 else 1e-4
    return bool((found - expected).abs().max() <= bound * expected.abs().max().clamp(min=1.0))
