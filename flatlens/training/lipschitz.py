"""An upper bound of a model's Lipschitz constant in l2: the product of what each of its parts may stretch at most.

It is mostly far above the true constant: the product takes for granted that every layer stretches just what the one
before it has stretched most. It is finite only for models that are one chain of parts whose factors are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from flatlens.errors import one_line
from flatlens.models.zoo.blocks import Normalize
from flatlens.victims.layers import as_logits
from flatlens.victims.noise import stream
from flatlens.victims.precision import CPU
from flatlens.victims.private import private_copy

EXACT = 1024
"""Inputs of a linear map up to which it is written out as a matrix; of larger ones the norm is found by iteration."""
LARGEST = 1 << 17
"""Inputs of a linear map up to which its norm is iterated for; larger ones would take minutes each."""
ITERATIONS, TOLERANCE = 300, 1e-8
"""Of that iteration: at most so many steps, and the relative rise of a step below which it is over."""
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
          nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)  # fmt: skip
"""Affine maps: their factor is the spectral norm of the linear part on inputs of this size."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
STEEPEST: dict[type[nn.Module], float] = {
    nn.Identity: 1.0, nn.Flatten: 1.0, nn.Unflatten: 1.0, nn.Dropout: 1.0, nn.Dropout1d: 1.0, nn.Dropout2d: 1.0,
    nn.Dropout3d: 1.0, nn.ReLU: 1.0, nn.ReLU6: 1.0, nn.Hardtanh: 1.0, nn.Tanh: 1.0, nn.Softplus: 1.0, nn.Softsign: 1.0,
    nn.LogSigmoid: 1.0, nn.CELU: 1.0, nn.Sigmoid: 0.25, nn.Hardsigmoid: 0.167, nn.GELU: 1.13, nn.SiLU: 1.1,
    nn.Mish: 1.09, nn.Hardswish: 1.5, nn.SELU: 1.7581,
}  # fmt: skip
"""The steepest slope of functions of single numbers, rounded up, and of what only moves numbers about."""
FUNCTIONS: dict[Any, float] = {
    F.relu: 1.0, torch.relu: 1.0, torch.relu_: 1.0, torch.tanh: 1.0, F.tanh: 1.0, torch.sigmoid: 0.25, F.sigmoid: 0.25,
    F.gelu: 1.13, F.silu: 1.1, F.softplus: 1.0, F.hardtanh: 1.0, F.relu6: 1.0, torch.flatten: 1.0, torch.reshape: 1.0,
}  # fmt: skip
METHODS: dict[Any, float] = {
    "relu": 1.0, "relu_": 1.0, "tanh": 1.0, "sigmoid": 0.25, "flatten": 1.0, "unflatten": 1.0, "view": 1.0,
    "reshape": 1.0, "contiguous": 1.0, "squeeze": 1.0, "unsqueeze": 1.0, "transpose": 1.0, "permute": 1.0,
}  # fmt: skip


class Bound(NamedTuple):
    """An upper bound of the Lipschitz constant, in logits per unit of l2; None where there is none, and ``why``."""

    value: float | None
    why: str = ""


Factor = Callable[[], float]


class _Unknown(Exception):  # noqa: N818 -- it is caught here, and becomes a reason
    """A part whose factor is not known; fx adds lines of its own to the message, so ``why`` is kept beside it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def lipschitz(model: nn.Module, x: Tensor) -> Bound:
    """How much the logits can change at most, in l2, by a change of size 1 of the input, in l2.

    Every Linear and convolution counts by the spectral norm of the linear map that it is on inputs of this size, exact
    for small ones and otherwise by power iteration; a batch norm by its largest scale; activations by their steepest
    slope; pooling by what it is. Where two paths are joined, as in residual networks, there is no product.

    Args:
        model: in eval mode; never changed.
        x: an input or a few, ``[n, …]``, for the sizes.

    Returns:
        The bound, or None and the first part that has none, by its name.
    """
    try:
        own = private_copy(model).to(CPU).double().requires_grad_(False)
        graph = fx.GraphModule(own, _Tracer().trace(own))
        return Bound(_Chain(graph).bound(x[:1].detach().to(CPU).double()))
    except _Unknown as error:
        return Bound(None, error.why)
    except Exception as error:  # fx and the model raise whatever they like
        return Bound(None, f"the model cannot be followed from part to part: {one_line(error, kind=True)}")


class _Tracer(fx.Tracer):
    """What has a factor stays one part, though it be a subclass."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (Normalize, *LINEAR)) or super().is_leaf_module(m, module_qualified_name)


class _Chain(fx.Interpreter):
    """Runs a model part by part, and notes the factors on the way; they are found once all parts are known."""

    def bound(self, x: Tensor) -> float:
        """The product of the factors from the input to the logits."""
        self._bounds: dict[fx.Node, tuple[Factor, ...]] = {}
        self._values: dict[fx.Node, Any] = {}
        self.run(x)
        (end,) = (node for node in self.module.graph.nodes if node.op == "output")  # type: ignore[union-attr]
        return math.prod(factor() for factor in self._bounds[end])

    def run_node(self, n: fx.Node) -> Any:
        """Run a part, and note by how much all up to it stretches at most."""
        found = self._values[n] = super().run_node(n)
        if n.op == "placeholder":
            self._bounds[n] = ()
        joined = [node for node in n.all_input_nodes if node in self._bounds and isinstance(self._values[node], Tensor)]
        if n.op == "output":
            as_logits(found)
        if isinstance(found, (tuple, list)) and any(isinstance(part, Tensor) for part in found):
            raise _Unknown(f"'{n.name}' parts into several paths, and a product does not bound what they come to")
        if not joined or not isinstance(found, Tensor | dict):
            return found
        if len(joined) > 1:
            raise _Unknown(f"'{n.name}' joins two paths, as in residual networks, and a product does not bound that")
        own = () if n.op == "output" else (self._factor(n, joined[0]),)
        self._bounds[n] = (*self._bounds[joined[0]], *own)
        return found

    def _factor(self, n: fx.Node, before: fx.Node) -> Factor:
        given = self._values[before]
        if n.op == "call_module":
            return _of_module(str(n.target), self.fetch_attr(str(n.target)), given)
        known: dict[Any, float] = METHODS if n.op == "call_method" else FUNCTIONS
        factor = known.get(n.target) if n.args and n.args[0] is before else None
        if factor is None:
            kind = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", n.target)
            raise _Unknown(f"'{n.name}' is {kind}, and how much that may stretch is not known")
        return partial(float, factor)


def _of_module(name: str, part: nn.Module, x: Tensor) -> Factor:
    """What says how much a part stretches its inputs at most; ``x`` ``[1, …]`` is one of them."""
    if part._forward_hooks or part._forward_pre_hooks:
        raise _Unknown(f"part '{name}' has hooks, and what they do is not known")
    if isinstance(part, LINEAR):
        if not isinstance(part, nn.Linear) and x.numel() > LARGEST:
            raise _Unknown(
                f"part '{name}' takes inputs of {x.numel():,} numbers; a spectral norm is looked for up to {LARGEST:,}"
            )
        return partial(spectral_norm, part, x)
    return partial(float, _plain_factor(name, part, x))


def _plain_factor(name: str, part: nn.Module, x: Tensor) -> float:
    """The factor of a part that is no affine map of many numbers to many."""
    kind = type(part)
    if isinstance(part, Normalize):
        return float((1 / part.std.abs()).max())
    if kind in NORMS and getattr(part, "running_var", None) is not None:
        variance = torch.sqrt(part.running_var + part.eps)  # type: ignore[operator]
        return float(((1.0 if part.weight is None else part.weight.abs()) / variance).max())  # type: ignore[operator]
    if kind in POOLS:
        return _overlap(part, x.dim() - 2)
    if isinstance(part, nn.LeakyReLU):
        return max(1.0, abs(part.negative_slope))
    if isinstance(part, nn.ELU):
        return max(1.0, abs(part.alpha))
    if isinstance(part, nn.PReLU):
        return max(1.0, float(part.weight.abs().max()))
    if kind in STEEPEST:
        return STEEPEST[kind]
    raise _Unknown(f"part '{name}' is a {kind.__name__}, and how much that may stretch is not known")


def _overlap(part: nn.Module, axes: int) -> float:
    """Of a maximum over windows: the root of how many windows one input may lie in, as many axes as there are."""

    def each(value: Any) -> tuple[int, ...]:
        return tuple(value) if isinstance(value, tuple) else (int(value),) * axes

    size, step, apart = each(part.kernel_size), each(part.stride), each(part.dilation)
    # The places of a window with gaps that one input may take are no more than the window has.
    counts = [k if d > 1 else -(-k // s) for k, s, d in zip(size, step, apart, strict=True)]
    return math.sqrt(math.prod(counts))


def spectral_norm(part: nn.Module, x: Tensor) -> float:
    """The largest factor by which the linear part of an affine map stretches inputs of the size of ``x`` ``[1, …]``.

    Args:
        part: an affine map, in float64.
        x: one input.

    Returns:
        It to rounding for inputs of up to `EXACT` numbers; for larger ones what power iteration comes to, which lies
        below it by less than it still rises.
    """
    if isinstance(part, nn.Linear) and min(part.weight.shape) <= EXACT:
        return float(torch.linalg.matrix_norm(part.weight.detach(), 2))
    zero = torch.zeros_like(x)
    with torch.no_grad():
        offset = part(zero)

    def linear(points: Tensor) -> Tensor:
        return part(points) - offset

    if x.numel() <= EXACT:
        basis = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])
        with torch.no_grad():
            return float(torch.linalg.matrix_norm(linear(basis).flatten(1), 2))
    return _iterated(linear, x)


def _iterated(linear: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The spectral norm of a linear map by power iteration on its square."""
    here = torch.randn(x.shape, generator=stream("spectral-norm", x.numel()), dtype=x.dtype)
    before = 0.0
    for _ in range(ITERATIONS):
        here = (here / here.norm()).requires_grad_(True)
        with torch.enable_grad():
            there = linear(here)
            (back,) = torch.autograd.grad(there, here, there.detach())
        size = float(there.detach().norm())
        if size == 0 or size - before <= TOLERANCE * size:
            return size
        before, here = size, back.detach()
    return before
