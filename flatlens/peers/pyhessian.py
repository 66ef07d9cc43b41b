"""Other ways to the same numbers, to hold flatlens against: dense Hessians, and PyHessian 0.1.

Both are slow and meant for small networks and single samples. PyHessian runs on a private copy of the model, because
it differentiates every parameter that requires a gradient, adds up ``.grad`` over the objects built on one model,
switches the model to eval mode, and keeps a cycle of graphs alive.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlens.errors import LayerError, unknown
from flatlens.victims.layers import as_logits, probeable

Loss = Callable[[Tensor, Tensor], Tensor]


class Estimate(NamedTuple):
    """A mean of m probes, and its standard error sd/√m."""

    value: float
    stderr: float


def dense(
    model: nn.Module, layer: str, x: Tensor, y: Int[Tensor, " n"], *, loss: Loss = F.cross_entropy
) -> Float[Tensor, "n d d"]:
    """The whole Hessian of each sample's loss by one layer's weight, float64, d = number of weights.

    Args:
        model: in eval mode; not changed.
        layer: as in ``model.named_modules()``.
        x: inputs ``[n, …]``.
        y: labels.
        loss: of logits ``[1, K]`` and labels ``[1]``.

    Raises:
        LayerError: no such layer.
    """
    private, weight = _private(model, layer, torch.float64)
    where = f"{layer}.weight"
    start = weight.detach()

    def of_sample(i: int) -> Tensor:
        def value(w: Tensor) -> Tensor:
            out = functional_call(private, {where: w}, (x[i : i + 1].to(start.device, _dtype(x)),))
            return loss(as_logits(out), y[i : i + 1].to(start.device))

        return hessian(value)(start).reshape(start.numel(), start.numel())

    with sdpa_kernel(SDPBackend.MATH):
        return torch.stack([of_sample(i).detach() for i in range(len(x))])


def pyhessian_trace(
    model: nn.Module,
    layer: str,
    x: Tensor,
    y: Int[Tensor, " n"],
    *,
    probes: int,
    seed: int,
    loss: Loss = F.cross_entropy,
) -> Estimate:
    """PyHessian's Hutchinson estimate of Tr H of the mean loss over the batch, by one layer's weight.

    It takes exactly ``probes`` probes: PyHessian's own stopping rule, that the running mean changes by less than 0.001,
    ends too early, and at once where the mean is negative.
    """
    with _pyhessian(model, layer, x, y, seed, loss) as theirs:
        values = torch.tensor(theirs.trace(maxIter=probes, tol=-float("inf")), dtype=torch.float64)
    return Estimate(float(values.mean()), float(values.std() / len(values) ** 0.5))


def pyhessian_top_eigenvalue(
    model: nn.Module,
    layer: str,
    x: Tensor,
    y: Int[Tensor, " n"],
    *,
    seed: int,
    iterations: int = 1000,
    tolerance: float = 1e-9,
    loss: Loss = F.cross_entropy,
) -> float:
    """PyHessian's power iteration: the eigenvalue of largest modulus (which may be negative) of the mean loss.

    Its vectors are normalised by ‖v‖ + 1e-6, which is wrong for Hessians that are not far larger than that: the loss is
    scaled so that theirs is, and the answer scaled back.
    """
    size = abs(pyhessian_trace(model, layer, x, y, probes=4, seed=seed, loss=loss).value) or 1.0

    def scaled(logits: Tensor, labels: Tensor) -> Tensor:
        return loss(logits, labels) * (1e6 / size)

    with _pyhessian(model, layer, x, y, seed, scaled) as theirs:
        values, _ = theirs.eigenvalues(maxIter=iterations, tol=tolerance, top_n=1)
    return float(values[0]) * size / 1e6


def pyhessian_density(
    model: nn.Module,
    layer: str | None,
    x: Tensor,
    y: Int[Tensor, " n"],
    *,
    seed: int,
    steps: int = 30,
    loss: Loss = F.cross_entropy,
) -> tuple[list[float], list[float]]:
    """PyHessian's spectral density of the mean loss: eigenvalues and weights of one stochastic Lanczos run.

    With ``layer`` None it is that of the Hessian by all the network's weights.
    """
    with _pyhessian(model, layer, x, y, seed, loss) as theirs, _eig():
        values, weights = theirs.density(iter=steps, n_v=1)
    return values[0], weights[0]


@contextmanager
def _pyhessian(model: nn.Module, layer: str | None, x: Tensor, y: Tensor, seed: int, loss: Loss) -> Iterator[Any]:
    """A PyHessian object on a copy of its own, with a seed that it does not leave behind."""
    from pyhessian import hessian as pyhessian

    dtype = x.dtype if x.is_floating_point() else torch.float32
    private, weight = _private(model, layer or probeable(model)[0], dtype)
    weight.requires_grad_(True)
    if layer is None:
        private.requires_grad_(True)
    before = torch.get_default_dtype()
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # That backward() with create_graph leaks memory: the cycle is cut below.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        torch.set_default_dtype(weight.dtype)  # it draws its first vector in the default dtype
        try:
            theirs = pyhessian(private, loss, data=(x, y), cuda=x.is_cuda)
            yield theirs
        finally:
            torch.set_default_dtype(before)
            weight.grad = None


@contextmanager
def _eig() -> Iterator[None]:
    """A stand-in for ``torch.eig``, which PyTorch has removed, on the symmetric matrices that PyHessian gives it."""

    def eig(matrix: Tensor, eigenvectors: bool = False) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    had = getattr(torch, "eig", None)
    torch.eig = eig  # type: ignore[assignment]
    try:
        yield
    finally:
        if had is None:
            del torch.eig
        else:
            torch.eig = had


def _private(model: nn.Module, layer: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Parameter]:
    """A frozen copy of the model, and the weight of one of its layers."""
    if layer not in probeable(model):
        raise LayerError(unknown("layer", layer, probeable(model), where="this model has"))
    private = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
    for parameter in private.parameters():
        parameter.grad = None
    return private, private.get_parameter(f"{layer}.weight")


def _dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.is_floating_point() else x.dtype
