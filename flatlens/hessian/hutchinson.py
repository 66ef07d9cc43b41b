"""What the Gauss–Newton matrix leaves out behind smooth activations: R = H − GGN, estimated by random probes.

R is exactly the Hessian of W ↦ ⟨r, z⟩ with r = ∂ℓ/∂z held constant, so that nothing is subtracted. Since s is linear
in W, ⟨V, R V⟩ = uᵀ (∂²⟨r, z⟩/∂s²) u with u_q = V a_q: one Hessian-vector product in s-space serves every sample.

Plain probes of a matrix with few large eigenvalues scatter widely, and their intervals are too short (90 % for 95 %
at 16 probes). So a space Q that holds such eigenvectors is measured exactly, and only the rest is probed (Meyer et al.
2021, arXiv 2010.09649, with a Krylov space of H for theirs, which the search for the largest eigenvalue leaves behind):

    Tr R = Σ_j ⟨q_j, R q_j⟩ + E ⟨v, R v⟩,    κ's part = Σ_j ⟨M q_j, R q_j⟩ + E ⟨M v, R v⟩,

v = (1 − Q Qᵀ) ξ with independent signs ξ, the same for all samples and at every step; M = W Wᵀ. With m probes,
(mean − truth) / (sd/√m) follows Student's t with m − 1 degrees of freedom to good approximation: intervals are
mean ± t_{m−1} · se, with se = sd/√m. Where the whole space is no larger than Q and the probes together, Q is all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.hessian.columns import Columns
from flatlens.hessian.directions import Directions
from flatlens.hessian.gauss_newton import times
from flatlens.hessian.lanczos import ITERATIONS, Krylov, lanczos
from flatlens.victims.noise import stream
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass

LARGEST_ERROR = 1e-2
"""Relative; an eigenvalue near 0 beside large negative ones may not be known as well as that, and is NaN then."""
DEFLATED = 16
"""Vectors of the space that is measured exactly."""
FIRST = 1 << 31
"""The index of the stream that the first of them is drawn from: no probe has it."""


class Residual:
    """∂⟨r, z⟩/∂s of several layers, kept differentiable.

    Args:
        here: a pass with a live graph, made with attention that can be differentiated twice.
        names: the layers.
        residual: r = ∂ℓ/∂z, ``[n, K]`` float64.

    Attributes:
        norm: ‖r‖ ``[n]`` float64. Products are those of r / ‖r‖, so that float32 never underflows.
    """

    def __init__(self, here: Pass, names: Sequence[str], residual: Float[Tensor, "n K"]) -> None:
        self.norm = residual.norm(dim=1)
        unit = residual / self.norm.clamp(min=torch.finfo(residual.dtype).tiny).unsqueeze(1)
        self._places = {name: here.taps[name].output for name in names}
        with torch.enable_grad():
            grads = torch.autograd.grad(
                (here.logits * unit.to(here.logits.device, here.logits.dtype)).sum(),
                list(self._places.values()),
                create_graph=True,
                allow_unused=True,
            )
        self._grads: dict[str, Tensor | None] = dict(zip(names, grads, strict=True))

    def product(self, name: str, u: Tensor) -> Tensor:
        """(∂²⟨r, z⟩/∂s²) u / ‖r‖, of the shape of s."""
        grad = self._grads[name]
        if grad is None or not grad.requires_grad:
            return torch.zeros_like(u)
        (found,) = torch.autograd.grad(grad, self._places[name], u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if found is None else found


class Rest(NamedTuple):
    """What smooth activations add, and the eigenvalue that only the whole H has; float64.

    Attributes:
        trace: a number for each probe, whose mean estimates Tr R, ``[n, probes]``.
        kappa: the same for R's part of κ.
        top_eigenvalue: λ_max(H), ``[n]``; NaN where it is so near 0, against ‖H‖, that rounding hides it.
    """

    trace: Float[Tensor, "n m"]
    kappa: Float[Tensor, "n m"]
    top_eigenvalue: Float[Tensor, " n"]


def rest(
    columns: Columns,
    x: Tensor,
    deltas: Sequence[Tensor],
    along: Directions,
    residual: Residual,
    *,
    probes: int,
    seed: int,
) -> Rest:
    """Measure the rest of one layer.

    Args:
        columns: of the layer.
        x: the layer's input.
        deltas: δ_c of the layer, from `gauss_newton.pull_back`.
        along: the directions that they belong to.
        residual: of the pass.
        probes: how many.
        seed: the probes of one (seed, layer, index) are the same at every pass and for all samples, so that differences
            along a path are landscape and not noise.
    """
    matrix = _Reduced(columns, x, deltas, along, residual)
    deflated = matrix.size if matrix.size <= DEFLATED + probes else DEFLATED
    first = torch.randn(matrix.size, generator=stream(seed, columns.name, FIRST), dtype=torch.float64)
    space = lanczos(
        matrix.apply,
        matrix.first((first / first.norm()).to(matrix.like)),
        tolerance=1e-7 if matrix.like.dtype == torch.float64 else 1e-4,
        least=deflated,
        most=max(deflated, ITERATIONS),
    )
    known = [torch.stack(terms[:deflated], 1).sum(1) for terms in (matrix.traces, matrix.kappas)]
    q = space.basis[:, :deflated]
    found: list[tuple[Tensor, Tensor]] = []
    for index in range(probes):
        # On the CPU, so that devices agree.
        signs = torch.randint(0, 2, (matrix.size,), generator=stream(seed, columns.name, index))
        v = (2 * signs - 1).to(q).expand(len(q), -1)
        for _ in range(2):  # twice: as in Lanczos
            v = v - ((q @ v.unsqueeze(2)).transpose(1, 2) @ q).squeeze(1)
        found.append(matrix.terms(v, matrix.rest(v)))
    trace, kappa = (
        (torch.stack(column, 1) + exact.unsqueeze(1)) * residual.norm.unsqueeze(1)
        for column, exact in zip(zip(*found, strict=True), known, strict=True)
    )
    return Rest(trace, kappa, _top(space, inside=matrix.size < columns.weight.numel()) * matrix.unit)


def _top(space: Krylov, *, inside: bool) -> Float[Tensor, " n"]:
    """λ_max from what Lanczos found; ``inside`` a subspace beyond which every direction has eigenvalue 0."""
    top = space.value.clamp(min=0) if inside else space.value
    top = torch.where(top.abs() <= space.error, 0.0, top)
    return torch.where((top != 0) & (space.error > LARGEST_ERROR * top.abs()), torch.nan, top)


class _Reduced:
    """H of one layer in the span of its input columns, where it acts: d = min(P, I) · O numbers instead of I · O.

    Vectors are the user's weights in coordinates of the reduced columns, ``[n, d]``. ``apply`` multiplies by
    H / ``unit`` and keeps ⟨q, R q⟩ and ⟨M q, R q⟩, of R / ‖r‖, for what it was applied to.
    """

    def __init__(
        self, columns: Columns, x: Tensor, deltas: Sequence[Tensor], along: Directions, residual: Residual
    ) -> None:
        n = len(residual.norm)
        self.columns, self.residual, self.shape = columns, residual, deltas[0].shape
        self.root = columns.reduced(x, n)
        steps = columns.folded(times(self.root, [columns.outputs(d, n) for d in deltas]))
        self._form, self._flat, self.like = steps.shape[1:], steps.flatten(2), steps[0]
        self.size = self._flat.shape[2]
        # Both parts of H at their own scale: in saturation the weights are 1e-40 and less.
        self.unit = (along.weight.amax(1) + residual.norm).clamp(min=torch.finfo(torch.float64).tiny)
        self._weight = (along.weight / self.unit.unsqueeze(1)).T.to(steps).unsqueeze(2)
        self._share = (residual.norm / self.unit).to(steps).unsqueeze(1)
        self.traces: list[Tensor] = []
        self.kappas: list[Tensor] = []

    def first(self, noise: Float[Tensor, " d"]) -> Float[Tensor, "n d"]:
        """Where to begin: most that is steep lies where Gauss–Newton acts; noise meets what it is blind to."""
        steep = (self._weight.sqrt() * self._flat).sum(0)
        return steep / steep.norm(dim=1, keepdim=True).clamp(min=torch.finfo(steep.dtype).tiny) + 0.3 * noise

    def apply(self, v: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """(H / unit) v."""
        bent = self.rest(v)
        for kept, term in zip((self.traces, self.kappas), self.terms(v, bent), strict=True):
            kept.append(term)
        return ((self._flat * v).sum(2, keepdim=True) * self._weight * self._flat).sum(0) + self._share * bent

    def rest(self, v: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """(R / ‖r‖) v."""
        u = self.root.transpose(2, 3) @ v.view(self._form)
        bent = self.residual.product(self.columns.name, self.columns.shaped(self.columns.folded(u), self.shape))
        return (self.root @ self.columns.folded(self.columns.outputs(bent, len(v)))).flatten(1)

    def terms(self, v: Float[Tensor, "n d"], bent: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
        """⟨v, R v⟩ and ⟨M v, R v⟩, ``[n]`` float64, from v and R v."""
        coloured = (v.view(self._form) @ self.columns.metric).flatten(1)
        return wide((v * bent).sum(1)), wide((coloured * bent).sum(1))
