"""Products with the weight of a head of many classes, in blocks of rows: it keeps its own dtype, its float64 does not
stand in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flatlens.victims.precision import wide

BLOCK = 8192
"""Rows of the weight that are float64 at a time: 38 MB at a width of 576."""
HEAVY = 64
"""So many of the likeliest classes have their distance to the top class from differences, which do not cancel."""


def blocks(weight: Float[Tensor, "k i"], size: int = BLOCK) -> Iterator[tuple[slice, Float[Tensor, "b i"]]]:
    """The weight's rows in float64, ``size`` at a time, and which rows they are."""
    for start in range(0, len(weight), size):
        at = slice(start, min(start + size, len(weight)))
        yield at, wide(weight[at])


def products(
    a: Float[Tensor, "n i"], weight: Float[Tensor, "k i"], bias: Float[Tensor, " k"] | None, size: int = BLOCK
) -> Float[Tensor, "n k"]:
    """W·a + b in float64."""
    out = a.new_empty(len(a), len(weight))
    for at, rows in blocks(weight, size):
        out[:, at] = a @ rows.T
    return out if bias is None else out + bias


def weight_variance(
    weight: Float[Tensor, "k i"],
    top: Int[Tensor, " n"],
    rest: Float[Tensor, " n"],
    others: Float[Tensor, "n k"],
    size: int = BLOCK,
) -> Float[Tensor, " n"]:
    """Σ_k p_k ‖w_k − w̄‖² = r · E_q‖w − w_top‖² − r² · ‖E_q w − w_top‖², right however saturated p is.

    Args:
        weight: in its own dtype.
        top: the likeliest class.
        rest: r = 1 − p_top, added up from the other classes.
        others: q, the distribution over the other classes, 0 at the top.
        size: rows of a block.
    """
    base = wide(weight[top])
    base_sq = base.square().sum(1)
    mass, heavy = others.topk(min(HEAVY, others.shape[1]), dim=1)
    light = others.scatter(1, heavy, 0.0)
    distance, mean = torch.zeros_like(rest), torch.zeros_like(base)
    for at, rows in blocks(weight, size):
        squares = torch.linalg.vecdot(rows, rows) - 2 * base @ rows.T + base_sq.unsqueeze(1)
        distance += (light[:, at] * squares.clamp(min=0)).sum(1)
        mean += others[:, at] @ rows
    for i, (chosen, weights) in enumerate(zip(heavy, mass, strict=True)):
        distance[i] += weights @ (wide(weight[chosen]) - base[i]).square().sum(1)
    return rest * (distance - rest * (mean - base).square().sum(1))
