"""Batch norm folded into the convolution before it: the same function, a third less work per pass."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flatlens.models.zoo import Normalize
from flatlens.victims.layers import PROBEABLE, as_logits
from flatlens.victims.precision import widest

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Relative to the largest logit, in float64: folding reorders sums and does nothing else.
AGREEMENT = 1e-9


def fold(model: nn.Module, example: Tensor) -> tuple[nn.Module, dict[str, Tensor]]:
    """Fold every batch norm that directly follows a convolution, where torch.fx traces the model.

    Args:
        model: in eval mode; it is used up where something is folded.
        example: inputs on which the folded model must agree with ``model``.

    Returns:
        the folded model, and for each folded convolution the row scale D = γ / √(var + eps), ``[O]``: the
        user's weight times D is the folded one. ``(model, {})`` where nothing can be folded.

    Raises:
        KeyboardInterrupt: the user's, while the model runs.
    """
    if not any(isinstance(module, NORMS) for module in model.modules()):
        return model, {}
    # In float64, where a device has it: the comparison then sees a wrong function and not the rounding of weights.
    dtype = widest(example.device)
    try:
        expected = _logits(model.to(dtype), example.to(dtype))
        folded, scale = _fold_graph(fx.GraphModule(model, _Tracer().trace(model)))
        agree = _agree(expected, _logits(folded, example.to(dtype)))
    except KeyboardInterrupt:
        raise
    except BaseException:  # fx and the model raise whatever they like; what cannot be folded runs as it is
        agree = False
    # There and back again is exact: every float32 is a float64.
    model = model.to(example.dtype)
    if not agree or not scale:
        return model, {}
    return folded.to(example.dtype), {name: row.to(example.dtype) for name, row in scale.items()}


class _Tracer(fx.Tracer):
    """Calls of layers that can be probed stay calls, those of the user's own subclasses too, and of normalisations."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*PROBEABLE, Normalize)) or super().is_leaf_module(m, module_qualified_name)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _fold_graph(traced: fx.GraphModule) -> tuple[fx.GraphModule, dict[str, Tensor]]:
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
        if _hooked(conv) or _hooked(norm):  # what a hook does between the two would be lost
            continue
        gamma = norm.weight if norm.weight is not None else torch.ones_like(norm.running_var)
        scale[str(before.target)] = (gamma / torch.sqrt(norm.running_var + norm.eps)).detach()
        fused = fuse_conv_bn_eval(conv, norm).requires_grad_(False)  # a copy: the model's own convolution stays
        _replace(traced, str(before.target), fused)
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced, scale


def _replace(traced: fx.GraphModule, target: str, module: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, module)


def _logits(model: nn.Module, example: Tensor) -> Tensor:
    with torch.no_grad():
        return as_logits(model(example))


def _agree(expected: Tensor, found: Tensor) -> bool:
    """Whether both are the same, to rounding."""
    bound = AGREEMENT if expected.dtype == torch.float64 else 1e-4
    return bool((found - expected).abs().max() <= bound * expected.abs().max().clamp(min=1.0))
