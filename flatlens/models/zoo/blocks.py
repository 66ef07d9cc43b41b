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
        mean, std = self.mean, self.std
        if mean.dim() != x.dim() - 1:  # made for images, and given features, sequences or volumes
            shape = (-1, *[1] * (x.dim() - 2))
            mean, std = mean.reshape(shape), std.reshape(shape)
        return (x - mean) / std


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


def conv(channels: int, out: int, size: int, norm: str, *, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the image's size at stride 1; it has a bias only where no norm's follows."""
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=norm == "none")


def initialize(model: nn.Sequential, shape: tuple[int, ...], act: str) -> nn.Sequential:
    """``model`` with its convolutions drawn as by He et al. 2015 (arXiv 1502.01852), its gates open where it has any.

    Args:
        model: changed in place; in train mode.
        shape: of one image.
        act: one of `ACTIVATIONS`.

    Raises:
        ModelError: swiglu without norms.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # The variance is 2 / inputs, or 1 / inputs where the activation passes all that it is given.
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if act == "swiglu" else "relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if act == "swiglu":
        _open_gates(model, shape)
    return model


OPEN = 1.2785
"""Where SiLU is 1."""


def _open_gates(model: nn.Sequential, shape: tuple[int, ...]) -> None:
    """Let every SwiGLU start almost linear, value · SiLU(≈ 1.28).

    Left to themselves, gates square the scale of a sample layer after layer: a batch norm then sees one sample alone,
    and a deep net learns nothing. For the same reason batch norms do not start from mean 0 and variance 1, but from
    what they see of noise: an untrained net would overflow in eval mode, and with it adversarial training's attack.

    Raises:
        ModelError: there is no norm.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)]
    if not norms:
        raise ModelError("norm=none lets act=swiglu overflow; use norm=batch or norm=group, or act=silu")
    for norm in norms:
        nn.init.constant_(norm.weight.data.chunk(2)[1], 0.1)
        nn.init.constant_(norm.bias.data.chunk(2)[1], OPEN)
    batch = [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
    for norm in batch:
        norm.momentum = None  # the mean over all passes, here of one
    if batch:
        with torch.no_grad():
            model(torch.rand(8, *shape))
    for norm in batch:
        norm.momentum = 0.1
