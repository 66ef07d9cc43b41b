"""Residual nets for small images: ResNet-18 and the wide ResNets."""

from __future__ import annotations

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from flatlens.errors import ModelError
from flatlens.models.zoo.blocks import ACTIVATIONS, NORMS, Normalize, conv, initialize, lanes


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut; the activation follows the sum (He et al. 2016)."""

    def __init__(self, channels: int, out: int, stride: int, act: str, norm: str) -> None:
        super().__init__()
        wide = lanes(act) * out
        self.conv1, self.norm1, self.act1 = conv(channels, wide, 3, norm, stride=stride), NORMS[norm](wide), _act(act)
        self.conv2, self.norm2, self.act2 = conv(out, wide, 3, norm), NORMS[norm](wide), _act(act)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != wide:
            parts = OrderedDict(conv=conv(channels, wide, 1, norm, stride=stride), norm=NORMS[norm](wide))
            self.shortcut = nn.Sequential(parts)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o i j"]:
        """``[n, channels, H, W]`` to ``[n, out, H / stride, W / stride]``."""
        branch = self.act1(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        return self.act2(branch + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """Norm and activation before each of two 3×3 convolutions; nothing follows the sum (He et al. 2016b)."""

    def __init__(self, channels: int, out: int, stride: int, act: str, norm: str) -> None:
        super().__init__()
        each = lanes(act)
        self.norm1, self.act1 = NORMS[norm](each * channels), _act(act)
        self.conv1 = conv(channels, each * out, 3, norm, stride=stride)
        self.norm2, self.act2 = NORMS[norm](each * out), _act(act)
        self.conv2 = conv(out, each * out, 3, norm)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels != out:
            self.shortcut = conv(channels, each * out, 1, norm, stride=stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o i j"]:
        """``[n, lanes·channels, H, W]`` to ``[n, lanes·out, H / stride, W / stride]``."""
        ready = self.act1(self.norm1(x))
        branch = self.conv2(self.act2(self.norm2(self.conv1(ready))))
        return branch + (x if self.shortcut is None else self.shortcut(ready))


def resnet18(
    shape: tuple[int, ...], classes: int, *, act: str = "relu", norm: str = "batch", width: int = 64
) -> nn.Sequential:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385) with the stem for small images: 3×3, stride 1, no pooling.

    With swiglu the sums have twice as many channels as the blocks' inputs, so every shortcut is a convolution.

    Args:
        shape: of one image, ``(C, H, W)``.
        classes: number of logits.
        act: one of `ACTIVATIONS`.
        norm: one of `NORMS`.
        width: channels of the stem and the first group; the others have 2, 4 and 8 times as many.

    Returns:
        a model from ``[n, C, H, W]`` to ``[n, classes]``; 11,173,962 weights for CIFAR-10.

    Raises:
        ModelError: swiglu without norms.
    """
    wide = lanes(act) * width
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize())
    layers |= OrderedDict(conv1=conv(shape[0], wide, 3, norm), norm1=NORMS[norm](wide), act1=_act(act))
    channels = width
    for i, out in enumerate((width, 2 * width, 4 * width, 8 * width)):
        first = BasicBlock(channels, out, 1 if i == 0 else 2, act, norm)
        layers[f"layer{i + 1}"] = nn.Sequential(first, BasicBlock(out, out, 1, act, norm))
        channels = out
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return initialize(nn.Sequential(layers), shape, act)


def wide_resnet(
    shape: tuple[int, ...],
    classes: int,
    *,
    act: str = "relu",
    norm: str = "batch",
    width: int = 16,
    depth: int = 28,
    widen: int = 4,
) -> nn.Sequential:
    """WRN-``depth``-``widen`` (Zagoruyko & Komodakis 2016, arXiv 1605.07146), without dropout.

    Args:
        shape: of one image, ``(C, H, W)``.
        classes: number of logits.
        act: one of `ACTIVATIONS`; with swiglu the sums have twice the channels, which the activations halve.
        norm: one of `NORMS`.
        width: channels of the stem, and of the first group before widening; the others have 2 and 4 times as many.
        depth: number of convolutions, those of three shortcuts included as in the paper: 6·n + 4 for n blocks a group.
        widen: by how much the groups are wider than ``width``.

    Returns:
        a model from ``[n, C, H, W]`` to ``[n, classes]``; 5,849,050 weights for CIFAR-10.

    Raises:
        ModelError: ``depth`` is not 6·n + 4 with n ≥ 1, or swiglu without norms.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        near = [10, 16] if blocks < 1 else [6 * blocks + 4, 6 * blocks + 10]
        raise ModelError(f"depth={depth}: a wide ResNet has a depth of 6·n + 4; use {near[0]} or {near[1]}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize())
    layers["conv1"] = conv(shape[0], lanes(act) * width, 3, norm)
    channels = width
    for i in range(3):
        out = 2**i * widen * width
        first = PreActivationBlock(channels, out, 1 if i == 0 else 2, act, norm)
        more = [PreActivationBlock(out, out, 1, act, norm) for _ in range(blocks - 1)]
        layers[f"layer{i + 1}"] = nn.Sequential(first, *more)
        channels = out
    layers |= OrderedDict(norm=NORMS[norm](lanes(act) * channels), act=_act(act))
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, classes))
    return initialize(nn.Sequential(layers), shape, act)


def _act(act: str) -> nn.Module:
    return ACTIVATIONS[act]()
