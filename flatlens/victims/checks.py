"""Whether a layer is plain: W·a + b with its own weight, which nothing else uses.

All formulas of curvature stand on this, and neither a layer's class nor one pass shows it: a subclass may scale its
weight, a hook may add to the output, the weight may be used again by hand, behind a gate that happens to be closed.
So it is looked at on the user's own model (a copy may lose what a closure holds), three ways at once:

1. the weight has one reader in the autograd graph of the logits, and that is a product or a convolution;
2. the layer's output is W a + b, by value;
3. the same holds at a random W′, where also ∂⟨v, z⟩/∂W′ = Σ_q δ_q a_qᵀ. At W alone the gradient is blind to what is
   flat there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils import parametrize

from flatlens.errors import LayerError
from flatlens.victims.graph import Graph, kind, kinds, place
from flatlens.victims.layers import as_logits, tied
from flatlens.victims.private import is_compiled, uncompiled, working_dtype

VIEWS = kinds("Alias Expand Permute Reshape ReshapeAlias Squeeze T ToCopy Transpose UnsafeView Unsqueeze View")
PRODUCTS = kinds(
    "Addmm Addmv Baddbmm Bmm Convolution ConvolutionOverrideable CudnnConvolution Linear MiopenConvolution "
    "MkldnnConvolution MkldnnLinear Mm MpsConvolution Mv SlowConv2D SlowConvDilated2D ThnnConv2D ConvDepthwise2D"
)
ONLY = "only W·a + b with its own weight can be probed"
ROUNDINGS = 16
"""How many times the rounding expected of a sum is still taken for rounding."""


class Checked(NamedTuple):
    """What a check found.

    Attributes:
        refused: layer -> why it cannot be probed, a line each; empty where all are plain.
        logits: of the model, ``[n, K]``.
    """

    refused: dict[str, str]
    logits: Tensor


def check_layers(
    model: nn.Module, layers: Mapping[str, str], x: Tensor, *, perturbed: bool, embedded: Collection[str] = ()
) -> Checked:
    """Which layers are not plain.

    Args:
        model: in eval mode. Its weights are exchanged for a moment where ``perturbed``; all is put back.
        layers: name in the tables -> name in ``model.named_modules()``.
        x: inputs, ``[n, …]``, on the model's device and in its dtype.
        perturbed: look at a random W′ as well, where the weights can be exchanged (`exchangeable`).
        embedded: layers whose weight an embedding uses too: what is measured is the layer's use alone.

    Raises:
        RuntimeError: the model's own, unless it overwrites a layer's input.
    """
    try:
        return _checked(model, layers, x, perturbed, embedded)
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
        # The model overwrites a layer's input after its use, which is fine as long as nobody asks for ∂/∂W.
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            return _checked(model, layers, x, perturbed, embedded)


def _checked(
    model: nn.Module, layers: Mapping[str, str], x: Tensor, perturbed: bool, embedded: Collection[str]
) -> Checked:
    modules = {name: model.get_submodule(target) for name, target in layers.items()}
    refused: dict[str, str] = {}

    def note(found: Mapping[str, str | None]) -> None:
        for name, reason in found.items():
            if reason is not None:
                refused.setdefault(name, f"layer '{name}' ({type(modules[name]).__name__}) {reason}")

    with _differentiable(modules.values()):
        seen, logits = _pass(model, modules, x)
        graph = Graph(logits)
        note({name: _value(modules[name], look) for name, look in seen.items()})
        note({name: _reader(look, graph, embedding=name in embedded) for name, look in seen.items()})
        del graph
        if not perturbed or not exchangeable(model, layers):
            note(_gradients(modules, seen, logits))
            return Checked(refused, logits.detach())
        with _exchanged(modules.values()):
            again, elsewhere = _pass(model, modules, x)
            note({name: _value(modules[name], look) for name, look in again.items()})
            note(_gradients(modules, again, elsewhere))
    return Checked(refused, logits.detach())


class Own:
    """The user's own model, whose probed layers are looked at before the first step and at the end of each path.

    Args:
        model: in eval mode.
        layers: name in the tables -> name in ``model.named_modules()``.
        head: that name of the head, where there is one: its logits are compared at every pass anyway.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, str], head: str | None) -> None:
        self._model, self._layers = uncompiled(model), dict(layers)
        self._inner = {name: target for name, target in layers.items() if target != head}
        own = next(model.parameters(), torch.empty(0))
        self._device, self._dtype = own.device, own.dtype
        # In a compiled part hooks are not seen, half precision hides what a layer adds, and weights that were made in
        # inference mode have no gradient.
        self._open = (
            not is_compiled(self._model)
            and working_dtype(own.dtype) == own.dtype
            and not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
        )

    def check(self, private: nn.Module, example: Tensor) -> dict[str, str]:
        """Which layers are not plain, and why; on the private copy as well where the model itself does not show it.

        Args:
            private: the copy, not folded.
            example: a few inputs for it.
        """
        embedded = [name for name, target in self._layers.items() if tied(private, target)]
        refused: dict[str, str] = {}
        exchange = self._open and exchangeable(self._model, self._layers)
        if self._open:
            x = example.to(self._device, self._dtype)
            refused = check_layers(self._model, self._layers, x, perturbed=exchange, embedded=embedded).refused
        if not exchange:
            found = check_layers(private, self._layers, example, perturbed=True, embedded=embedded).refused
            refused = found | refused
        return {name: refused[name] for name in self._layers if name in refused}

    def check_again(self, x: Tensor) -> Tensor | None:
        """The model's logits at the end of a path, ``[n, K]``, or None where it has no inner layer to be looked at.

        Raises:
            LayerError: a layer is not plain there.
        """
        if not self._inner or not self._open:
            return None
        found = check_layers(self._model, self._inner, x.to(self._device, self._dtype), perturbed=False)
        if found.refused:
            first = next(iter(found.refused.values()))
            raise LayerError(f"{first} (so it is at the end of an attack; at the clean input it was plain)")
        return found.logits


def exchangeable(model: nn.Module, layers: Mapping[str, str]) -> bool:
    """Whether the layers' weights can be exchanged in place: those that are computed anew in each pass cannot."""
    return all(_exchangeable(model.get_submodule(target)) for target in layers.values())


def apply(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """A layer, without its bias, applied to its input with another weight."""
    if isinstance(module, nn.Linear):
        return F.linear(x, weight)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    return module._conv_forward(x, weight, None)


class _Look(NamedTuple):
    """What a pass showed of a layer: its input, the weight that it had, its output and the output's place."""

    x: Tensor
    weight: Tensor
    output: Tensor
    edge: GradientEdge | None


def _pass(model: nn.Module, modules: Mapping[str, nn.Module], x: Tensor) -> tuple[dict[str, _Look], Tensor]:
    seen: dict[str, _Look] = {}
    with ExitStack() as stack:
        for name, module in modules.items():

            def before(_: nn.Module, args: tuple[Tensor, ...], given: dict[str, Tensor], name: str = name) -> None:
                # A copy: the layer may overwrite its own input.
                seen[name] = _Look(first_input(args, given).detach().clone(), x, x, None)

            def after(
                module: nn.Module, _: tuple[Tensor, ...], __: dict[str, Tensor], out: Tensor, name: str = name
            ) -> None:
                edge = get_gradient_edge(out) if out.requires_grad else None
                weight: Tensor = module.weight  # type: ignore[assignment]
                seen[name] = _Look(seen[name].x, weight, out.detach().clone(), edge)

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        stack.enter_context(parametrize.cached())
        stack.enter_context(torch.enable_grad())
        logits = as_logits(model(x.detach().clone().requires_grad_(x.is_floating_point())))
    for name in modules:
        if name not in seen:
            raise LayerError(f"layer '{name}' is not called in a forward pass", name)
    return seen, logits


def first_input(args: tuple[Tensor, ...], given: Mapping[str, Tensor]) -> Tensor:
    """A layer's input, by position or by name."""
    return args[0] if args else given["input"]


def _reader(look: _Look, graph: Graph, *, embedding: bool) -> str | None:
    """The weight has one reader, a product; None where it is so."""
    if look.edge is None or place(look.edge)[0] not in graph.nodes:
        return None  # the logits do not depend on the layer: no curvature, or refused elsewhere
    if not look.weight.requires_grad or not graph.uses(place(look.weight)):
        return "does not use its own weight where a gradient sees it; it cannot be probed"
    here = place(look.weight)
    while True:
        uses = graph.uses(here)
        if embedding:
            uses = [use for use in uses if not kind(use.node).startswith("Embedding")]
        if len(uses) != 1:
            return (
                f"is not plain: its weight is used {len(uses)} times in a forward pass; "
                "only a weight that is used exactly once can be probed"
            )
        node = uses[0].node
        if kind(node) in PRODUCTS:
            return None
        if kind(node) not in VIEWS:
            return f"is not plain: its weight goes through {node.name()} before it meets the input; {ONLY}"
        here = (node, 0)


def _value(module: nn.Module, look: _Look) -> str | None:
    if look.output.dtype != look.weight.dtype:
        return f"computes in {look.output.dtype} with a weight in {look.weight.dtype}; take autocast out of the model"
    if computes(module, look.x, look.weight, look.output):
        return None
    return "does not compute W·a + b with its own weight; only a plain Linear, Conv1d or Conv2d can be probed"


@torch.no_grad()
def computes(module: nn.Module, x: Tensor, weight: Tensor, output: Tensor) -> bool:
    """Whether ``output`` is W a + b, to the rounding of its sums."""
    bias = getattr(module, "bias", None)
    expected, size = apply(module, x, weight), apply(module, x.square(), weight.square())
    if bias is not None:
        beyond = 0 if isinstance(module, nn.Linear) else weight.dim() - 2
        expected = expected + bias.reshape(-1, *[1] * beyond)
        size = size + bias.square().reshape(-1, *[1] * beyond)
    if expected.shape != output.shape:
        return False
    # An error of a sum is about that of its largest partial sum, once for each square root of its length.
    bound = _rounding(output, weight) * torch.maximum(size.sqrt(), expected.abs())
    unknown = ~torch.isfinite(expected) | ~torch.isfinite(bound)
    return bool((((expected - output).abs() <= bound) | unknown).all())


def _gradients(modules: Mapping[str, nn.Module], seen: Mapping[str, _Look], logits: Tensor) -> dict[str, str | None]:
    """∂⟨v, z⟩/∂W = Σ_q δ_q a_qᵀ: what the layer's weight does, it does through its output."""
    names = [name for name, look in seen.items() if look.edge is not None and look.weight.requires_grad]
    if not names or not logits.requires_grad:
        return {}
    v = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = [*(seen[name].edge for name in names), *(seen[name].weight for name in names)]
    found = torch.autograd.grad(_product(logits, v), places, allow_unused=True)  # type: ignore[arg-type]
    slopes = zip(names, found[: len(names)], found[len(names) :], strict=True)
    return {name: _gradient(modules[name], seen[name], delta, slope) for name, delta, slope in slopes}


def _product(z: Tensor, v: Tensor) -> Tensor:
    """⟨v, z⟩, whose gradient by z is v: torch imports sympy, for a third of a second, where it is given v apart."""
    return (z * v.to(z)).sum()


def _gradient(module: nn.Module, look: _Look, delta: Tensor | None, slope: Tensor | None) -> str | None:
    if delta is None and slope is None:
        return None
    weight = look.weight.detach().requires_grad_()
    expected = torch.zeros_like(weight)
    size = torch.zeros((), device=weight.device)
    if delta is not None:
        with torch.enable_grad():
            (expected,) = torch.autograd.grad(_product(apply(module, look.x, weight), delta), weight)
        # ‖Σ_q δ_q a_qᵀ‖ ≤ ‖δ‖ ‖a‖, and so is its rounding; an entry of x is in up to kernel-many columns.
        size = delta.norm() * look.x.norm() * weight[0, 0].numel() ** 0.5
    error = (expected if slope is None else slope - expected).norm()
    bound = _rounding(look.output, weight) * size
    if bool(error <= bound) or not bool(torch.isfinite(error) & torch.isfinite(bound)):
        return None
    return f"is not plain: its weight reaches the logits by another way than its own output; {ONLY}"


def _rounding(like: Tensor, weight: Tensor) -> float:
    """A generous bound of the relative rounding of sums as long as a row of the weight."""
    return ROUNDINGS * torch.finfo(like.dtype).eps * float(weight[0].numel()) ** 0.5


def _exchangeable(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and not weight.is_inference()


@contextmanager
def _differentiable(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The layers' weights require a gradient; afterwards as before."""
    parameters = {p for module in modules for p in module.parameters() if p.is_floating_point()}
    frozen = [p for p in parameters if not p.requires_grad and not p.is_inference()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _exchanged(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The layers' weights are others, of about the same size; afterwards the same memory as before."""
    generator = torch.Generator().manual_seed(1)
    held: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for module in modules:
            weight = module._parameters["weight"]
            assert weight is not None
            if any(weight is other for other, _ in held):
                continue
            size = float(weight.detach().square().mean().sqrt()) or weight[0].numel() ** -0.5
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            held.append((weight, weight.data))
            weight.data = weight.data + 0.5 * size * noise
        yield
    finally:
        for weight, data in held:
            weight.data = data
