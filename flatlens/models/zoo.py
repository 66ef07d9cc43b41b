"""Small classifiers that are the objects under study, fitted to the shape of the data.

Both end in a Linear layer ``fc`` whose output is the logits, and normalise their inputs themselves.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """The first half of the channels times the SiLU of the second (Shazeer 2020, arXiv 2002.05202)."""

    def forward(self, x: Float[Tensor, " n *shape"]) -> Float[Tensor, " n *shape"]:
        """``[n, 2·C, …]`` to ``[n, C, …]``."""
        value, gate = x.chunk(2, dim=1)
        return value * F.silu(gate)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "swiglu": SwiGLU}
"""What follows a layer of the zoo; `lanes` of its outputs make one of the activation's."""


def lanes(act: str) -> int:
    """How many channels an activation takes for each that it gives."""
    return 2 if act == "swiglu" else 1


class Normalize(nn.Module):
    """(x − mean) / std, channel by channel; the default changes nothing.

    Args:
        mean: one number a channel (or feature).
        std: the same; not zero.
        dims: how many axes follow the channels', 2 for images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,), dims: int = 2) -> None:
        super().__init__()
        shape = (-1, *[1] * dims)
        self.register_buffer("mean", torch.tensor(mean).reshape(shape))
        self.register_buffer("std", torch.tensor(std).reshape(shape))

    def forward(self, x: Float[Tensor, " n *shape"]) -> Float[Tensor, " n *shape"]:
        """The normalised inputs."""
        return (x - self.mean) / self.std


def cnn(shape: tuple[int, ...], classes: int, *, act: str = "relu", width: int = 8) -> nn.Sequential:
    """Two convolutions, a pooling layer, two Linear layers: 14,074 weights for 8×8 digits.

    Args:
        shape: of one image, ``(C, H, W)``, H and W at least 2.
        classes: number of logits.
        act: one of `ACTIVATIONS`.
        width: channels of the first convolution; the second has 2·width, the hidden layer 6·width.

    Returns:
        a model from ``[n, C, H, W]`` to ``[n, classes]``.
    """
    channels, height, breadth = shape
    activation, each = ACTIVATIONS[act], lanes(act)
    return nn.Sequential(
        OrderedDict(
            normalize=Normalize(),
            conv1=nn.Conv2d(channels, each * width, 3, padding=1),
            act1=activation(),
            conv2=nn.Conv2d(width, each * 2 * width, 3, padding=1),
            act2=activation(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            hidden=nn.Linear(2 * width * (height // 2) * (breadth // 2), each * 6 * width),
            act3=activation(),
            fc=nn.Linear(6 * width, classes),
        )
    )


def mlp(shape: tuple[int, ...], classes: int, *, act: str = "relu", width: int = 64, depth: int = 2) -> nn.Sequential:
    """``depth`` hidden Linear layers of ``width`` units, then the logits.

    Args:
        shape: of one input, of any number of axes.
        classes: number of logits.
        act: one of `ACTIVATIONS`.
        width: units of a hidden layer.
        depth: number of hidden layers.

    Returns:
        a model from ``[n, *shape]`` to ``[n, classes]``.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize(dims=len(shape) - 1))
    layers["flatten"] = nn.Flatten()
    features = torch.Size(shape).numel()
    for i in range(1, depth + 1):
        layers[f"hidden{i}"] = nn.Linear(features, lanes(act) * width)
        layers[f"act{i}"] = ACTIVATIONS[act]()
        features = width
    layers["fc"] = nn.Linear(features, classes)
    return nn.Sequential(layers)
