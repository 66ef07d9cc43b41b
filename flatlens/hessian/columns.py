"""A layer seen as s_q = W a_q + b: its input columns a_q, and output-shaped tensors as columns δ_q.

One form for all layers: groups g, positions P, inputs I and outputs O of one group, so that columns are
``[n, g, P, I]`` and ``[n, g, P, O]``. A Linear has one group and a position for each token; a convolution has a
position for each output pixel. The order of the I entries is the layer's own secret: no measure depends on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flatlens.errors import LayerError
from flatlens.victims.checks import apply, computes
from flatlens.victims.layers import Layer
from flatlens.victims.precision import wide


class Columns:
    """The columns of one layer, and the layer as a linear map of its weight.

    Weights here are the victim's: where batch norm was folded in, those of the folded convolution, which are
    D times the user's, row by row (`scale`).

    Args:
        layer: a Linear, Conv1d or Conv2d.

    Attributes:
        scale: D as ``[g, 1, O]``, or None where nothing was folded.
        metric: W Wᵀ of each group, ``[g, O, O]``, of the user's weight: the metric of relative flatness, for the
            user's derivatives.
    """

    def __init__(self, layer: Layer) -> None:
        self.name: str = layer.name
        self.module: nn.Module = layer.module
        self.groups: int = layer.groups
        self.weight: Tensor = getattr(layer.module, "weight").detach()  # noqa: B009 (typed as Tensor | Module)
        self.metric: Tensor = _outer(layer.weight.to(self.weight), self.groups)
        self.scale: Tensor | None = None if layer.scale is None else layer.scale.reshape(self.groups, 1, -1)

    def folded(self, columns: Float[Tensor, "*n g P O"]) -> Float[Tensor, "*n g P O"]:
        """Columns of the user's layer as the victim's, and derivatives by the victim's as the user's: times D."""
        return columns if self.scale is None else columns * self.scale

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer, without its bias, applied to its input with another weight."""
        return apply(self.module, x, weight)

    def inputs(self, x: Tensor, n: int) -> Float[Tensor, "n g P I"]:
        """The input columns of ``n`` samples.

        Args:
            x: the layer's input; samples first. Its first axis may be a multiple of n (windows of an image).
            n: the number of samples.
        """
        if isinstance(self.module, nn.Linear):
            return x.reshape(n, 1, -1, x.shape[-1])
        conv = self.module
        assert isinstance(conv, nn.Conv1d | nn.Conv2d)
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        # What PyTorch itself pads by, for numbers and for "same", sides of unequal width included.
        if any(conv._reversed_padding_repeated_twice):
            x = F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
        x = x.movedim(1, -1)
        batch, *space, _ = x.shape
        first, *steps, channel = x.stride()
        reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        out = [(size - r) // s + 1 for size, r, s in zip(space, reach, conv.stride, strict=True)]
        width = conv.in_channels // self.groups
        # Every patch as a view, channels last: the one copy below then moves runs of channels.
        patches = x.as_strided(
            (batch, self.groups, *out, *conv.kernel_size, width),
            (
                first,
                channel * width,
                *(step * s for step, s in zip(steps, conv.stride, strict=True)),
                *(step * d for step, d in zip(steps, conv.dilation, strict=True)),
                channel,
            ),
            x.storage_offset(),
        )
        patches = patches.reshape(batch, self.groups, -1, width * torch.Size(conv.kernel_size).numel())
        if batch == n:
            return patches
        return patches.reshape(n, batch // n, *patches.shape[1:]).transpose(1, 2).flatten(2, 3)

    def reduced(self, x: Tensor, n: int) -> Float[Tensor, "n g D P"]:
        """Columns R with Rᵀ R = Aᵀ A and D = min(P, I) rows: weights V and their images V A, in the fewest numbers."""
        a = self.inputs(x, n)
        if a.shape[3] <= a.shape[2]:
            return a.transpose(2, 3)
        # The symmetric root of the positions' Gram matrix, in float64: it squares the range of a.
        values, vectors = torch.linalg.eigh(_finite(wide(a) @ wide(a).transpose(2, 3)))
        root = (vectors * values.clamp(min=0).sqrt().unsqueeze(2)) @ vectors.transpose(2, 3)
        return root.to(x.device, x.dtype)

    def outputs(self, delta: Tensor, n: int) -> Float[Tensor, "n g P O"]:
        """An output-shaped tensor (a derivative by s) as columns; a view where memory is channels-last."""
        if not isinstance(self.module, nn.Linear):
            delta = delta.movedim(1, -1)
        return delta.reshape(n, -1, self.groups, self.metric.shape[1]).transpose(1, 2)

    def shaped(self, columns: Float[Tensor, "n g P O"], shape: torch.Size) -> Tensor:
        """The inverse of `outputs`: columns as a tensor of the output's shape."""
        flat = columns.transpose(1, 2).flatten(2)
        if isinstance(self.module, nn.Linear):
            return flat.reshape(shape)
        return flat.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

    def check(self, x: Tensor, output: Tensor) -> None:
        """Raise LayerError if the module does anything else than s = W a + b."""
        if not computes(self.module, x, self.weight, output):
            raise LayerError(
                f"layer '{self.name}' ({type(self.module).__name__}) does not compute W·a + b with its own weight; "
                "only a plain Linear, Conv1d or Conv2d can be probed",
                self.name,
            )


def _outer(weight: Tensor, groups: int) -> Float[Tensor, "g o o"]:
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    return rows @ rows.transpose(1, 2)


def _finite(square: Tensor) -> Tensor:
    """``square`` with 0 where it is not finite: LAPACK refuses NaN, and the sample's other numbers are NaN anyway."""
    return torch.where(torch.isfinite(square).flatten(1).all(1).reshape(-1, *[1] * (square.dim() - 1)), square, 0.0)


def inner(left: Float[Tensor, "n m L"], right: Float[Tensor, "n m L"]) -> Float[Tensor, "n m m"]:
    """⟨left_c, right_c'⟩ for every sample, float64.

    float32 products are taken as they are in blocks of 4096 and the blocks added up in float64: a plain float32
    product is 4e-5 off at half a million entries.
    """
    if left.dtype == torch.float64 or left.shape[2] <= BLOCK:
        return wide(torch.bmm(left, right.transpose(1, 2)))
    blocks = zip(left.split(BLOCK, 2), right.split(BLOCK, 2), strict=True)
    return torch.stack([wide(torch.bmm(a, b.transpose(1, 2))) for a, b in blocks]).sum(0)


BLOCK = 4096
