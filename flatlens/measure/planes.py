"""The geometry of a plane of inputs: its directions, its axes, and where points lie beside it. All float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MARGIN = 0.08
"""Of the extent of what a plane must show, on each side."""
NOTHING = 1e-9
"""A direction of which less than this share is left across the other is no direction of its own."""

Floats = NDArray[np.float64]


class Plane(NamedTuple):
    """Origin + u·e₁ + v·e₂.

    ``origin`` ``[d]``; ``basis`` ``[2, d]``, orthonormal, or with a zero row where inputs are a single number.
    """

    origin: Tensor
    basis: Tensor

    @classmethod
    def through(cls, origin: Tensor, directions: Iterable[Tensor]) -> Plane:
        """The plane along the first two of these directions ``[d]`` that are independent of each other."""
        found: list[Tensor] = []
        for direction in directions:
            size = direction.norm()
            left = direction / size
            # Twice: what was removed leaves rounding of its own size.
            for e in (*found, *found):
                left = left - (left @ e) * e
            if bool(size > 0) and bool(torch.isfinite(size)) and float(left.norm()) > NOTHING:
                found.append(left / left.norm())
            if len(found) == 2:
                break
        return cls(origin, torch.stack(found + [torch.zeros_like(origin)] * (2 - len(found))))

    def at(self, points: Tensor) -> tuple[Floats, Floats]:
        """``(u, v)`` ``[n, 2]`` of the points of the plane nearest to points ``[n, d]``, and how far off these are."""
        away = points - self.origin
        at = away @ self.basis.T
        return at.numpy(), (away - at @ self.basis).norm(dim=1).numpy()

    def points(self, u: Floats, v: Floats, size: int) -> Iterator[Tensor]:
        """The grid's points ``[≤ size, d]``, row by row of ``v``."""
        for part in torch.cartesian_prod(torch.from_numpy(v), torch.from_numpy(u)).split(size):
            yield self.origin + part[:, 1:] * self.basis[0] + part[:, :1] * self.basis[1]


def axis(shown: Floats, count: int, on: float = 0.0) -> Floats:
    """``count`` evenly spaced numbers from below to above all that is to be shown; 0 is one of them.

    So is ``on``, which is not below 0, unless it is too small beside what is to be shown.
    """
    low, high = min(0.0, float(shown.min())), max(0.0, float(shown.max()))
    span = high - low or 1.0
    low, high = low - MARGIN * span, high + MARGIN * span
    if on > 0:
        for parts in range(math.floor(on * (count - 1) / (high - low)), 0, -1):
            below, above = math.ceil(-low * parts / on), math.ceil(high * parts / on)
            if below + above <= count - 1:
                below += (count - 1 - below - above) // 2
                return np.asarray(on * ((np.arange(count) - below) / parts))
    step = (high - low) / (count - 2)
    return np.asarray(step * (np.arange(count) - math.ceil(-low / step)))
