"""Layers that can be probed: their names, the patterns that select them, and the head."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlens.errors import LayerError, ModelError, unknown
from flatlens.models.normalized import INSIDE, Normalized

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


def as_logits(output: object) -> Tensor:
    """The logits in what a model returned: a tensor, or an object or dictionary with ``logits``."""
    if isinstance(output, Mapping):
        logits = output.get("logits")
    else:
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        held = f" with {', '.join(map(str, list(output)[:8])) or 'nothing'}" if isinstance(output, Mapping) else ""
        raise ModelError(
            f"the model returns a {type(output).__name__}{held}, not logits; return a tensor [n, K] or an object with "
            ".logits"
        )
    if not logits.is_floating_point():
        kind = str(logits.dtype).removeprefix("torch.")
        what = "are no numbers of the real line" if logits.is_complex() else "have no gradient"
        raise ModelError(f"the model returns {kind}, which {what}; return logits in floating point, before any argmax")
    return logits


class Survey(NamedTuple):
    """What one pass has shown: the logits ``[n, K]``, how often each layer was called, and the head, if there is one.

    The head is the Linear whose output equals the logits, by value.
    """

    logits: Tensor
    calls: dict[str, int]
    head: str | None


def survey(model: nn.Module, example: Tensor) -> Survey:
    """One pass over ``example``, watching every layer that can be probed.

    Raises:
        ModelError: what the model returns holds no logits.
    """
    calls = dict.fromkeys(probeable(model), 0)
    flat: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            if isinstance(module, nn.Linear) and output.dim() == 2:
                # An edit in place must not make another layer's output the logits.
                flat[name] = output.detach().clone()

        return note

    hooks = [model.get_submodule(name).register_forward_hook(watch(name)) for name in calls]
    try:
        # With a graph, as an attack has one: without it, PyTorch's transformer layers bypass their own parts.
        with torch.enable_grad():
            given = example.detach().clone().requires_grad_(example.is_floating_point())
            logits = as_logits(model(given)).detach()
    finally:
        for hook in hooks:
            hook.remove()
    heads = [name for name, output in flat.items() if torch.equal(output, logits)]
    return Survey(logits, calls, heads[-1] if heads else None)


def resolve(patterns: Sequence[str], model: nn.Module, seen: Survey, without: Collection[str] = ()) -> dict[str, str]:
    """Layers for what was asked: name in the tables -> name in ``model.named_modules()``, in order.

    The head is called ``head``, whatever else its name, unless it was asked for by that other name. The layers of a
    model that was wrapped to normalise its inputs are called as in the model itself. Layers named in ``without`` are
    left out.

    Raises:
        LayerError: nothing bears the name, or what does cannot be probed.
    """
    known = probeable(model)
    out: dict[str, str] = {}
    for pattern in patterns:
        for name in _expand(pattern, model, known, seen.head):
            own = own_name(name, model)
            alias = pattern if pattern in (name, own) else (HEAD if name == seen.head else own)
            if name not in out.values() and alias not in without:
                out[alias] = name
    _check_calls(out, model, seen)
    return out


def own_name(name: str, model: nn.Module) -> str:
    """What the user calls a layer: without what a wrapper of ours puts in front."""
    return name.removeprefix(INSIDE) if isinstance(model, Normalized) else name


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
    for name in (pattern, f"{INSIDE}{pattern}"):
        if name in known and pattern in (name, own_name(name, model)):
            return [name]
    if any(sign in pattern for sign in "*?["):
        if matched := [n for n in known if fnmatch.fnmatch(own_name(n, model), pattern) or fnmatch.fnmatch(n, pattern)]:
            return matched
        raise LayerError(f"no layer matches '{pattern}'; this model has: {', '.join(known)}")
    kinds = {own_name(name, model): type(module).__name__ for name, module in model.named_modules()}
    if pattern in kinds:
        raise LayerError(f"layer '{pattern}' is a {kinds[pattern]}; only Linear, Conv1d and Conv2d can be probed")
    raise LayerError(unknown("layer", pattern, [HEAD, *(own_name(n, model) for n in known)], where="this model has"))


def _check_calls(names: dict[str, str], model: nn.Module, seen: Survey) -> None:
    """Each layer must be used exactly once per pass, through its own module: else s is not linear in W."""
    for alias, target in names.items():
        if seen.calls[target] != 1:
            how = "is not called" if seen.calls[target] == 0 else f"is called {seen.calls[target]} times"
            raise LayerError(
                f"layer '{alias}' {how} in a forward pass; only a layer that is used exactly once can be probed", alias
            )
        others = tied(model, target)
        embedding = all(isinstance(model.get_submodule(n.rpartition(".")[0]), nn.Embedding) for n in others)
        if others and not (target == seen.head and embedding):
            raise LayerError(
                f"layer '{alias}' shares its weight with '{others[0]}'; a tied weight cannot be probed", alias
            )


def tied(model: nn.Module, target: str) -> list[str]:
    """Other names of a layer's weight in ``model.named_parameters()``."""
    weight = model.get_submodule(target).weight
    own = f"{target}.weight" if target else "weight"
    named = model.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if parameter is weight and name != own]
