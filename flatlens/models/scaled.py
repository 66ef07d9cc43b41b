"""A model whose logits are s times what they were: ``URI?scale=100``, the head's weight and bias multiplied.

Nothing about its decisions changes. Its softmax saturates, its curvature falls by decades, and the gradient of the
cross-entropy underflows: what robustness is then measured by that gradient is an artefact.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from flatlens.errors import LayerError, ModelError, one_line
from flatlens.specs.uris import Uri
from flatlens.specs.values import number

OPTION = "scale"
"""The option of a model's name."""
ROUNDING = 1e-3
"""By how much, relatively, the logits may differ from s times the old ones before the layer is no head."""


def scaled(model: nn.Module, s: float, x: Tensor | None = None) -> nn.Module:
    """A copy of a model whose head's weight and bias are s times as large: its logits are s times what they were.

    The copied head is a plain Linear layer, also where the model's own is parametrised.

    Args:
        model: its head is a Linear layer; never changed.
        s: above 0.
        x: a few inputs ``[n, …]``, to find the head by its output and to check the logits; without them it is the last
            Linear layer that the model has registered.

    Returns:
        The copy, in the mode that the model is in.

    Raises:
        ModelError: s is not above 0, or the model cannot be copied.
        LayerError: there is no Linear layer whose output are the logits.
    """
    if not (s > 0 and math.isfinite(s)):
        raise ModelError(f"scale={s:g}: needs a number above 0, for example scale=100")
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(f"the model cannot be copied ({one_line(error, kind=True)}), and is not changed") from None
    name = _last(copied) if x is None else _head(copied, x)
    before = None if x is None else _logits(copied, x)
    head = copied.get_submodule(name)
    assert isinstance(head, nn.Linear)
    plain = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None).to(head.weight)
    with torch.no_grad():
        plain.weight.copy_(head.weight.detach() * s)
        if head.bias is not None:
            plain.bias.copy_(head.bias.detach() * s)
    plain.train(head.training)
    if not name:
        copied = plain
    else:
        parent, _, own = name.rpartition(".")
        setattr(copied.get_submodule(parent), own, plain)
    if x is not None and before is not None:
        after = _logits(copied, x)
        if bool(((after - s * before).abs() > ROUNDING * s * before.abs().max()).any()):
            raise LayerError(f"layer '{name}' × {s:g} does not make the logits {s:g} times as large: no plain head")
    return copied


def of_uri(model: nn.Module, uri: Uri, shape: tuple[int, ...]) -> nn.Module:
    """The model with the factor of its name; the head is found on an input of this shape.

    Raises:
        ModelError: the factor is no number above 0, or there is no head that it could be given to.
    """
    text = uri.options[OPTION]
    try:
        factor = number(text)
    except ValueError:
        raise ModelError(f"scale={text} in '{uri.text}': needs a number above 0, for example scale=100") from None
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(2, *shape, generator=generator)
    mode = model.training
    try:
        return scaled(model.eval(), factor, example).train(mode)
    except LayerError as error:
        raise ModelError(f"{error} (in '{uri.text}')") from None


def _last(model: nn.Module) -> str:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise LayerError("the model has no Linear layer; its logits can be scaled at a Linear head alone")
    return linear[-1]


def _head(model: nn.Module, x: Tensor) -> str:
    """The Linear layer whose output are the logits, by value; the last one that is called."""
    _last(model)
    found: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(module: nn.Module, given: object, output: Tensor) -> None:
            found[name] = output.detach().clone()

        return hook

    hooks = [
        module.register_forward_hook(keep(name))  # type: ignore[arg-type]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        logits = _logits(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    same = [name for name, output in found.items() if output.shape == logits.shape and output.equal(logits)]
    if not same:
        raise LayerError("the model's logits are no Linear layer's output; they can be scaled at such a head alone")
    return same[-1]


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    own = next(model.parameters(), x)
    with torch.no_grad():
        output = model(x.to(own.device, own.dtype))
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise LayerError(f"the model returns a {type(output).__name__}, not logits; there is no head to scale")
    return logits.detach()
