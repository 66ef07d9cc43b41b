"""DenseNet-121 for small images."""

from __future__ import annotations

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flatlens.models.zoo.blocks import ACTIVATIONS, NORMS, Normalize, conv, initialize, lanes

BLOCKS = (6, 12, 24, 16)
BOTTLENECK = 4


class DenseLayer(nn.Module):
    """A 1×1 and a 3×3 convolution, each after norm and activation; what they give is put beside what they took."""

    def __init__(self, channels: int, growth: int, act: str, norm: str) -> None:
        super().__init__()
        each, inside = lanes(act), BOTTLENECK * growth
        self.norm1, self.act1 = NORMS[norm](each * channels), ACTIVATIONS[act]()
        self.conv1 = conv(channels, each * inside, 1, norm)
        self.norm2, self.act2 = NORMS[norm](each * inside), ACTIVATIONS[act]()
        self.conv2 = conv(inside, each * growth, 3, norm)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """``[n, lanes·channels, H, W]`` to ``[n, lanes·(channels + growth), H, W]``."""
        new = self.conv1(self.act1(self.norm1(x)))
        new = self.conv2(self.act2(self.norm2(new)))
        return torch.cat([x, new], dim=1)


def densenet121(
    shape: tuple[int, ...], classes: int, *, act: str = "relu", norm: str = "batch", growth: int = 32
) -> nn.Sequential:
    """DenseNet-121 (Huang et al. 2017, arXiv 1608.06993) with the stem for small images: 3×3, stride 1, no pooling.

    Between the dense blocks, channels and the image's sides are halved; a side of one pixel stays as it is.

    Args:
        shape: of one image, ``(C, H, W)``.
        classes: number of logits.
        act: one of `ACTIVATIONS`; with swiglu all features have twice the channels, which the activations halve.
        norm: one of `NORMS`.
        growth: channels that each of the 58 dense layers adds; the stem has twice as many.

    Returns:
        a model from ``[n, C, H, W]`` to ``[n, classes]``; 6,956,298 weights for CIFAR-10.

    Raises:
        ModelError: swiglu without norms.
    """
    each, channels, side = lanes(act), 2 * growth, min(shape[1:])
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize())
    layers["conv1"] = conv(shape[0], each * channels, 3, norm)
    for i, count in enumerate(BLOCKS, start=1):
        block = [DenseLayer(channels + j * growth, growth, act, norm) for j in range(count)]
        layers[f"block{i}"] = nn.Sequential(*block)
        channels += count * growth
        if i < len(BLOCKS):
            layers[f"transition{i}"] = _transition(channels, channels // 2, act, norm, shrink=side >= 2)
            channels, side = channels // 2, side // 2
    layers |= OrderedDict(norm=NORMS[norm](each * channels), act=ACTIVATIONS[act]())
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return initialize(nn.Sequential(layers), shape, act)


def _transition(channels: int, out: int, act: str, norm: str, *, shrink: bool) -> nn.Sequential:
    """Norm, activation, a 1×1 convolution, and the mean of every 2×2 pixels where there are as many."""
    each = lanes(act)
    parts: OrderedDict[str, nn.Module] = OrderedDict(norm=NORMS[norm](each * channels), act=ACTIVATIONS[act]())
    parts["conv"] = conv(channels, each * out, 1, norm)
    if shrink:
        parts["pool"] = nn.AvgPool2d(2)
    return nn.Sequential(parts)
