"""The vision transformer, ViT-Tiny by default, for small images."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flatlens.errors import ModelError
from flatlens.models.zoo.blocks import ACTIVATIONS, Normalize, SwiGLU, lanes

EXPANSION = 4
EPS = 1e-6


class Embed(nn.Module):
    """The image as tokens: one for the class, then one a patch, each with its place added."""

    def __init__(self, shape: tuple[int, ...], patch: int, width: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.patch = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        places = (height // patch) * (breadth // patch) + 1
        self.place = nn.Parameter(0.02 * torch.randn(1, places, width))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t d"]:
        """``[n, C, H, W]`` to ``[n, H·W / patch² + 1, width]``."""
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.place


class Attention(nn.Module):
    """Self-attention of several heads (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """``[n, tokens, width]`` to the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two Linear layers, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, act: str) -> None:
        super().__init__()
        inside = EXPANSION * width
        self.norm1, self.attention = nn.LayerNorm(width, EPS), Attention(width, heads)
        self.norm2, self.up = nn.LayerNorm(width, EPS), nn.Linear(width, lanes(act) * inside)
        # The channels of tokens are their last axis.
        self.act = SwiGLU(dim=2) if act == "swiglu" else ACTIVATIONS[act]()
        self.down = nn.Linear(inside, width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """``[n, tokens, width]`` to the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))


class ClassToken(nn.Module):
    """The first token."""

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n d"]:
        """``[n, tokens, width]`` to ``[n, width]``."""
        return x[:, 0]


def vit(
    shape: tuple[int, ...],
    classes: int,
    *,
    act: str = "gelu",
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    patch: int | None = None,
) -> nn.Sequential:
    """Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) of the size called Tiny (Touvron et al. 2021).

    Pre-norm, a class token, learned places; Linear layers drawn as by Glorot & Bengio 2010, no dropout.

    Args:
        shape: of one image, ``(C, H, W)``.
        classes: number of logits.
        act: one of `ACTIVATIONS`, between the two Linear layers of a block.
        width: channels of a token.
        depth: number of blocks.
        heads: of the attention; must divide ``width``.
        patch: side of a patch in pixels; must divide H and W; when left out, 4 for images of 16 pixels or
            more and 2 below.

    Returns:
        a model from ``[n, C, H, W]`` to ``[n, classes]``; 5,717,416 weights for ImageNet in patches of 16.

    Raises:
        ModelError: ``patch`` does not divide H and W, or ``heads`` does not divide ``width``.
    """
    height, breadth = shape[1:]
    patch = patch or (4 if min(height, breadth) >= 16 else 2)
    if height % patch or breadth % patch:
        fit = [p for p in range(1, min(height, breadth) + 1) if height % p == breadth % p == 0]
        raise ModelError(f"patch={patch} does not divide images of {height}×{breadth}; use {_either('patch', fit)}")
    if width % heads:
        fit = [h for h in range(1, 17) if width % h == 0]
        raise ModelError(
            f"heads={heads} does not divide width={width}; use {_either('heads', fit)}, "
            f"or width={max(1, width // heads) * heads}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize(), embed=Embed(shape, patch, width))
    layers["blocks"] = nn.Sequential(*(Block(width, heads, act) for _ in range(depth)))
    layers |= OrderedDict(norm=nn.LayerNorm(width, EPS), token=ClassToken(), fc=nn.Linear(width, classes))
    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def _either(name: str, values: list[int]) -> str:
    """``patch=1, 2 or 4``."""
    head, last = ", ".join(map(str, values[:-1])), values[-1]
    return f"{name}={head} or {last}" if head else f"{name}={last}"
