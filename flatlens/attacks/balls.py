"""Norm balls: how to step steepest in one, and how to come back into it. Attacks hold a ball; none inherits it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.errors import AttackError, unknown

Points = Float[Tensor, "n ..."]
Radius = float | Tensor
"""One radius for all samples, or one each, ``[n]``."""

# foolbox's guard: a gradient of exactly 0 stays 0 instead of becoming NaN.
TINY = 1e-12
SPARSE = 0.01
"""The share of coordinates that one l1 step changes (Tramèr & Boneh 2019: the 99th percentile)."""


@runtime_checkable
class Ball(Protocol):
    """A ball of radius eps around the clean input, in one norm."""

    def steepest(self, gradient: Points) -> Points:
        """The direction of unit norm in which the objective rises fastest, ``[n, …]``; 0 where the gradient is 0."""

    def shrink(self, delta: Points, eps: Radius) -> Points:
        """The point of the ball of radius eps that is nearest to ``delta``, ``[n, …]``."""

    def project(self, x: Points, origin: Points, eps: Radius, bounds: tuple[float, float]) -> Points:
        """``x`` brought into the ball around ``origin`` and into the bounds, ``[n, …]``."""

    def size(self, delta: Points) -> Float[Tensor, " n"]:
        """The norm of each row of ``delta``."""


class Linf:
    """The largest absolute change of any coordinate."""

    def steepest(self, gradient: Points) -> Points:
        """The sign of the gradient."""
        return gradient.sign()

    def shrink(self, delta: Points, eps: Radius) -> Points:
        """Clip each coordinate."""
        if isinstance(eps, Tensor):
            eps = column(eps, delta)
            return delta.clamp(-eps, eps)
        return delta.clamp(-eps, eps)

    def project(self, x: Points, origin: Points, eps: Radius, bounds: tuple[float, float]) -> Points:
        """Into the ball, then into the bounds: together the nearest point of both."""
        return (origin + self.shrink(x - origin, eps)).clamp(*bounds)

    def size(self, delta: Points) -> Float[Tensor, " n"]:
        """Max |δ|."""
        return delta.abs().flatten(1).amax(1)


class L2:
    """The Euclidean length of the change."""

    def steepest(self, gradient: Points) -> Points:
        """The gradient, at length 1."""
        return gradient / column(self.size(gradient).clamp(min=TINY), gradient)

    def shrink(self, delta: Points, eps: Radius) -> Points:
        """Scale down what is too long."""
        return delta * column((eps / self.size(delta).clamp(min=TINY)).clamp(max=1), delta)

    def project(self, x: Points, origin: Points, eps: Radius, bounds: tuple[float, float]) -> Points:
        """Into the ball, then into the bounds: a point of both, as the published attacks have it."""
        return (origin + self.shrink(x - origin, eps)).clamp(*bounds)

    def size(self, delta: Points) -> Float[Tensor, " n"]:
        """‖δ‖₂."""
        return delta.flatten(1).norm(dim=1)


class L1:
    """The sum of the absolute changes.

    The steepest direction proper changes one coordinate; a step that moves the largest `SPARSE` of them together
    gets on faster (SLIDE, Tramèr & Boneh 2019, arXiv 1904.13000).
    """

    def steepest(self, gradient: Points) -> Points:
        """The signs of the largest entries, ``SPARSE`` of them and at least one, at l1 norm 1."""
        flat = gradient.flatten(1)
        most = max(1, round(SPARSE * flat.shape[1]))
        found, where = flat.abs().topk(most, dim=1)
        signs = flat.gather(1, where).sign()
        out = torch.zeros_like(flat).scatter_(1, where, signs / (found > 0).sum(1, keepdim=True).clamp(min=1))
        return out.view_as(gradient)

    def shrink(self, delta: Points, eps: Radius) -> Points:
        """The Euclidean projection onto the ball (Duchi et al. 2008)."""
        return _soften(delta, eps, torch.full_like(delta, torch.inf))

    def project(self, x: Points, origin: Points, eps: Radius, bounds: tuple[float, float]) -> Points:
        """The Euclidean projection onto ball ∩ bounds (Croce & Hein 2021, arXiv 2103.01208, Prop. 2.1)."""
        delta = x - origin
        room = torch.where(delta > 0, bounds[1] - origin, origin - bounds[0]).clamp(min=0)
        return (origin + _soften(delta, eps, room)).clamp(*bounds)

    def size(self, delta: Points) -> Float[Tensor, " n"]:
        """‖δ‖₁."""
        return delta.abs().flatten(1).sum(1)


def _soften(delta: Points, eps: Radius, room: Points) -> Points:
    """Argmin ‖u − δ‖₂ over ‖u‖₁ ≤ eps, |u| ≤ room, u on δ's side of 0.

    It is sign(δ) · min(max(|δ| − λ, 0), room), where λ ≥ 0 is the least that makes the norm fit. The norm is
    piecewise linear in λ, its slope changing by one where λ passes |δ_i| or |δ_i| − room_i: sort those places.
    """
    size, room = delta.abs().flatten(1), room.flatten(1)
    zero = size.new_zeros(len(size), 1)
    radius = zero + (eps.view(-1, 1) if isinstance(eps, Tensor) else eps)
    # From the largest λ down. λ < 0 is never wanted: an entry that meets its room there never does.
    places, order = torch.cat([size, (size - room).clamp(min=0), zero], 1).sort(dim=1, descending=True)
    turns = torch.cat([torch.ones_like(size), -torch.ones_like(size), zero], 1).gather(1, order)
    slope = turns.cumsum(1)
    norms = torch.cat([zero, (slope[:, :-1] * (places[:, :-1] - places[:, 1:])).cumsum(1)], 1)
    last = ((norms <= radius).sum(1, keepdim=True) - 1).clamp(min=0)
    spare = (radius - norms.gather(1, last)) / slope.gather(1, last).clamp(min=1)
    threshold = (places.gather(1, last) - spare).clamp(min=0)
    # Where the whole of it fits, nothing is taken off.
    threshold = torch.where(norms[:, -1:] <= radius, zero, threshold)
    kept = torch.minimum((size - threshold).clamp(min=0), room)
    return delta.sign() * kept.view_as(delta)


BALLS: dict[str, Ball] = {"linf": Linf(), "l2": L2(), "l1": L1()}


def ball(norm: str) -> Ball:
    """The ball of a norm, by name.

    Raises:
        AttackError: there is none.
    """
    if norm not in BALLS:
        raise AttackError(unknown("norm", norm, BALLS, where="there are"))
    return BALLS[norm]


def column(per_sample: Tensor, like: Tensor) -> Tensor:
    """``[n]`` as ``[n, 1, …]``, to be multiplied with ``like``."""
    return per_sample.view(-1, *[1] * (like.dim() - 1))


def times(scale: Radius, points: Points) -> Points:
    """Each sample scaled by its own factor, or all by one."""
    return column(scale, points) * points if isinstance(scale, Tensor) else scale * points
