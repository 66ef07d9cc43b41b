"""VGG-11 for small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from flatlens.models.zoo.blocks import ACTIVATIONS, NORMS, Normalize, initialize, lanes

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of each convolution, in units of the width; a max-pool follows each stage."""


def vgg11(
    shape: tuple[int, ...], classes: int, *, act: str = "relu", norm: str = "batch", width: int = 64
) -> nn.Sequential:
    """VGG-11 (Simonyan & Zisserman 2015, arXiv 1409.1556, column A) with norms, and one Linear layer as its head.

    A max-pool that would leave less than one pixel is left out. The convolutions have biases even before norms, as
    they commonly do. Weights are drawn as by He et al. 2015.

    Args:
        shape: of one image, ``(C, H, W)``.
        classes: number of logits.
        act: one of `ACTIVATIONS`.
        norm: one of `NORMS`.
        width: channels of the first convolution; the last have 8 times as many.

    Returns:
        a model from ``[n, C, H, W]`` to ``[n, classes]``; 9,231,114 weights for CIFAR-10.

    Raises:
        ModelError: swiglu without norms.
    """
    channels, side = shape[0], min(shape[1:])
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize())
    convolutions = 0
    for i, stage in enumerate(STAGES, start=1):
        for times in stage:
            convolutions += 1
            wide = lanes(act) * times * width
            layers[f"conv{convolutions}"] = nn.Conv2d(channels, wide, 3, padding=1)
            layers[f"norm{convolutions}"] = NORMS[norm](wide)
            layers[f"act{convolutions}"] = ACTIVATIONS[act]()
            channels = times * width
        if side >= 2:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            side //= 2
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return initialize(nn.Sequential(layers), shape, act)
