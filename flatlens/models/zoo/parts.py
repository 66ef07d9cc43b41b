"""What the nets of the zoo are made of: input normalisation, activations, norms, convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flatlens.errors import ModelError


class SwiGLU(nn.Module):
    """The first half of the channels times the SiLU of the second (Shazeer 2020, arXiv 2002.05202).

    Args:
        dim: the channels' axis.
    """

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Float[Tensor, " n *shape"]) -> Float[Tensor, " n *shape"]:
        """``[n, 2·C, …]`` to ``[n, C, …]``."""
        value, gate = x.chunk(2, dim=self.dim)
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


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 16 channels (Wu & He 2018, arXiv 1803.08494), or of as few more as divide ``channels`` evenly."""
    groups = next(g for g in range(max(1, channels // 16), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "none": nn.Identity,
}
"""What stands between a convolution and its activation, made for a number of channels."""


def check_norm(act: str, norm: str) -> None:
    """Raise where the two do not go together: SwiGLU squares the scale of what it takes, layer after layer.

    Batch norm holds that scale only by the statistics of its training: before any, a deep net in eval mode may still
    give values that are not finite. Group norm holds it always.

    Raises:
        ModelError: swiglu without norms.
    """
    if act == "swiglu" and norm == "none":
        raise ModelError("norm=none lets act=swiglu overflow; use norm=batch or norm=group, or act=silu")


def conv(channels: int, out: int, size: int, norm: str, *, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the image's size at stride 1; it has a bias only where no norm's follows."""
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=norm == "none")


def initialize(model: nn.Sequential) -> nn.Sequential:
    """``model`` with its convolutions drawn as by He et al. 2015 (arXiv 1502.01852): variance 2 / inputs, no bias."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
