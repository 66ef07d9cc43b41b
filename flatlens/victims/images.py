"""`Victim`, a private copy of the user's model made ready for attack, and `Forward`, one pass through it.

The copy is evaluated, frozen, folded (batch norm into convolutions) and tapped; the user's model is never
changed. One `Forward` is one pass on one live graph: attack and probes share it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlens.errors import FlatlensError, LayerError, ModelError, one_line
from flatlens.models import guard
from flatlens.models.guard import Where
from flatlens.records.schema import ITERATE
from flatlens.victims.checks import Own, first_input
from flatlens.victims.folding import fold
from flatlens.victims.layers import HEAD, Layer, Survey, as_logits, describe, resolve, survey
from flatlens.victims.private import private_copy, working_dtype


class Batch(NamedTuple):
    """Samples that travel together: ``x`` ``[n, …]``, ``y`` ``[n]``, ``ids`` ``[n]`` (CPU, identify the noise).

    ``target`` ``[n]`` is the label wanted by a targeted attack, ``eps`` ``[n]`` each sample's radius where it has one
    of its own. For controls: ``other`` ``[n, …]`` is a clean image of another class, ``end`` ``[n, …]`` what the
    attack has found.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    target: Tensor | None = None
    other: Tensor | None = None
    eps: Tensor | None = None
    end: Tensor | None = None


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


class Forward:
    """One forward pass on one live graph.

    Attributes:
        x: the input, a leaf that requires grad where a graph was kept, ``[n, …]``.
        y: labels ``[n]``.
        logits: ``[n, K]``.
        taps: the probed layers' inputs and outputs.
        gradient: the objective's gradient, ``[n, …]``, once the attack has asked for it.
        rows: which samples of the batch these are, ``[n]`` on the CPU, ascending; None = all of them.
        kind: ``iterate``, ``best`` or ``returned``.
        dead_share: the share of ReLU units that pass no gradient, ``[n]``; None where it was not asked for.
    """

    def __init__(self, x: Tensor, y: Tensor, logits: Tensor, taps: dict[str, Tap]) -> None:
        self.x, self.y, self.logits, self.taps = x, y, logits, taps
        self.gradient: Tensor | None = None
        self.rows: Tensor | None = None
        self.kind = ITERATE
        self.dead_share: Tensor | None = None
        self.where = Where()

    @cached_property
    def loss(self) -> Float[Tensor, " n"]:
        """Cross-entropy of the label, per sample, on the graph."""
        return F.cross_entropy(self.logits, self.y, reduction="none")

    def grad(self, objective: Callable[[Forward], Tensor]) -> Tensor:
        """∂ Σ objective / ∂x, ``[n, …]``. Frees the graph: probes come first, the attack's gradient last."""
        with self.where.watched():
            (self.gradient,) = torch.autograd.grad(objective(self).sum(), self.x)
        return self.gradient


class Victim:
    """A folded, evaluated, frozen private copy of a model, with taps on the probed layers.

    Args:
        model: returns logits ``[n, K]``, K ≥ 2, or an object that has them as ``.logits``; in eval mode.
        example: a few inputs, ``[n, …]``, to check the model with.
        layers: names as in ``model.named_modules()``, ``"head"``, ``"all"``, ``"last:N"`` or a glob.
        without: layers to leave out of what patterns select.
        bounds: the range in which inputs live.
        dtype: of attack and forward pass; the model's own when left out.
        device: where to compute; the model's own when left out.
        fold_norms: fold batch norm into convolutions (the function, and every number reported, stay the same).
        dead_units: count the ReLU units that pass no gradient, at every pass; it costs a look at each.

    Raises:
        ModelError: not a deterministic classifier in eval mode.
        LayerError: a layer does not exist or cannot be probed.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        layers: Sequence[str] = (HEAD,),
        without: Collection[str] = (),
        bounds: tuple[float, float] = (0.0, 1.0),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        fold_norms: bool = True,
        dead_units: bool = False,
    ) -> None:
        guard.check_kind(model)
        own = next(model.parameters(), torch.empty(0))
        self.device = torch.device(device) if device is not None else own.device
        self.dtype = dtype or working_dtype(own.dtype)
        self.bounds = bounds
        self.where = Where()
        """Which pass is being made, for messages."""
        check_mode(model)
        private = private_copy(model).to(self.device, self.dtype).requires_grad_(False)
        for parameter in private.parameters():
            parameter.grad = None
        self._channels_last = example.dim() == 4 and any(isinstance(m, nn.Conv2d) for m in private.modules())
        example = self.place(example[:2])

        seen = check_logits(private, example)
        self.classes, self.where.dtype = seen.logits.shape[1], seen.logits.dtype
        self.head = seen.head
        self.probabilities = bool((seen.logits >= 0).all() and (seen.logits.sum(1) - 1).abs().max() <= 1e-4)
        """Whether the outputs are no logits: those of the example are not negative and sum to 1."""
        names = resolve(layers, private, seen, without)
        self._own = Own(model, names, self.head)
        refused = self._own.check(private, example)
        if refused:
            raise LayerError.of(refused)
        weights = {name: private.get_parameter(f"{target}.weight").detach() for name, target in names.items()}

        scale: dict[str, Tensor] = {}
        if fold_norms:
            private, scale = fold(private, example[:1])
        self.folded = bool(scale)
        if self._channels_last:
            private = private.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model = private
        self._taps: dict[str, Tap] = {}
        self.layers = {
            name: describe(name, target, private.get_submodule(target), weights[name], scale.get(target))
            for name, target in names.items()
        }
        for layer in self.layers.values():
            self._tap(layer)
        self._dead: list[Tensor] = []
        self._units: int = 0
        if dead_units:
            for module in private.modules():
                if isinstance(module, nn.ReLU | nn.ReLU6):
                    module.register_forward_hook(self._count_dead)
        self.needs_graph = any(layer.target != self.head for layer in self.layers.values())
        """Whether the probes need more of a pass than its numbers: else a pass whose gradient no one asks for is
        made without a graph."""
        self.twice = False
        """Whether the probes differentiate a pass twice: fused attention, which cannot be, is then left aside."""
        self.copied: set[str] = set()
        """Layers whose input something overwrites in place later in the pass: the tap keeps a copy."""

    def _tap(self, layer: Layer) -> None:
        module = self._model.get_submodule(layer.target)
        before: list[Tensor] = []

        def keep_input(_: nn.Module, args: tuple[Tensor, ...], given: dict[str, Tensor]) -> None:
            x = first_input(args, given)
            before.append(x.clone() if layer.name in self.copied else x)

        def keep_output(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            value = before.pop()
            # The edge, not the tensor: what an in-place activation makes of the output later is another node.
            edge = get_gradient_edge(output) if output.requires_grad else None
            self._taps[layer.name] = Tap(layer, value.detach(), value._version, edge, output.shape)

        module.register_forward_pre_hook(keep_input, with_kwargs=True)
        module.register_forward_hook(keep_output)

    def _count_dead(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        # The output tells: an in-place ReLU has overwritten its input.
        off = output.detach() <= 0
        self._dead.append(off.flatten(1).sum(1))
        self._units += off[0].numel()

    def place(self, x: Tensor) -> Tensor:
        """``x`` on the victim's device, in its dtype and memory format."""
        x = x.to(self.device, self.dtype)
        return x.contiguous(memory_format=torch.channels_last) if self._channels_last else x.contiguous()

    def check_again(self, x: Tensor) -> Tensor | None:
        """The user's own model's logits at the end of a path, its inner layers looked at once more: `checks.Own`."""
        return self._own.check_again(x)

    def __call__(self, x: Tensor, y: Int[Tensor, " n"], *, final: bool = False) -> Forward:
        """One pass. ``final``: no gradient with respect to the input will be asked for."""
        x = x.detach()
        graph = self.needs_graph or not final
        self.where.passes += 1
        attention = sdpa_kernel(SDPBackend.MATH) if self.twice else nullcontext()
        with self.where.watched(), torch.set_grad_enabled(graph), attention:
            logits = as_logits(self._model(x.requires_grad_(graph)))
        self.where.check(logits, len(x), self.classes, gradient=not final)
        taps, self._taps = self._taps, {}
        if len(taps) < len(self.layers):
            silent = next(name for name in self.layers if name not in taps)
            raise self.where.error(f"it does not call layer '{silent}', and did when it was tried")
        here = Forward(x, y, logits, taps)
        here.where = self.where
        if self._dead:
            here.dead_share = torch.stack(self._dead).sum(0).double() / self._units
            self._dead, self._units = [], 0
        return here


def check_mode(model: nn.Module) -> None:
    """Raise ModelError if any part of the model is in train mode."""
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    # A module without parameters or children (an activation) may carry a stale flag; dropout may not.
    if model.training or training:
        raise ModelError(f"the model is in train mode ('{training[0]}'); call model.eval() first")


def check_logits(model: nn.Module, x: Tensor) -> Survey:
    """Two passes over ``x``; return the last one's survey or raise ModelError saying why it has no logits."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(f"weight '{name}' holds {bad} values that are not finite; train or load the model again")
    before = _state(model)
    try:
        again, seen = survey(model, x).logits, survey(model, x)
    except FlatlensError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a model raises whatever its author chose
        if guard.is_out_of_memory(error):
            raise
        raise ModelError(f"the model fails on inputs of shape {tuple(x.shape)}: {one_line(error)}") from error
    _check_unchanged(before, _state(model))
    logits = seen.logits
    if logits.shape != again.shape:
        raise ModelError(
            f"the model is random: two passes over the same inputs return shapes {tuple(again.shape)} and "
            f"{tuple(logits.shape)}"
        )
    if logits.dim() != 2 or logits.shape[0] != x.shape[0]:
        raise ModelError(
            f"the model returns shape {tuple(logits.shape)} for {x.shape[0]} inputs; logits of shape [n, K] are needed"
        )
    if logits.shape[1] == 1:
        raise ModelError(
            "the model returns one logit; return two, (0, z) for a sigmoid of z, so that cross-entropy applies"
        )
    if not torch.equal(logits, again) and not (torch.isnan(logits).any() and torch.isnan(again).any()):
        raise ModelError(
            "the model is random: two passes over the same inputs differ "
            f"by {float((logits - again).abs().max()):.2g}; switch dropout and noise off"
        )
    return seen


class _State(NamedTuple):
    """A parameter or buffer as it was: what counts its edits, and its sum, which also shows those behind autograd."""

    kind: str
    tensor: Tensor
    version: int
    total: Tensor


def _state(model: nn.Module) -> dict[str, _State]:
    named = (("parameter", model.named_parameters()), ("buffer", model.named_buffers()))
    return {
        name: _State(kind, tensor, 0 if tensor.is_inference() else tensor._version, _sum(tensor.detach()))
        for kind, tensors in named
        for name, tensor in tensors
    }


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(dtype=torch.float32) if tensor.is_floating_point() else tensor.sum()


def _check_unchanged(before: dict[str, _State], after: dict[str, _State]) -> None:
    """Raise ModelError if a forward pass has changed a parameter or buffer; new ones, such as caches, may appear."""
    for name, old in before.items():
        new = after.get(name)
        edited = new is None or (old.tensor is new.tensor and old.version != new.version)
        if edited or (new is not None and not torch.equal(old.total, new.total)):
            raise ModelError(
                f"the model changes its {old.kind} '{name}' in a forward pass; "
                "it must stay as it is while it is attacked: leave such updates out in eval mode"
            )


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Autocast and TF32 off: the first is off by up to 5 % in curvature, the second no better."""
    matmul = torch.get_float32_matmul_precision()
    tf32 = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = tf32
