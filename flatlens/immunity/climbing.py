"""The methods that go step by step: Algorithm 1 of the paper, R_ill alone, and the condition numbers themselves.

All of them step θ' = θ(I − 2ηG), with the eigenvalues of G divided by the largest, for R_well and R_ill change with the
scale of the features and a fixed weight of theirs diverges; and all halve the step until it is one to accept. A step is
a function of θ and η alone: work that was interrupted is gone on with to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from flatlens.hessian.condition import Floats
from flatlens.immunity.ceiling import Ratios, kappa, normalized, ratios
from flatlens.immunity.terms import ill_slopes, stepped, well_slopes

LONGEST, SHORTEST = 0.25, 1e-9
"""The longest step, which the first one is, and the length below which there is none left to accept."""
GROWTH = 1.5
"""By how much the step grows after one that was accepted."""


class Place(NamedTuple):
    """Where the climb is: all that the next step depends on, and what has been reached.

    Attributes:
        step: how many steps were tried.
        theta: the extractor, ``[d, d]``, of Frobenius norm √d.
        eta: the length of the next step.
        reached: i, ii and RIR of ``theta``.
    """

    step: int
    theta: Floats
    eta: float
    reached: Ratios


def climb(
    method: str, primary: Floats, harmful: Floats, delta: float, max_cond: float, start: Place
) -> Iterator[Place]:
    """Places after each step that was tried, accepted or not, until no step is left to accept.

    Args:
        method: ``alg1``, ``r-ill`` or ``opt-kappa``.
        primary: the root of K_P, ``[d, d]``.
        harmful: the root of K_H, ``[d, d]``.
        delta: for ``alg1``: the largest eigenvalues of the primary task, to this relative distance, are lowered as one.
        max_cond: the largest condition number that θ may have.
        start: where to begin, or to go on.

    Yields:
        A `Place` a step.
    """
    direction, better = METHODS[method]
    here, first = start, Ratios(1.0, 1.0, 1.0)
    while here.eta > SHORTEST:
        gradient = direction(primary @ here.theta, harmful @ here.theta, delta)
        theta = normalized(stepped(here.theta, gradient, here.eta))
        reached = ratios(primary, harmful, theta)
        whole = np.isfinite(reached).all() and kappa(theta) <= max_cond**2
        if whole and better(reached, here.reached, first):
            here = Place(here.step + 1, theta, min(GROWTH * here.eta, LONGEST), reached)
        else:
            here = here._replace(step=here.step + 1, eta=here.eta / 2)
        yield here


def begin(d: int) -> Place:
    """The place to begin at: the identity."""
    return Place(0, np.eye(d), LONGEST, Ratios(1.0, 1.0, 1.0))


class _Spectrum(NamedTuple):
    """Eigenvalues ``[d]``, descending, and eigenvectors ``[d, d]``, columns, of θᵀKθ."""

    values: Floats
    vectors: Floats

    def matrix(self, slopes: Floats) -> Floats:
        """The symmetric matrix of these eigenvectors whose eigenvalues are ``slopes``, the largest modulus made 1."""
        most = float(np.abs(slopes).max())
        return (self.vectors * (slopes / most if most > 0 else slopes)) @ self.vectors.T


def _spectrum(root: Floats) -> _Spectrum:
    _, sigma, vectors = np.linalg.svd(root)
    return _Spectrum(sigma**2, vectors.T)


def _both_terms(primary: Floats, harmful: Floats, delta: float) -> Floats:
    at_primary = _spectrum(primary)
    return at_primary.matrix(well_slopes(at_primary.values, delta)) + _ill_alone(primary, harmful, delta)


def _ill_alone(_: Floats, harmful: Floats, __: float) -> Floats:
    found = _spectrum(harmful)
    return found.matrix(ill_slopes(found.values))


def _kappas(primary: Floats, harmful: Floats, _: float) -> Floats:
    """∇ log κ_P − ∇ log κ_H with respect to the logarithm of S: its eigenvalues are 1 at the top, −1 at the bottom."""
    g = np.zeros(len(primary))
    g[0], g[-1] = 1.0, -1.0
    return _spectrum(primary).matrix(g) - _spectrum(harmful).matrix(g)


def _ratio_rises_and_primary_stays(new: Ratios, old: Ratios, first: Ratios) -> bool:
    return new.rir > old.rir and new.ii <= max(first.ii, old.ii)


Direction = Callable[[Floats, Floats, float], Floats]
Better = Callable[[Ratios, Ratios, Ratios], bool]
METHODS: dict[str, tuple[Direction, Better]] = {
    "alg1": (_both_terms, _ratio_rises_and_primary_stays),
    "r-ill": (_ill_alone, lambda new, old, _: new.i > old.i),
    "opt-kappa": (_kappas, lambda new, old, _: new.rir > old.rir),
}
"""Method -> where a step goes, from the roots R_Pθ and R_Hθ, and whether it is one to accept."""
