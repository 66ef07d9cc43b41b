"""IMMA, a baseline: the extractor is moved so that a few steps of fine-tuning leave the harmful task unlearnt.

After Zheng and Yeh (2024): in an inner loop the probes are fine-tuned from 0, by gradient descent of step 1/λ_max; in
the outer one θ climbs, through these steps, log(loss gap of the harmful probe) − log(that of the primary probe).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flatlens.hessian.condition import Floats
from flatlens.immunity.ceiling import kappa, normalized, ratios
from flatlens.immunity.climbing import GROWTH, LONGEST, SHORTEST, Place

INNER = 10
"""Steps of fine-tuning that are looked through."""


def climb(
    primary: tuple[Floats, Floats], harmful: tuple[Floats, Floats], max_cond: float, start: Place
) -> Iterator[Place]:
    """Places after each step that was tried, accepted or not, until no step is left to accept.

    Args:
        primary: the root of K_P ``[d, d]``, and XᵀY/n ``[d, c]``.
        harmful: the same of the harmful task.
        max_cond: the largest condition number that θ may have.
        start: where to begin, or to go on.

    Yields:
        A `Place` a step.
    """
    of_primary, of_harmful = ([torch.from_numpy(part) for part in task] for task in (primary, harmful))
    here = start
    value, slope = _objective(here.theta, of_primary, of_harmful)
    while here.eta > SHORTEST and (length := float(np.linalg.norm(slope))) > 0:
        theta = normalized(here.theta + here.eta * len(slope) ** 0.5 / length * slope)
        there, slope_there = _objective(theta, of_primary, of_harmful)
        if np.isfinite(there) and there > value and kappa(theta) <= max_cond**2:
            value, slope = there, slope_there
            reached = ratios(primary[0], harmful[0], theta)
            here = Place(here.step + 1, theta, min(GROWTH * here.eta, LONGEST), reached)
        else:
            here = here._replace(step=here.step + 1, eta=here.eta / 2)
        yield here


def _objective(theta: Floats, primary: list[Tensor], harmful: list[Tensor]) -> tuple[float, Floats]:
    """The outer objective and its gradient ``[d, d]``."""
    free = torch.from_numpy(theta).requires_grad_()
    value = _log_gap(free, *harmful) - _log_gap(free, *primary)
    (slope,) = torch.autograd.grad(value, free)
    return float(value.detach()), slope.numpy()


def _log_gap(theta: Tensor, root: Tensor, slope: Tensor) -> Tensor:
    """Logarithm of the share of the loss that is left after the inner steps."""
    a = root @ theta
    k = a.T @ a
    b = theta.T @ slope
    top = torch.linalg.matrix_norm(a, 2).detach() ** 2  # the step does not care how it came about
    w = torch.zeros_like(b)
    for _ in range(INNER):
        w = w - (k @ w - b) / top
    # L(w) − L* = ½‖R(θw − v*)‖², with v* = K⁻¹·slope, whatever θ is.
    best = torch.linalg.solve_triangular(root, torch.linalg.solve_triangular(root.T, slope, upper=False), upper=True)
    gap: Tensor = (root @ (theta @ w - best)).square().sum()
    return gap.log()
