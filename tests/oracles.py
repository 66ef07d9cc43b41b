"""What the code is held to: dense Hessians, and arithmetic with more digits than any cancellation takes."""

from __future__ import annotations

from typing import NamedTuple

import mpmath as mp
import torch
from torch import Tensor, nn

from flatlens.peers.pyhessian import Loss, dense


class Truth(NamedTuple):
    """Measures of one layer, per sample, from its whole Hessian; all float64."""

    trace: Tensor
    top_eigenvalue: Tensor
    relative_flatness: Tensor
    spectrum: Tensor
    weight_grad_norm: Tensor


def truth(model: nn.Module, layer: str, x: Tensor, y: Tensor, *, loss: Loss = nn.functional.cross_entropy) -> Truth:
    """The measures by their definitions: κ from the I × I blocks of the dense Hessian, group by group."""
    h = dense(model, layer, x, y, loss=loss)
    module = model.get_submodule(layer)
    weight = module.weight.detach().double()
    groups = getattr(module, "groups", 1)
    w = weight.reshape(groups, weight.shape[0] // groups, -1)
    blocks = h.reshape(len(x), *w.shape, *w.shape)
    kappa = sum(torch.einsum("si,ti,nsjtj->n", w[g], w[g], blocks[:, g, :, :, g]) for g in range(groups))
    values = torch.linalg.eigvalsh(h).flip(1)
    return Truth(h.diagonal(dim1=1, dim2=2).sum(1), values[:, 0], kappa, values, _slope(model, layer, x, y, loss))


def _slope(model: nn.Module, layer: str, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    weight = model.get_submodule(layer).weight
    norms = []
    for i in range(len(x)):
        (g,) = torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), weight)
        norms.append(g.norm())
    return torch.stack(norms)


def many_digits(model: nn.Sequential, x: Tensor, y: int, digits: int = 60) -> dict[str, mp.mpf]:
    """The first layer of a Linear–ReLU–Linear network, one sample, in arithmetic of ``digits`` digits.

    With D the ReLU's mask and J = W₂ D, Tr H = ‖a‖² Tr(J Jᵀ A), κ = ‖a‖² Tr(J W₁ W₁ᵀ Jᵀ A), and the spectrum is that of
    ‖a‖² A^½ J Jᵀ A^½, found from the columns √p_c (e_c − p).
    """
    first, _, second = model
    with mp.workdps(digits):
        w1, w2 = mp.matrix(first.weight.tolist()), mp.matrix(second.weight.tolist())
        a = mp.matrix(x.tolist())
        s = w1 * a + mp.matrix(first.bias.tolist())
        open_ = [v > 0 for v in s]
        z = w2 * mp.matrix([v if o else mp.mpf(0) for v, o in zip(s, open_, strict=True)])
        z += mp.matrix(second.bias.tolist())
        top = max(z)
        e = [mp.exp(v - top) for v in z]
        p = [v / mp.fsum(e) for v in e]
        k = len(p)
        j = mp.matrix(k, len(open_))
        for r in range(k):
            for c, o in enumerate(open_):
                j[r, c] = w2[r, c] if o else 0
        columns = []
        for c in range(k):
            b = mp.matrix([mp.sqrt(p[c]) * ((1 if r == c else 0) - p[r]) for r in range(k)])
            columns.append(j.T * b)
        norm = mp.fsum(v * v for v in a)
        gram = mp.matrix(k, k)
        for r in range(k):
            for c in range(k):
                gram[r, c] = norm * mp.fdot(columns[r], columns[c])
        size = max(gram[i, i] for i in range(k))
        values = mp.eigsy(gram / size, eigvals_only=True)
        slope = j.T * mp.matrix([p[r] - (1 if r == y else 0) for r in range(k)])
        return {
            "trace": mp.fsum(gram[i, i] for i in range(k)),
            "relative_flatness": norm * mp.fsum(mp.norm(w1.T * column) ** 2 for column in columns),
            "top_eigenvalue": max(values) * size,
            "confidence_term": mp.fsum(q * (1 - q) for q in p),
            "weight_grad_norm": mp.sqrt(norm) * mp.norm(slope),
        }
