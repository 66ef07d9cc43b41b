"""`ImageVictim`, a private copy of the user's classifier made ready for attack.

The copy is evaluated, frozen, folded (batch norm into convolutions) and tapped; the user's model is never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatlens.errors import LayerError
from flatlens.models import guard
from flatlens.models.guard import Where
from flatlens.victims.checks import Own
from flatlens.victims.classifier import check_logits, check_mode
from flatlens.victims.folding import fold
from flatlens.victims.layers import HEAD, Layer, as_logits, describe, resolve
from flatlens.victims.private import private_copy, working_dtype
from flatlens.victims.protocol import Forward, Needs
from flatlens.victims.taps import DeadUnits, Tapped


class ImageVictim:
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
        self.device: torch.device = torch.device(device) if device is not None else own.device
        self.dtype: torch.dtype = dtype or working_dtype(own.dtype)
        self.bounds = bounds
        self.where: Where = Where()
        """Which pass is being made, for messages."""
        check_mode(model)
        private = private_copy(model).to(self.device, self.dtype).requires_grad_(False)
        for parameter in private.parameters():
            parameter.grad = None
        self._channels_last = example.dim() == 4 and any(isinstance(m, nn.Conv2d) for m in private.modules())
        example = self.place(example[:2])

        seen = check_logits(private, example)
        self.classes: int = seen.logits.shape[1]
        self.where.dtype = seen.logits.dtype
        self.head: str | None = seen.head
        self.probabilities: bool = bool((seen.logits >= 0).all() and (seen.logits.sum(1) - 1).abs().max() <= 1e-4)
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
        self.folded: bool = bool(scale)
        if self._channels_last:
            private = private.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model = private
        self.layers: Mapping[str, Layer] = {
            name: describe(name, target, private.get_submodule(target), weights[name], scale.get(target))
            for name, target in names.items()
        }
        self._taps = Tapped(private, self.layers)
        self._dead = DeadUnits(private) if dead_units else None
        self.needs: Needs = Needs(graph=any(layer.target != self.head for layer in self.layers.values()))
        """Where no layer but the head is probed, a pass whose gradient no one asks for is made without a graph."""

    def needing(self, needs: Needs) -> ImageVictim:
        """The same victim, whose passes are made as probes need them."""
        other = copy.copy(self)
        other.needs = needs
        return other

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
        graph = self.needs.graph or not final
        self.where.passes += 1
        attention = sdpa_kernel(SDPBackend.MATH) if self.needs.twice else nullcontext()
        watched, taps = self.where.watched(), self._taps.collected(self.needs.copied)
        with watched, torch.set_grad_enabled(graph), attention, taps as seen:
            logits = as_logits(self._model(x.requires_grad_(graph)))
        self.where.check(logits, len(x), self.classes, gradient=not final)
        if len(seen) < len(self.layers):
            silent = next(name for name in self.layers if name not in seen)
            raise self.where.error(f"it does not call layer '{silent}', and did when it was tried")
        here = Forward(x, y, logits, seen, self.where)
        here.dead_share = None if self._dead is None else self._dead.share()
        return here
