"""R_well and R_ill, the two terms of model immunization, with their gradients and the steps that are safe.

Of a symmetric positive matrix S = θᵀKθ with eigenvalues σ_1 ≥ … ≥ σ_d: R_well falls as S becomes well conditioned,
R_ill as it becomes ill conditioned (arXiv 2505.23760, Theorems 4.1 and 4.2). A step against the gradient,
preconditioned by K⁻¹, is θ' = θ(I − 2ηG) with G = ∇_S R: K⁻¹ cancels and is never formed. It moves eigenvalues alone,
σ_i' = σ_i (1 − 2η g_i)², with g_i those of G.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flatlens.errors import DataError
from flatlens.hessian.condition import Floats

ALIKE = 1e-10
"""Relative difference up to which eigenvalues count as one that is repeated."""


class Term(NamedTuple):
    """A term's value and its gradient ``[d, d]`` with respect to S."""

    value: float
    gradient: Floats


def well(s: Floats) -> Term:
    """R_well(S) = ½σ_1² − ‖S‖_F²/2d, at least 0, and 0 where all eigenvalues are equal; in units of σ².

    Where σ_1 is repeated there is no gradient; a subgradient is taken, the mean over its eigenvectors.
    """
    values, vectors = np.linalg.eigh(s)
    g = well_slopes(values[::-1], ALIKE)[::-1]
    value = 0.5 * float(values[-1]) ** 2 - 0.5 * float((values**2).mean())
    return Term(value, (vectors * g) @ vectors.T)


def ill(s: Floats) -> Term:
    """R_ill(S) = 1/D with D = ‖S‖_F²/2d − σ_d²/2, above 0, falling as the smallest eigenvalue does; in units of σ⁻².

    Raises:
        DataError: all eigenvalues are equal: R_ill is infinite there and has no gradient.
    """
    values, vectors = np.linalg.eigh(s)
    gap = _gap(values[::-1])
    g = ill_slopes(values[::-1])[::-1] / gap**2
    return Term(1 / gap, (vectors * g) @ vectors.T)


def well_slopes(values: Floats, alike: float) -> Floats:
    """The eigenvalues of ∇R_well ``[d]``, for eigenvalues ``[d]`` of S, descending.

    Args:
        values: of S, descending.
        alike: relative distance from the largest within which eigenvalues share its part of the gradient.
    """
    top = values >= (1 - alike) * values[0]
    return -values / len(values) + np.where(top, values[0] / top.sum(), 0.0)


def ill_slopes(values: Floats) -> Floats:
    """The eigenvalues of D²·∇R_ill ``[d]``, for eigenvalues ``[d]`` of S, descending; finite also where D is 0."""
    g = -values / len(values)
    g[-1] += values[-1]
    return g


def stepped(theta: Floats, gradient: Floats, eta: float) -> Floats:
    """θ' = θ(I − 2ηG): a step of length η against a gradient G with respect to S = θᵀKθ."""
    return theta - 2 * eta * theta @ gradient


def safe_well(values: Floats) -> float:
    """The step up to which one against R_well lowers the condition number; 0 where the largest eigenvalue is repeated.

    η < (√σ_1 − √σ_2) / (2[(1 − 1/d) σ_1^1.5 + σ_2^1.5/d]): up to there σ_1 stays the largest. The bound of Theorem
    4.3(1), as extracted, is too wide: at σ = (4, 1, 1) it admits η = 0.1875, which makes σ_1' = 0, a singular matrix.

    Args:
        values: eigenvalues ``[d]`` of S, descending.
    """
    first, second, d = float(values[0]), float(values[1]), len(values)
    return (first**0.5 - second**0.5) / (2 * ((1 - 1 / d) * first**1.5 + second**1.5 / d))


def safe_ill(values: Floats) -> float:
    """The step up to which one against R_ill raises the condition number, in units of σ³.

    η < D² / ((1 − 1/d) σ_d): up to there σ_d falls while all others rise. The bound of Theorem 4.3(2), as extracted,
    has other units than η.

    Args:
        values: eigenvalues ``[d]`` of S, descending, not all equal.
    """
    return _gap(values) ** 2 / ((1 - 1 / len(values)) * float(values[-1]))


def _gap(values: Floats) -> float:
    """D, as a sum of terms of one sign."""
    gap = 0.5 * float(((values - values[-1]) * (values + values[-1])).mean())
    if not gap > ALIKE * float(values[0]) ** 2:
        raise DataError(
            f"all {len(values)} eigenvalues of the matrix are {values[0]:g}: R_ill is infinite there and has no "
            "gradient; begin elsewhere, or use method 'ceiling'"
        )
    return gap
