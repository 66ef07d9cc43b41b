"""Looking at a model's layers while a pass goes by: the inputs and outputs of those that are probed, and dead units."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from flatlens.errors import LayerError
from flatlens.victims.checks import first_input
from flatlens.victims.layers import Layer


@dataclass(frozen=True)
class Tap:
    """What one pass left at one layer: its input ``[n, …]`` and the place of its output in the graph."""

    layer: Layer
    value: Tensor
    version: int
    edge: GradientEdge | None
    output_shape: torch.Size

    @property
    def output(self) -> GradientEdge:
        """Where the layer's output stands in the graph: what gradients by it are taken with respect to.

        Raises:
            LayerError: the pass was made without a graph, or the output does not depend on the input.
        """
        if self.edge is None:
            raise LayerError(f"layer '{self.layer.name}' has no gradient in this pass; it does not depend on the input")
        return self.edge

    @property
    def overwritten(self) -> bool:
        """Whether something has changed the input in place after the layer used it."""
        return self.value._version != self.version

    @property
    def input(self) -> Tensor:
        """The layer's input, as it was when the layer saw it.

        Raises:
            LayerError: something has overwritten it in place since.
        """
        if self.overwritten:
            raise LayerError(f"the input of layer '{self.layer.name}' was overwritten in place after the layer used it")
        return self.value


class Tapped:
    """Hooks on the probed layers of a model.

    Args:
        model: which is the victim's own.
        layers: by name.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self._found: dict[str, Tap] = {}
        self._copied: Collection[str] = ()
        self._hooks: list[RemovableHandle] = []
        for layer in layers.values():
            self._hook(model.get_submodule(layer.target), layer)

    @contextmanager
    def collected(self, copied: Collection[str]) -> Iterator[dict[str, Tap]]:
        """The taps of the pass that is made in here, by layer; of the layers in ``copied`` the input is copied."""
        self._found, self._copied = {}, copied
        try:
            yield self._found
        finally:
            self._found = {}

    def remove(self) -> None:
        """Take the hooks off: the model may be the user's own."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, module: nn.Module, layer: Layer) -> None:
        before: list[Tensor] = []

        def keep_input(_: nn.Module, args: tuple[Tensor, ...], given: dict[str, Tensor]) -> None:
            x = first_input(args, given)
            before.append(x.clone() if layer.name in self._copied else x)

        def keep_output(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            value = before.pop()
            # The edge, not the tensor: what an in-place activation makes of the output later is another node.
            edge = get_gradient_edge(output) if output.requires_grad else None
            self._found[layer.name] = Tap(layer, value.detach(), value._version, edge, output.shape)

        self._hooks.append(module.register_forward_pre_hook(keep_input, with_kwargs=True))
        self._hooks.append(module.register_forward_hook(keep_output))


class DeadUnits:
    """Counts the ReLU units of a model that pass no gradient.

    Args:
        model: which is the victim's own.
    """

    def __init__(self, model: nn.Module) -> None:
        self._off: list[Tensor] = []
        self._units = 0
        for module in model.modules():
            if isinstance(module, nn.ReLU | nn.ReLU6):
                module.register_forward_hook(self._count)

    def share(self) -> Tensor | None:
        """Of the pass that was made since the last call, ``[n]``; None where the model has no ReLU."""
        if not self._off:
            return None
        found = torch.stack(self._off).sum(0).double() / self._units
        self._off, self._units = [], 0
        return found

    def _count(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        # The output tells: an in-place ReLU has overwritten its input.
        off = output.detach() <= 0
        self._off.append(off.flatten(1).sum(1))
        self._units += off[0].numel()
