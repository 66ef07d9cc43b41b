"""The generalised Gauss–Newton matrix of any layer, exactly, by one backward pass for each direction.

With d_c and ω_c from `directions`, δ_c = ∂⟨d_c, z⟩/∂s and G_c = Σ_q δ_{c,q} a_qᵀ, the matrix is
Σ_c ω_c vec(G_c) vec(G_c)ᵀ, so that all measures follow from the inner products ⟨G_c, G_c'⟩ and ⟨G_c, W Wᵀ G_c⟩.
They are taken in one of two ways, whichever is cheaper: through G_c, or through the positions' Gram matrix,
⟨G_c, G_c'⟩ = Σ_{q,q'} (a_q·a_q') (δ_{c,q}·δ_{c',q'}). No matrix of the size of W times W is ever formed.

The backward passes run on the graph of the pass at hand, stop at the earliest probed layer, and serve all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.forward import Forward
from flatlens.hessian.columns import Columns, inner, wide

CHUNK = 1 << 22
"""Entries of input columns that are unfolded at a time: larger pieces leave the cache and are slower."""


class Products(NamedTuple):
    """What the backward passes left at one layer, float64; the directions are unweighted.

    Attributes:
        gram: ⟨G_c, G_c'⟩, ``[n, m, m]``.
        kappa: ⟨G_c, W Wᵀ G_c⟩, ``[n, m]``.
        feature_norm_sq: Σ_q ‖a_q‖², ``[n]``.
    """

    gram: Float[Tensor, "n m m"]
    kappa: Float[Tensor, "n m"]
    feature_norm_sq: Float[Tensor, " n"]


def pull_back(here: Forward, names: Sequence[str], vectors: Float[Tensor, "n m K"]) -> dict[str, list[Tensor]]:
    """∂⟨d_c, z⟩/∂s for every direction, as a list of m output-shaped tensors for each layer."""
    taps = [here.taps[name] for name in names]
    places = [tap.output for tap in taps]
    cotangents = vectors.transpose(0, 1).to(here.logits.device, here.logits.dtype)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for cotangent in cotangents:
        # One after the other: batched (vmapped) passes were measured, and are slower for convolutions.
        deltas = torch.autograd.grad(here.logits, places, cotangent, retain_graph=True, allow_unused=True)
        for tap, delta in zip(taps, deltas, strict=True):
            # A layer that the logits do not depend on has no curvature.
            found[tap.layer.name].append(tap.value.new_zeros(tap.output_shape) if delta is None else delta)
    return found


def contract(columns: Columns, here: Forward, deltas: Sequence[Tensor], *, chunk: int = CHUNK) -> Products:
    """The inner products of one layer from its δ_c, a few samples at a time."""
    x, n = here.taps[columns.name].input, len(here.logits)
    entries = columns.outputs(deltas[0], n)[0, :, :, 0].numel() * columns.weight[0].numel()
    step = max(1, chunk // max(entries, 1))
    parts = [_contract(columns, x, deltas, slice(i, i + step), n) for i in range(0, n, step)]
    return Products(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _contract(columns: Columns, x: Tensor, deltas: Sequence[Tensor], rows: slice, n: int) -> Products:
    per = len(x) // n
    a = columns.inputs(x[rows.start * per : rows.stop * per], len(range(n)[rows]))
    parts = [columns.outputs(d, n)[rows] for d in deltas]
    if _through_weights(a, len(parts), parts[0].shape[3]):
        left = right = times(a.transpose(2, 3), parts)
    else:
        left, right = times(a @ a.transpose(2, 3), parts), torch.stack(parts)
    kappa = wide((left * _within(right, columns.outer)).flatten(2).sum(2)).T
    if columns.scale is not None:
        left = left.mul_(columns.scale if left is right else columns.scale.square())
    gram = inner(left.flatten(2), right.flatten(2))
    return Products(gram, kappa, wide(torch.linalg.vector_norm(a.flatten(1), dim=1)).square())


def _through_weights(a: Float[Tensor, "n g P I"], m: int, outputs: int) -> bool:
    """Whether forming G_c [I, O] is cheaper than going through positions: by products, for all m directions."""
    positions, inputs = a.shape[2:]
    return m * outputs * inputs < positions * (inputs + m * outputs)


def times(left: Float[Tensor, "n g D P"], parts: Sequence[Float[Tensor, "n g P O"]]) -> Float[Tensor, "m n g D O"]:
    """Left @ part for each of m parts."""
    n, groups, rows, _ = left.shape
    out = left.new_empty(len(parts), n, groups, rows, parts[0].shape[3])
    flat = left.flatten(0, 1)
    for part, into in zip(parts, out, strict=True):
        torch.bmm(flat, part.flatten(0, 1), out=into.flatten(0, 1))
    return out


def _within(columns: Float[Tensor, "m n g P O"], square: Float[Tensor, "g O O"]) -> Float[Tensor, "m n g P O"]:
    """Every column times the square matrix of its group."""
    if len(square) == 1:  # one large product: PyTorch would make a batch of small ones
        return (columns.flatten(0, 3) @ square[0]).view_as(columns)
    return columns @ square
