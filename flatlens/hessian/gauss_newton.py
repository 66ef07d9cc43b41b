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

from flatlens.hessian.columns import Columns, inner
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass

CHUNK = 1 << 22
"""Entries of input columns that are unfolded at a time: larger pieces leave the cache and are slower."""


THIN = 1e-2
"""‖G_c‖² against ‖A‖²‖δ_c‖²: below it, float32 sums of the latter's size may be 1e-5 of the former off."""


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


def pull_back(here: Pass, names: Sequence[str], vectors: Float[Tensor, "n m *K"]) -> dict[str, list[Tensor]]:
    """∂⟨d_c, z⟩/∂s for every direction, as a list of m output-shaped tensors for each layer.

    ``vectors`` are ``[n, m, K]``, or ``[n, m, T, K]`` at positions.
    """
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


def contract(columns: Columns, here: Pass, deltas: Sequence[Tensor], *, chunk: int = CHUNK) -> Products:
    """The inner products of one layer from its δ_c, a few samples at a time."""
    x, n = here.taps[columns.name].input, len(here.logits)
    entries = columns.outputs(deltas[0], n)[0, :, :, 0].numel() * columns.weight[0].numel()
    step = max(1, chunk // max(entries, 1))
    parts = [_contract(columns, x, deltas, slice(i, i + step), n) for i in range(0, n, step)]
    return Products(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _contract(columns: Columns, x: Tensor, deltas: Sequence[Tensor], rows: slice, n: int) -> Products:
    per = len(x) // n
    a = columns.inputs(x[rows.start * per : rows.stop * per], len(range(n)[rows]))
    parts = [columns.outputs(delta, n)[rows] for delta in deltas]
    size = wide(torch.linalg.vector_norm(a.flatten(1), dim=1)).square()
    if _weights_are_cheaper(a, len(parts), parts[0].shape[3]):
        gram, kappa = _through_weights(columns, a, parts)
    else:
        gram, kappa = _through_positions(columns, a, parts, size)
    return Products(gram, kappa, size)


def _weights_are_cheaper(a: Float[Tensor, "n g P I"], m: int, outputs: int) -> bool:
    """Whether forming G_c ``[O, I]`` takes fewer multiplications than going through positions."""
    positions, inputs = a.shape[2:]
    weights = m * outputs * inputs * (positions + outputs)
    return weights < positions * (positions * (inputs + m * outputs) + m * outputs**2)


def _through_weights(
    columns: Columns, a: Float[Tensor, "n g P I"], parts: Sequence[Float[Tensor, "n g P O"]]
) -> tuple[Float[Tensor, "n m m"], Float[Tensor, "n m"]]:
    # The directions beside the outputs, [n, g, P, m, O]: one product makes all G_c, [n, g, m, O, I].
    d = torch.stack(list(parts), 3)
    n, groups, _, m, outputs = d.shape
    g = (d.flatten(3).transpose(2, 3) @ a).view(n, groups, m, outputs, -1)
    if columns.scale is not None:
        g = g.mul_(columns.scale.view(groups, 1, outputs, 1))
    metric = columns.metric.unsqueeze(1).expand(n, groups, m, outputs, outputs)
    coloured = torch.bmm(metric.reshape(-1, outputs, outputs), g.flatten(0, 2))
    kappa = _dots(g.flatten(3), coloured.view_as(g).flatten(3))
    g = g.transpose(1, 2).flatten(2)
    return inner(g, g), kappa


def _through_positions(
    columns: Columns, a: Float[Tensor, "n g P I"], parts: Sequence[Float[Tensor, "n g P O"]], size: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n m m"], Float[Tensor, "n m"]]:
    d = torch.stack(list(parts), 2)  # [n, g, m, P, O]
    if columns.scale is not None:
        d = d.mul_(columns.scale.unsqueeze(1))
    gram, kappa = _by_pairs(columns, a, d)
    if d.dtype == torch.float64:
        return gram, kappa
    # A Aᵀ has the squares of A's singular values. Where what the layer sees hardly varies from position to position, a
    # derivative without a mean leaves little of them, and float32 would lose it: those samples again, in float64.
    left = gram.diagonal(dim1=1, dim2=2)
    terms = wide(torch.linalg.vector_norm(d, dim=(1, 3, 4))).square() * size.unsqueeze(1)
    thin = ((left < THIN * terms) & (terms > 0)).any(1)
    if thin.any():
        at = thin.to(d.device)
        gram[thin], kappa[thin] = _by_pairs(columns, wide(a[at]), wide(d[at]))
    return gram, kappa


def _by_pairs(
    columns: Columns, a: Float[Tensor, "n g P I"], d: Float[Tensor, "n g m P O"]
) -> tuple[Float[Tensor, "n m m"], Float[Tensor, "n m"]]:
    pairs = a @ a.transpose(2, 3)
    left = torch.stack([pairs @ one for one in d.unbind(2)], 2)
    kappa = _dots(left.flatten(3), _within(d, columns.metric.to(d)).flatten(3))
    left, d = (t.transpose(1, 2).flatten(2) for t in (left, d))
    return inner(left, d), kappa


def _dots(left: Float[Tensor, "n g m L"], right: Float[Tensor, "n g m L"]) -> Float[Tensor, "n m"]:
    """The products of rows, float64. Multiplied, then summed in pairs: a product of vectors sums one after another."""
    return wide((left * right).sum((1, 3)))


def _within(d: Float[Tensor, "n g m P O"], square: Float[Tensor, "g O O"]) -> Float[Tensor, "n g m P O"]:
    """Every column times the square matrix of its group."""
    if len(square) == 1:  # one large product: PyTorch would make a batch of small ones
        return (d.flatten(0, 3) @ square[0]).view_as(d)
    return d @ square.unsqueeze(1)


def times(left: Float[Tensor, "n g D P"], parts: Sequence[Float[Tensor, "n g P O"]]) -> Float[Tensor, "m n g D O"]:
    """Left @ part for each of m parts."""
    n, groups, rows, _ = left.shape
    out = left.new_empty(len(parts), n, groups, rows, parts[0].shape[3])
    flat = left.flatten(0, 1)
    for part, into in zip(parts, out, strict=True):
        torch.bmm(flat, part.flatten(0, 1), out=into.flatten(0, 1))
    return out
