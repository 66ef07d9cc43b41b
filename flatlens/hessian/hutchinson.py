"""What the Gauss–Newton matrix leaves out behind smooth activations: R = H − GGN, estimated by random probes.

R is exactly the Hessian of W ↦ ⟨r, z⟩ with r = ∂ℓ/∂z held constant, so that nothing is subtracted. Since s is linear
in W, ⟨V, R V⟩ = uᵀ (∂²⟨r, z⟩/∂s²) u with u the layer applied to its input with V for W: one Hessian-vector
product in s-space gives the quadratic form of every sample, with a V that they share.

With m probes of independent signs, the mean is unbiased and (mean − truth) / (sd/√m) follows Student's t with m − 1
degrees of freedom to good approximation: intervals are mean ± t_{m−1} · se, with se = sd/√m.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.forward import Forward
from flatlens.hessian.columns import Columns, wide


class Residual:
    """∂⟨r, z⟩/∂s of several layers, kept differentiable.

    Args:
        here: a pass with a live graph, made with attention that can be differentiated twice.
        names: the layers.
        residual: r = ∂ℓ/∂z, ``[n, K]`` float64.

    Attributes:
        norm: ‖r‖ ``[n]`` float64. Products are those of r / ‖r‖, so that float32 never underflows.
    """

    def __init__(self, here: Forward, names: Sequence[str], residual: Float[Tensor, "n K"]) -> None:
        self.norm = residual.norm(dim=1)
        unit = residual / self.norm.clamp(min=torch.finfo(residual.dtype).tiny).unsqueeze(1)
        self._edges = {name: here.taps[name].output for name in names}
        with torch.enable_grad():
            grads = torch.autograd.grad(
                (here.logits * unit.to(here.logits.device, here.logits.dtype)).sum(),
                list(self._edges.values()),
                create_graph=True,
                allow_unused=True,
            )
        self._grads: dict[str, Tensor | None] = dict(zip(names, grads, strict=True))

    def product(self, name: str, u: Tensor) -> Tensor:
        """(∂²⟨r, z⟩/∂s²) u / ‖r‖, of the shape of s."""
        grad = self._grads[name]
        if grad is None or not grad.requires_grad:
            return torch.zeros_like(u)
        (found,) = torch.autograd.grad(grad, self._edges[name], u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if found is None else found


class Draws(NamedTuple):
    """One number for each probe, whose mean is the quantity: for Tr R and R's part of κ, ``[n, probes]`` float64."""

    trace: Float[Tensor, "n m"]
    kappa: Float[Tensor, "n m"]


def draws(residual: Residual, columns: Columns, x: Tensor, *, probes: int, seed: int) -> Draws:
    """⟨V, R V⟩ for V of random signs Ξ, and for V = F Ξ with F Fᵀ = W Wᵀ, which averages to κ.

    Args:
        residual: of the pass.
        columns: of the layer.
        x: the layer's input.
        probes: how many.
        seed: the probes of one (seed, layer, index) are the same at every pass, for all samples.
    """
    n = len(residual.norm)
    trace: list[Tensor] = []
    kappa: list[Tensor] = []
    for signs in probe_signs(columns, probes, seed):
        for weight, into in ((columns.folded(signs), trace), (columns.root @ signs[:, : columns.root.shape[2]], kappa)):
            u = columns.apply(x, weight.reshape(columns.weight.shape))
            into.append(wide((u * residual.product(columns.name, u)).reshape(n, -1).sum(1)) * residual.norm)
    return Draws(torch.stack(trace, 1), torch.stack(kappa, 1))


def probe_signs(columns: Columns, probes: int, seed: int) -> Iterator[Float[Tensor, "g o i"]]:
    """Independent signs of the weight's shape, drawn on the CPU so that devices agree."""
    weight = columns.weight
    shape = (columns.groups, weight.shape[0] // columns.groups, weight[0].numel())
    for index in range(probes):
        signs = torch.randint(0, 2, shape, generator=generator(seed, columns.name, index), dtype=torch.int8)
        yield (2 * signs - 1).to(weight.device, weight.dtype)


def generator(seed: int, name: str, index: int) -> torch.Generator:
    """The stream of one (seed, layer, index)."""
    state = np.random.SeedSequence((seed, zlib.crc32(name.encode()), index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))
