"""The ceiling of immunization: what no linear extractor can exceed, and one that attains it.

It is the defender's upper limit. It promises nothing against attackers who do not descend the plain gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flatlens.errors import DataError
from flatlens.hessian.condition import Floats, singular_values, triangle

IMMUNE = 1.05
"""A ceiling below this leaves nothing to gain: the two tasks look at the features alike."""


class Ratios(NamedTuple):
    """What an extractor does to two tasks.

    Attributes:
        i: κ(K_H(θ)) / κ(K_H(I)): by how much the harmful task is worse conditioned; above 1 is wanted.
        ii: κ(K_P(θ)) / κ(K_P(I)): the same of the primary task; below 1 is wanted.
        rir: i / ii, the relative immunization ratio. A large one alone does not imply i > 1.
    """

    i: float
    ii: float
    rir: float


class Ceiling(NamedTuple):
    """The upper limit of the RIR, and an extractor that attains it.

    Attributes:
        bound: κ(C)·κ(K_P)/κ(K_H), C = K_P^-½ K_H K_P^-½.
        theta: ``[d, d]``, of Frobenius norm √d.
    """

    bound: float
    theta: Floats


def root(features: Floats, ridge: float) -> Floats:
    """R ``[d, d]`` with RᵀR = XᵀX/n + ρ·tr/d·I: what stands for the Hessian K; its square is never formed.

    Args:
        features: X ``[n, d]``.
        ridge: ρ, at least 0.
    """
    n, d = features.shape
    scaled = features / n**0.5
    added = (ridge * float((scaled**2).sum()) / d) ** 0.5
    found = triangle([scaled, *([added * np.eye(d)] if ridge else [])], d)
    return np.concatenate([found, np.zeros((d - len(found), d))])


def kappa(root: Floats, theta: Floats | None = None) -> float:
    """κ(θᵀKθ) of K = RᵀR, from the singular values of Rθ; infinite where it is singular.

    Args:
        root: R ``[d, d]``.
        theta: ``[d, k]``; the identity when left out.
    """
    product = root if theta is None else root @ theta
    sigma = singular_values([product], product.shape[1])
    limit = sigma[0] * len(sigma) * np.finfo(np.float64).eps
    return float((sigma[0] / sigma[-1]) ** 2) if sigma[-1] > limit else np.inf


def ratios(primary: Floats, harmful: Floats, theta: Floats) -> Ratios:
    """What θ does to the condition numbers of two tasks, given by the roots of their Hessians."""
    i = kappa(harmful, theta) / kappa(harmful)
    ii = kappa(primary, theta) / kappa(primary)
    return Ratios(i, ii, i / ii)


def ceiling(primary: Floats, harmful: Floats, balance: float = 0.5) -> Ceiling:
    """The upper limit of the RIR over all invertible θ, and one that attains it.

    With M = K_P^½ θ, κ(θᵀK_Hθ) = κ(MᵀCM) ≤ κ(C)·κ(MᵀM) and κ(θᵀK_Pθ) = κ(MᵀM): hence RIR(θ) ≤
    κ(C)·κ(K_P)/κ(K_H). It is attained by θ = K_P^-½ U diag(√c, 1, …, 1), U the eigenvectors of C, for every c ≥ 1,
    which makes κ(K_P(θ)) = c and κ(K_H(θ)) = c·κ(C). Where i = 1, c is κ(K_H)/κ(C), and where ii = 1 it is κ(K_P): a
    balance of 0.5 lies in the middle, where i = 1/ii, so that i > 1 and ii < 1 wherever the ceiling is above 1.

    Args:
        primary: the root of K_P, ``[d, d]``.
        harmful: the root of K_H, ``[d, d]``.
        balance: from 0, i = 1 (more where c = 1 has more), all gain to the primary task, to 1, ii = 1, all to i.

    Raises:
        DataError: a Hessian is singular.
    """
    at_primary, at_harmful = kappa(primary), kappa(harmful)
    for name, value in (("primary", at_primary), ("harmful", at_harmful)):
        if not np.isfinite(value):
            raise DataError(
                f"the Hessian of the {name} task is singular: no ratio of condition numbers exists; give a ridge: "
                "--ridge 0.01"
            )
    inverse = np.linalg.inv(primary)  # of a triangle whose condition number is the root of the Hessian's
    _, sigma, vectors = np.linalg.svd(harmful @ inverse)
    of_both = float((sigma[0] / sigma[-1]) ** 2)
    stretch = max(1.0, (at_harmful / of_both) ** (1 - balance) * at_primary**balance)
    theta = inverse @ vectors.T
    theta[:, 0] *= stretch**0.5
    return Ceiling(of_both * at_primary / at_harmful, normalized(theta))


def spread(theta: Floats) -> Floats:
    """θQ with Q the orthogonal cosine transform (DCT-II), for a θ of `ceiling`: all condition numbers stay as they are.

    The features of `ceiling` are the principal axes of the harmful task: whoever divides each by its own size, as Adam
    does by and by, is back at a condition number of 1. Of θQ every feature holds an equal share of the largest
    eigenvalue, so that all have about the same size and there is nothing to divide by.
    """
    d = len(theta)
    at = np.arange(d)
    q = (2 / d) ** 0.5 * np.cos(np.pi * np.outer(at, at + 0.5) / d)
    q[0] /= 2**0.5
    product: Floats = theta @ q
    return product


def normalized(theta: Floats) -> Floats:
    """θ with Frobenius norm √d: its scale changes no condition number."""
    return theta * (len(theta) ** 0.5 / np.linalg.norm(theta))
