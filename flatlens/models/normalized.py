"""A model with its normalisation inside, so that its inputs, radii and gradients are in the units of the data."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.errors import ModelError, UsageError
from flatlens.models.zoo import Normalize
from flatlens.specs.uris import Uri

OPTIONS = ("mean", "std")
"""Of every model's name: ``?mean=0.286&std=0.353``, a number or one for each channel."""
INSIDE = "model."
"""What a wrapped model's own names begin with."""


class Normalized(nn.Module):
    """``model((x − mean) / std)``.

    Args:
        model: from ``[n, C, …]`` to logits ``[n, K]``, or an object with ``.logits``.
        mean: one number a channel, or one for all, in the units of the inputs.
        std: the same; not zero.
        dims: how many axes follow the channels', 2 for images.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], dims: int = 2) -> None:
        super().__init__()
        self.normalize: Normalize = _part(model, mean, std, dims)
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """What the model returns for the normalised inputs."""
        return self.model(self.normalize(x))


def _part(model: nn.Module, mean: Sequence[float], std: Sequence[float], dims: int) -> Normalize:
    """The normalisation in the model's own dtype: rounded once, and not to float32 on the way to float64."""
    own = next(model.parameters(), torch.empty(0))
    dtype = own.dtype if own.dtype.is_floating_point else torch.float32
    made = Normalize(tuple(float(m) for m in mean), tuple(float(s) for s in std), dims)
    for name, values in (("mean", mean), ("std", std)):
        exact = torch.tensor([float(v) for v in values], dtype=torch.float64).reshape(getattr(made, name).shape)
        setattr(made, name, exact.to(own.device, dtype))
    return made.train(model.training)


def normalized(model: nn.Module, mean: Any, std: Any, shape: tuple[int, ...] | None = None) -> nn.Module:
    """The model that normalises its inputs by ``mean`` and ``std``, and by nothing else that is flatlens' own.

    A model that flatlens has given a normalisation (the built-in ones, ``timm:``, ``torchvision:``, ``hf:``) gets this
    one in its place. Another is wrapped; the weights are shared, and the model itself is left as it is.

    Args:
        model: the user's.
        mean: a number, or one for each channel, in the units of the inputs.
        std: the same, above 0.
        shape: of one input, whose first axis are the channels; any when left out.

    Raises:
        ModelError: values that cannot be, or not as many as there are channels.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    means, stds = (read(name, value, shape) for name, value in (("mean", mean), ("std", std)))
    dims = 2 if shape is None else max(0, len(shape) - 1)
    if isinstance(model, Normalized):
        return Normalized(model.model, means, stds, dims).train(model.training)
    if isinstance(own := getattr(model, "normalize", None), Normalize):
        same = copy.copy(model)  # all else is shared, and the layers keep their names
        same._modules = dict(model._modules)
        same.normalize = _part(model, means, stds, dims).train(own.training)
        return same
    return Normalized(model, means, stds, dims).train(model.training)


def read(name: str, value: Any, shape: tuple[int, ...] | None) -> tuple[float, ...]:
    """``mean`` or ``std``: a number, a text such as ``0.5,0.25`` or ``8/255``, a sequence, array or tensor of numbers.

    Raises:
        ModelError: it is none, not finite, a deviation that is not above 0, or of another number than the channels.
    """
    values = _numbers(name, value)
    channels = len(values) if shape is None else shape[0] if shape else 1
    shown = ",".join(f"{v:g}" for v in values)
    if len(values) not in (1, channels):
        raise ModelError(
            f"{name}={shown} has {len(values)} values, the inputs of shape {shape} have {channels} "
            f"channel{'s' * (channels != 1)}; give one number, or one for each channel"
        )
    if not all(math.isfinite(v) and (name == "mean" or v > 0) for v in values):
        what = "a finite number" if name == "mean" else "a number above 0"
        raise ModelError(f"{name}={shown}: each needs to be {what}, for example {name}=0.5")
    return values


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    from flatlens.specs.values import number

    if isinstance(value, str):
        value = value.strip().strip("[]()").split(",")
    elif hasattr(value, "tolist"):
        value = value.tolist()
    items = value if isinstance(value, (list, tuple)) else [value]
    while len(items) == 1 and isinstance(items[0], (list, tuple)):
        items = items[0]  # [1, C, 1, 1], as broadcasting wants it
    found = []
    for item in items:
        while isinstance(item, (list, tuple)) and len(item) == 1:
            item = item[0]
        try:
            if isinstance(item, bool):
                raise TypeError
            found.append(number(item.strip()) if isinstance(item, str) else float(item))
        except (TypeError, ValueError, UsageError):
            raise ModelError(
                f"{name}={value if not isinstance(value, list) else ','.join(map(str, value))}: "
                f"{item!r} is no number; write {name}=0.5, or one for each channel: {name}=0.5,0.25,8/255"
            ) from None
    if not found:
        raise ModelError(f"{name} is empty; write {name}=0.5, or one for each channel: {name}=0.5,0.25,8/255")
    return tuple(found)


def pair(normalize: Any) -> tuple[Any, Any]:
    """``normalize=`` of Python as mean and std.

    Raises:
        ModelError: it is no pair.
    """
    if isinstance(normalize, Mapping) and set(normalize) == set(OPTIONS):
        return normalize["mean"], normalize["std"]
    if isinstance(normalize, (str, bytes, Mapping)) or not hasattr(normalize, "__len__") or len(normalize) != 2:
        raise ModelError(
            f"normalize={normalize!r}: needs a pair (mean, std), each a number or one for each channel, "
            "for example normalize=(0.286, 0.353)"
        )
    mean, std = normalize
    return mean, std


def plain(normalize: Any) -> dict[str, list[float]]:
    """``normalize=`` of Python as plain data, for a manifest."""
    return {name: list(_numbers(name, value)) for name, value in zip(OPTIONS, pair(normalize), strict=True)}


def asked(uri: Uri) -> tuple[str, str] | None:
    """What a name says of normalisation, or None.

    Raises:
        ModelError: one of the two is missing.
    """
    given = {name: uri.options[name] for name in OPTIONS if name in uri.options}
    if not given:
        return None
    for name, other, neutral in (("mean", "std", "0"), ("std", "mean", "1")):
        if name not in given:
            raise ModelError(
                f"'{uri.text}' has {other}={given[other]} and no {name}; give both, {name}={neutral} for none"
            )
    return given["mean"], given["std"]


def fitted(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """``values`` for so many channels: as they are, or their average where the numbers differ (grey images)."""
    values = tuple(float(v) for v in values)
    return values if len(values) in (1, channels) else (sum(values) / len(values),)


def carried(weights: Mapping[str, Tensor]) -> bool:
    """Whether saved weights are of a model that was wrapped here, with the normalisation that it had."""
    names = ("normalize.mean", "normalize.std")
    return all(n in weights for n in names) and all(n in names or n.startswith(INSIDE) for n in weights)


def make_room(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the model's normalisation as many channels as that of saved weights has."""
    own = getattr(model, "normalize", None)
    if not isinstance(own, Normalize):
        return
    for name in OPTIONS:
        saved, now = weights.get(f"normalize.{name}"), getattr(own, name)
        if saved is not None and saved.shape != now.shape and saved.dim() == now.dim():
            setattr(own, name, now.new_ones(saved.shape))
