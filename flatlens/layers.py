"""Layers that can be probed: their names, the patterns that select them, and the head."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlens.errors import LayerError, unknown

HEAD = "head"
PROBEABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Layer:
    """A probed layer: the user's weight, and how the victim's folded one follows from it.

    Attributes:
        name: as in the tables.
        target: as in ``model.named_modules()``.
        module: the victim's (possibly folded) module.
        weight: the user's weight, in the victim's dtype: ``[O, I]``, or ``[O, C_in / groups, *kernel]``.
        scale: D ``[O]`` with ``module.weight = D · weight`` row by row, or None where nothing was folded.
    """

    name: str
    target: str
    module: nn.Module
    weight: Tensor
    scale: Tensor | None = None

    @property
    def groups(self) -> int:
        """Independent groups of channels; 1 for a Linear."""
        return int(getattr(self.module, "groups", 1))


def describe(name: str, target: str, module: nn.Module, weight: Tensor, scale: Tensor | None) -> Layer:
    """The `Layer` called ``name``, whose module in the victim is ``module``."""
    return Layer(name, target, module, weight, scale)


def probeable(model: nn.Module) -> list[str]:
    """Names of the layers that can be probed, in the order of the model."""
    return [name for name, module in model.named_modules() if isinstance(module, PROBEABLE)]


def find_head(model: nn.Module, example: Tensor, logits: Tensor) -> str | None:
    """The Linear whose output equals the logits, by value; None if there is none."""
    found: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):

            def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                if output.shape == logits.shape and torch.equal(output, logits):
                    found.append(name)

            hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found else None


def resolve(
    patterns: Sequence[str], model: nn.Module, example: Tensor, head: str | None, without: Collection[str] = ()
) -> dict[str, str]:
    """Layers for what was asked: name in the tables -> name in ``model.named_modules()``, in order.

    The head is called ``head``, whatever else its name, unless it was asked for by that other name. Layers named in
    ``without`` are left out.

    Raises:
        LayerError: nothing bears the name, or what does cannot be probed.
    """
    known = probeable(model)
    out: dict[str, str] = {}
    for pattern in patterns:
        for name in _expand(pattern, model, known, head):
            alias = name if name == pattern else (HEAD if name == head else name)
            if name not in out.values() and alias not in without:
                out[alias] = name
    _check_calls(out, model, example, head)
    return out


def _expand(pattern: str, model: nn.Module, known: list[str], head: str | None) -> list[str]:
    if pattern == HEAD:
        if head is None:
            raise LayerError(
                "this model has no head: no Linear layer's output equals the logits; "
                f"name a layer instead: {', '.join(known) or 'it has none that can be probed'}"
            )
        return [head]
    if pattern == "all":
        return known
    if pattern.startswith("last:"):
        count = pattern.removeprefix("last:")
        if not count.isdigit() or int(count) < 1:
            raise LayerError(f"layer '{pattern}': last:N needs a whole number N ≥ 1, for example last:3")
        return known[-int(count) :]
    if pattern in known:
        return [pattern]
    if any(sign in pattern for sign in "*?["):
        if matched := fnmatch.filter(known, pattern):
            return matched
        raise LayerError(f"no layer matches '{pattern}'; this model has: {', '.join(known)}")
    kind = type(dict(model.named_modules())[pattern]).__name__ if pattern in dict(model.named_modules()) else None
    if kind is not None:
        raise LayerError(f"layer '{pattern}' is a {kind}; only Linear, Conv1d and Conv2d can be probed")
    raise LayerError(unknown("layer", pattern, [HEAD, *known], where="this model has"))


def _check_calls(names: dict[str, str], model: nn.Module, example: Tensor, head: str | None) -> None:
    """Each layer must be used exactly once per pass, through its own module: else s is not linear in W."""
    calls = dict.fromkeys(names.values(), 0)
    hooks = []
    for target in calls:

        def count(_: nn.Module, __: tuple[Tensor, ...], target: str = target) -> None:
            calls[target] += 1

        hooks.append(model.get_submodule(target).register_forward_pre_hook(count))
    try:
        # With a graph, as an attack has one: without it, PyTorch's transformer layers bypass their own parts.
        with torch.enable_grad():
            model(example.detach().clone().requires_grad_(example.is_floating_point()))
    finally:
        for hook in hooks:
            hook.remove()
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for alias, target in names.items():
        if calls[target] != 1:
            how = "is not called" if calls[target] == 0 else f"is called {calls[target]} times"
            raise LayerError(
                f"layer '{alias}' {how} in a forward pass; only a layer that is used exactly once can be probed", alias
            )
        tied = [n for n in owners[id(model.get_submodule(target).weight)] if n != f"{target}.weight"]
        if tied and target != head:
            raise LayerError(
                f"layer '{alias}' shares its weight with '{tied[0]}'; a tied weight cannot be probed", alias
            )
