"""The two plain nets: a small CNN and an MLP."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from flatlens.models.zoo.blocks import ACTIVATIONS, Normalize, lanes


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
