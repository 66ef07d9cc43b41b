"""The algebraically largest eigenvalue of H behind smooth activations, for all samples at once.

Lanczos with full reorthogonalisation; each sample has its own directions, and one Hessian-vector product serves all.
Power iteration would find the eigenvalue of largest modulus, which may be a negative one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.forward import Forward
from flatlens.hessian.columns import Columns, wide
from flatlens.hessian.directions import Directions
from flatlens.hessian.gauss_newton import times
from flatlens.hessian.hutchinson import Residual, generator

ITERATIONS = 60
FIRST = 1 << 31  # the index of the first vector's stream: no probe has it


def top_eigenvalue(
    here: Forward, columns: Columns, deltas: Sequence[Tensor], along: Directions, residual: Residual, *, seed: int
) -> Float[Tensor, " n"]:
    """λ_max(H) of one layer, float64.

    H = Σ_c ω_c vec(G_c) vec(G_c)ᵀ + R acts within the span of the input columns, so that vectors have min(P, I) · O
    entries and not I · O.

    Args:
        here: the pass.
        columns: of the layer.
        deltas: δ_c of the layer, from `gauss_newton.pull_back`.
        along: the directions that they belong to.
        residual: of the pass.
        seed: of the random part of the first vector.
    """
    n, x, shape = len(here.logits), here.taps[columns.name].input, here.taps[columns.name].output_shape
    root = columns.reduced(x, n)
    unfold = 1.0 if columns.scale is None else columns.scale
    g = times(root, torch.stack([columns.outputs(d, n) for d in deltas])) * unfold
    # Both parts of H at their own scale: in saturation the weights are 1e-40 and less.
    size = (along.weight.amax(1) + residual.norm).clamp(min=torch.finfo(torch.float64).tiny)
    weight, rest = along.weight / size.unsqueeze(1), residual.norm / size
    weight, rest = weight.T.to(g).unsqueeze(2), rest.to(g)
    flat = g.flatten(2)

    def apply(v: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        own = v.to(g)
        u = columns.shaped(root.transpose(2, 3) @ own.view(g.shape[1:]) * unfold, shape)
        h = columns.outputs(residual.product(columns.name, u), n) * unfold
        r = (root @ h).flatten(1) * rest.unsqueeze(1)
        return wide(((flat * own).sum(2, keepdim=True) * weight * flat).sum(0) + r)

    # Most of what is steep lies where the Gauss–Newton matrix acts; a random part meets what it is blind to.
    first = wide((weight.sqrt() * flat).sum(0))
    noise = torch.randn(flat.shape[2], generator=generator(seed, columns.name, FIRST), dtype=torch.float64)
    noise = noise.to(first.device) / noise.norm()
    first = first / first.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny) + 0.3 * noise
    found = lanczos(apply, first, tolerance=1e-7 if g.dtype == torch.float64 else 1e-4)
    # Directions outside the span have eigenvalue 0.
    if flat.shape[2] < columns.weight.numel():
        found = found.clamp(min=0)
    return found * size


def lanczos(
    apply: Callable[[Tensor], Tensor], first: Float[Tensor, "n d"], *, tolerance: float, iterations: int = ITERATIONS
) -> Float[Tensor, " n"]:
    """The largest eigenvalue of each of n symmetric matrices.

    Args:
        apply: multiplies n vectors ``[n, d]``, float64, each by its own matrix.
        first: where to begin.
        tolerance: of the residual ‖A v − λ v‖, relative to the matrix. The eigenvalue's own error is about its square.
        iterations: at most, and no more than d.

    Returns:
        ``[n]``; NaN where a product was not finite.
    """
    n, d = first.shape
    tiny = torch.finfo(first.dtype).tiny
    q = first / first.norm(dim=1, keepdim=True).clamp(min=tiny)
    basis = first.new_empty(n, 0, d)
    t = first.new_zeros(n, min(iterations, d) + 1, min(iterations, d) + 1)
    value = first.new_full((n,), torch.nan)
    done = torch.zeros(n, dtype=torch.bool, device=first.device)
    for j in range(min(iterations, d)):
        basis = torch.cat([basis, q.unsqueeze(1)], 1)
        image = apply(q)
        t[:, j, j] = (image * q).sum(1)
        # Twice is enough (Parlett): once leaves rounding of the size of what was removed.
        for _ in range(2):
            image = image - ((basis @ image.unsqueeze(2)).transpose(1, 2) @ basis).squeeze(1)
        beta = image.norm(dim=1)
        block = t[:, : j + 1, : j + 1]
        finite = torch.isfinite(block).flatten(1).all(1)
        values, vectors = torch.linalg.eigh(torch.where(finite.reshape(-1, 1, 1), block, 0.0))
        value = torch.where(done, value, torch.where(finite, values[:, -1], torch.nan))
        size = values.abs().amax(1).clamp(min=tiny)
        # A vanishing β closes the space: what the first vector can reach has been seen.
        closed = beta <= 1e-12 * size
        done |= ~finite | closed | (beta * vectors[:, -1, -1].abs() <= tolerance * size)
        if done.all():
            break
        t[:, j, j + 1] = t[:, j + 1, j] = torch.where(done, 0.0, beta)
        q = torch.where(done.unsqueeze(1), 0.0, image / beta.clamp(min=tiny).unsqueeze(1))
    return value
