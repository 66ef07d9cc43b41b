"""A language model over a whole prompt, with a graph from each inner layer to the target's logits.

An attack's pass may have the prefix computed once and for all. The curvature by an inner layer's weight needs every
position that the layer has acted on, the prefix's too: its passes are made here, beside the attack's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flatlens.errors import LayerError, ModelError
from flatlens.victims.checks import check_layers
from flatlens.victims.language_parts import Parts
from flatlens.victims.layers import HEAD, Layer, Survey, describe, probeable, resolve
from flatlens.victims.protocol import Forward
from flatlens.victims.taps import Tapped
from flatlens.victims.tokens import TokenVictim

TOGETHER = 1 << 26
"""Entries of the weights that are looked at together: meanwhile there are three of each."""
INSIDE = "model."
"""What the names of the user's model's layers begin with, within `WholePrompt`."""


class WholePrompt(nn.Module):
    """A language model as a network from embeddings ``[n, L, d]`` to the logits ``[n, T, V]`` of the target.

    Args:
        parts: of the model.
        positions: T.
    """

    def __init__(self, parts: Parts, positions: int) -> None:
        super().__init__()
        self.model = parts.model
        self._parts, self._positions = parts, positions

    def forward(self, embeddings: Tensor) -> Tensor:
        """The logits at the positions that predict the target."""
        hidden = self._parts.body(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        logits: Tensor = self._parts.head(hidden[:, -self._positions :])
        return logits


def inner_layers(victim: TokenVictim, patterns: Sequence[str]) -> dict[str, Layer]:
    """The layers beside the head that patterns select, each of them plain.

    Args:
        victim: the model at one of the prompts.
        patterns: names as in ``model.named_modules()``, ``all``, ``last:N`` or globs; ``head`` is left out.

    Raises:
        LayerError: there is no such layer, or one of them cannot be probed.
        ModelError: the model computes in half precision.
    """
    others = [pattern for pattern in patterns if pattern != HEAD]
    if not others:
        return {}
    model, head = victim.parts.model, victim.parts.name
    seen = survey(victim)
    names = resolve(others, model, seen)
    names = {name: target for name, target in names.items() if target != head}
    if not names:
        if set(others) <= {head, "last:1"} or len(seen.calls) > 1:
            return {}
        kinds = sorted({type(m).__name__ for m in model.modules() if _weight(m) and not isinstance(m, nn.Embedding)})
        raise LayerError(
            f"layer '{others[0]}': this model has no Linear layer beside its head; it is made of {', '.join(kinds)}, "
            "and only Linear layers can be probed"
        )
    if victim.dtype not in (torch.float32, torch.float64):
        kind = str(victim.dtype).removeprefix("torch.")
        raise ModelError(
            f"layer '{next(iter(names))}': the model computes in {kind}, whose gradients are too coarse; "
            "give --dtype float32"
        )
    for name, why in refused(victim, names).items():
        raise LayerError(why, name)
    modules = {name: model.get_submodule(target) for name, target in names.items()}
    return {name: describe(name, names[name], module, module.weight.detach(), None) for name, module in modules.items()}


def _weight(module: nn.Module) -> bool:
    """Whether it has a matrix of its own, as layers have."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2


def survey(victim: TokenVictim) -> Survey:
    """How often each layer is called in a pass over the whole prompt, and which is the head."""
    model, network = victim.parts.model, WholePrompt(victim.parts, victim.target.shape[1])
    counted = Counter(dict.fromkeys(probeable(model), 0))
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: counted.update([name]))
        for name in list(counted)
    ]
    try:
        with torch.no_grad():
            logits = network(victim.whole(victim.embed(victim.start())))
    finally:
        for hook in hooks:
            hook.remove()
    return Survey(logits, dict(counted), victim.parts.name)


def refused(victim: TokenVictim, names: Mapping[str, str]) -> dict[str, str]:
    """Which of these layers are not plain, and why; ``names`` are those in the tables and those in the model."""
    network = WholePrompt(victim.parts, victim.target.shape[1])
    embeddings = victim.whole(victim.embed(victim.start()))
    found: dict[str, str] = {}
    group: dict[str, str] = {}
    held = 0
    for name, target in names.items():
        size = victim.parts.model.get_submodule(target).weight.numel()
        if group and held + size > TOGETHER:
            found |= check_layers(network, group, embeddings, perturbed=True).refused
            group, held = {}, 0
        group[name], held = INSIDE + target, held + size
    return found | (check_layers(network, group, embeddings, perturbed=True).refused if group else {})


def whole_pass(victim: TokenVictim, x: Tensor, layers: Mapping[str, Layer]) -> Forward:
    """A pass over all of the prompt at a slot's embeddings ``[1, S, d]``, its layers tapped.

    The model has no hooks afterwards.
    """
    network = WholePrompt(victim.parts, victim.target.shape[1])
    taps = Tapped(victim.parts.model, layers)
    try:
        with victim.where.watched(), torch.enable_grad(), taps.collected(()) as seen:
            point = victim.whole(x).requires_grad_()
            logits = network(point)
    finally:
        taps.remove()
    return Forward(point, victim.target.expand(len(x), -1), logits, dict(seen), victim.where)
