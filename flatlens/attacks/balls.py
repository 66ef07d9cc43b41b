"""Norm balls: how to step steepest in one, and how to come back into it. Attacks hold a ball; none inherits it."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from flatlens.errors import AttackError, unknown

Points = Float[Tensor, "n ..."]

# foolbox's guard: a gradient of exactly 0 stays 0 instead of becoming NaN.
TINY = 1e-12


class Ball(Protocol):
    """A ball of radius eps around the clean input, in one norm."""

    def steepest(self, gradient: Points) -> Points:
        """The direction of unit norm in which the objective rises fastest, ``[n, …]``; 0 where the gradient is 0."""

    def shrink(self, delta: Points, eps: float) -> Points:
        """The point of the ball of radius eps that is nearest to ``delta``, ``[n, …]``."""

    def size(self, delta: Points) -> Float[Tensor, " n"]:
        """The norm of each row of ``delta``."""


class Linf:
    """The largest absolute change of any coordinate."""

    def steepest(self, gradient: Points) -> Points:
        """The sign of the gradient."""
        return gradient.sign()

    def shrink(self, delta: Points, eps: float) -> Points:
        """Clip each coordinate."""
        return delta.clamp(-eps, eps)

    def size(self, delta: Points) -> Float[Tensor, " n"]:
        """Max |δ|."""
        return delta.abs().flatten(1).amax(1)


class L2:
    """The Euclidean length of the change."""

    def steepest(self, gradient: Points) -> Points:
        """The gradient, at length 1."""
        return gradient / _column(self.size(gradient).clamp(min=TINY), gradient)

    def shrink(self, delta: Points, eps: float) -> Points:
        """Scale down what is too long."""
        return delta * _column((eps / self.size(delta).clamp(min=TINY)).clamp(max=1), delta)

    def size(self, delta: Points) -> Float[Tensor, " n"]:
        """‖δ‖₂."""
        return delta.flatten(1).norm(dim=1)


BALLS: dict[str, Ball] = {"linf": Linf(), "l2": L2()}


def ball(norm: str) -> Ball:
    """The ball of a norm, by name.

    Raises:
        AttackError: there is none.
    """
    if norm not in BALLS:
        raise AttackError(unknown("norm", norm, BALLS, where="there are"))
    return BALLS[norm]


def _column(per_sample: Tensor, like: Tensor) -> Tensor:
    return per_sample.view(-1, *[1] * (like.dim() - 1))
