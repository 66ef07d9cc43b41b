"""A private copy of the user's model that can be looked into: not compiled, its weights plain parameters."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flatlens.errors import ModelError, one_line

COMPILED = "_orig_mod"
"""What `torch.compile` calls the module inside."""


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given, or the model itself."""
    inside = model._modules.get(COMPILED)
    return model if inside is None else uncompiled(inside)


def is_compiled(model: nn.Module) -> bool:
    """Whether a part of the model is compiled: hooks set afterwards are not seen there."""
    return any(COMPILED in m._modules or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())


def private_copy(model: nn.Module) -> nn.Module:
    """A copy with the same function, whose every weight is a parameter.

    Compiled parts are the modules that were compiled; what weight norm, spectral norm, pruning and other
    parametrisations compute in each pass has become a plain weight.

    Raises:
        ModelError: the model does not survive ``deepcopy``.
    """
    copied = _copy(uncompiled(model))
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if (inside := uncompiled(child)) is not child:
                setattr(module, name, inside)
    with torch.no_grad():
        for module in copied.modules():
            _make_plain(module)
    return copied


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a model of this dtype is attacked and measured.

    Steps of 8/255 and curvature are lost in 8 bits of mantissa; every such weight is a float32 exactly.
    """
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _copy(model: nn.Module) -> nn.Module:
    # What a hook computed in the last pass is no leaf, which deepcopy refuses; the next pass computes it anew.
    memo: dict[int, object] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch about itself, for programs of torch.export
            return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({one_line(error, kind=True)}); it must survive deepcopy"
        ) from error


def _make_plain(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        # Not by `remove_parametrizations`: it edits the module's class, which the user's own module has too.
        values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}  # type: ignore[union-attr]
        kind = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        module.__class__ = kind
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
