"""Curvature of the loss with respect to one layer's weight, per sample.

`any_layer` measures any layers by the best method that each allows: `head` in closed form, `gauss_newton` exactly,
with `hutchinson` and `lanczos` for what that leaves out behind smooth activations. What comes out is a `Curvature`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Curvature:
    """Curvature of one layer at n points; fields are named as the columns, each ``[n]`` float64.

    H is the Hessian of one sample's loss with respect to the layer's weight W. All are dimensionless up to the
    units of the loss (nats) and of W; high = sharp. NaN stands where a method does not give a quantity.

    Attributes:
        method: how the numbers were found: closed-form, exact, stratified, hutchinson or gauss-newton.
        exact: whether they equal the Hessian's to rounding.
        trace: Tr H.
        trace_se: standard error of ``trace``; 0 where exact.
        ggn_trace: trace of the generalised Gauss–Newton matrix.
        top_eigenvalue: the algebraically largest eigenvalue of H; NaN where classes were sampled that could change it,
            and where it is so near 0, against ‖H‖, that rounding hides it.
        relative_flatness: κ = Σ ⟨w_s, w_t⟩ Tr(H_{s,t}) (Petzka et al. 2021, Def. 3).
        relative_flatness_se: its standard error; 0 where exact.
        relative_sharpness: ‖W‖_F² · Tr H (Walter et al. 2025).
        weight_norm: ‖W‖_F.
        feature_norm_sq: ‖a‖², the squared norm of the layer's input columns.
        confidence_term: c = Σ p_k (1 − p_k).
        scale_free: κ / (c · gap²), gap = the largest logit minus the second; the same whatever the logits are
            multiplied by. NaN where the gap is 0, and, but for the head, where c is below the range of float64.
        weight_grad_norm: ‖∂ℓ/∂W‖_F, the slope where the others are the curvature; NaN where no label is known.
        effective_rank: (Σ λ)² / Σ λ² over the eigenvalues of the Gauss–Newton matrix: how many carry its trace.
        spectrum: the non-zero eigenvalues, ``[n, r]``, descending; None where it was not asked for or is not exact.
    """

    method: str
    exact: bool
    trace: Float[Tensor, " n"]
    trace_se: Float[Tensor, " n"]
    ggn_trace: Float[Tensor, " n"]
    top_eigenvalue: Float[Tensor, " n"]
    relative_flatness: Float[Tensor, " n"]
    relative_flatness_se: Float[Tensor, " n"]
    relative_sharpness: Float[Tensor, " n"]
    weight_norm: Float[Tensor, " n"]
    feature_norm_sq: Float[Tensor, " n"]
    confidence_term: Float[Tensor, " n"]
    scale_free: Float[Tensor, " n"]
    weight_grad_norm: Float[Tensor, " n"]
    effective_rank: Float[Tensor, " n"]
    spectrum: Float[Tensor, "n r"] | None = None

    @property
    def finite(self) -> Tensor:
        """Where the numbers are finite, ``[n]`` bool."""
        return torch.isfinite(self.trace) & torch.isfinite(self.relative_flatness)

    def __repr__(self) -> str:
        """How it was found, of how many points, and medians; the numbers themselves are the fields."""
        found = {name: _quartiles(getattr(self, name))[1] for name in ("relative_flatness", "trace", "top_eigenvalue")}
        medians = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
        return f"Curvature({len(self.trace)} points, {self._how}; medians: {medians})"

    def _repr_html_(self) -> str:
        """What a notebook shows of it: median and quartiles of each quantity over the points that have it."""
        from flatlens.report import notebook

        rows = []
        for one in fields(self):
            values = getattr(self, one.name)
            if isinstance(values, Tensor) and values.dim() == 1:
                low, middle, high, n = _quartiles(values)
                rows.append([one.name, *(f"{value:.4g}" if n else "–" for value in (middle, low, high)), f"{n:,}"])
        head = ("of each point", "median", "lower quartile", "upper quartile", "finite")
        return notebook.table(f"Curvature at {len(self.trace):,} points, {self._how}", head, rows)

    @property
    def _how(self) -> str:
        return f"{self.method}, {'exact' if self.exact else 'estimated'}"


class _Quartiles(NamedTuple):
    low: float
    middle: float
    high: float
    n: int


def _quartiles(values: Tensor) -> _Quartiles:
    """Of the finite ones; NaN where there is none."""
    finite = values.detach().double()[torch.isfinite(values)].cpu()
    if not len(finite):
        return _Quartiles(math.nan, math.nan, math.nan, 0)
    # By NumPy: torch's quantile takes 16 million values at most.
    low, middle, high = np.quantile(finite.numpy(), (0.25, 0.5, 0.75)).tolist()
    return _Quartiles(low, middle, high, len(finite))
