"""The weights in a checkpoint: found in the tables that people nest them in, and matched to a model's names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flatlens.errors import ModelError, nearest

Weights = dict[str, Tensor]

DEEPEST = 4
"""Tables within each other that are looked into."""
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module")
"""Parts of a name that DataParallel, torch.compile, FSDP and their like put in, at the front or in the middle."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""What counts training steps, and changes nothing in eval mode: it may be missing or left over."""
_AVERAGED = re.compile(r"(^|[._-])(ema|swa|avg|averaged?|shadow|teacher|polyak)($|[._-])", re.IGNORECASE)
_MOST_PARTS = 16
_MOST_FOUND = 200


class Found(NamedTuple):
    """Weights in a checkpoint, and where in it they are: ``""`` at the top, ``ema.model`` within tables."""

    key: str
    weights: Weights


class Misfit(NamedTuple):
    """What keeps weights from a model: names that are missing, left over, and of other shapes."""

    missing: list[str]
    surplus: list[str]
    shapes: list[str]
    start: str = ""
    """What was taken away from the front of those names that begin with it, but not of all."""

    @property
    def size(self) -> int:
        """How many names are wrong."""
        return len(self.missing) + len(self.surplus) + len(self.shapes)


# ---- in the file --------------------------------------------------------------------------------


def candidates(content: Any, file: str) -> list[Found]:
    """All that could be a model's weights in what a file holds.

    Raises:
        ModelError: there is nothing of the kind.
    """
    found = list(itertools.islice(_search(content, (), DEEPEST), _MOST_FOUND))
    if not found:
        there = keys(content)
        which = f" (its keys: {', '.join(there[:24])})" if there else ""
        raise ModelError(f"'{file}'{which} holds no state_dict (names and tensors); save model.state_dict()")
    return found


def under(content: Any, key: str, file: str) -> list[Found]:
    """The weights under ``key``: ``a.b`` for tables within each other, or what the names begin with.

    Raises:
        ModelError: there is no such key, or there are no weights under it.
    """
    here, rest, path = content, key, ""
    while rest:
        table = _table(here)
        if table is None:
            raise ModelError(f"'{file}' has no key '{key}': '{path}' holds {_kind(here)} and no keys")
        # The longest key that fits: a key may have dots of its own.
        step = next((k for k in sorted(table, key=len, reverse=True) if rest == k or rest.startswith(f"{k}.")), None)
        if step is None:
            part = {k.removeprefix(f"{rest}."): v for k, v in table.items() if k.startswith(f"{rest}.")}
            if not part:
                raise ModelError(f"'{file}' has no key '{key}'; {_listed(table, rest, path)}")
            here, path, rest = part, key, ""
            break
        here, path = table[step], f"{path}.{step}" if path else step
        rest = rest[len(step) + 1 :]
    found = list(_search(here, (), DEEPEST))
    if not found:
        raise ModelError(f"under '{key}' '{file}' holds {_kind(here)}, and no state_dict (names and tensors)")
    return [Found(f"{key}.{one.key}" if one.key else key, one.weights) for one in found]


def modules(content: Any, key: str | None) -> dict[str, nn.Module]:
    """The whole models in what a file holds, by their keys; under ``key`` alone, if there is one."""
    table = {"": content} if isinstance(content, nn.Module) else _table(content) or {}
    found = {name: value for name, value in table.items() if isinstance(value, nn.Module)}
    return found if key is None else {name: value for name, value in found.items() if name == key}


def keys(content: Any) -> list[str]:
    """The keys of the tables in what a file holds, for messages."""
    return [] if (table := _table(content)) is None else [k for k, v in table.items() if not isinstance(v, Tensor)]


def _search(content: Any, path: tuple[str, ...], depth: int) -> Iterator[Found]:
    if isinstance(content, nn.Module):
        yield Found(".".join(path), dict(content.state_dict()))
        return
    table = _table(content)
    if table is None:
        return
    tensors = {k: v for k, v in table.items() if isinstance(v, Tensor)}
    # Beside a model's tensors there may be what parts of it keep of their own (_extra_state), but no more tables.
    others = [v for k, v in table.items() if not isinstance(v, Tensor) and "_extra_state" not in k]
    if tensors and not any(_table(v) for v in others):
        yield Found(".".join(path), tensors)
        return
    if depth:
        for key, value in table.items():
            if not isinstance(value, Tensor):
                yield from _search(value, (*path, key), depth - 1)


def _table(content: Any) -> dict[str, Any] | None:
    """A table with names for keys (an optimizer's have numbers), a list by its places; None for all else."""
    if isinstance(content, Mapping):
        named = {k: v for k, v in content.items() if isinstance(k, str)}
        return named if len(named) == len(content) else None
    if isinstance(content, (list, tuple)) and 0 < len(content) <= 64:
        return {str(i): v for i, v in enumerate(content)}
    return None


def _kind(content: Any) -> str:
    if isinstance(content, Tensor):
        return f"a tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"


def _listed(table: Mapping[str, Any], wanted: str, path: str) -> str:
    names = list(table)
    if all(isinstance(v, Tensor) for v in table.values()):
        names = list(dict.fromkeys(name.split(".")[0] for name in names))
    shown = ", ".join(names[:24]) + (f", … ({len(names)} in all)" if len(names) > 24 else "")
    near = nearest(wanted, names)
    hint = f". Did you mean '{f'{path}.{near}' if path else near}'?" if near else ""
    return f"{f'{path} has' if path else 'it has'}: {shown or 'none'}{hint}"


# ---- in the model -------------------------------------------------------------------------------


def fit(weights: Mapping[str, Tensor], model: nn.Module) -> tuple[Weights, Misfit]:
    """The weights by the model's names: with what wrappers put before or between them taken away where it then fits.

    Returns:
        them, and what still does not fit, by the renaming under which the fewest names are wrong.
    """
    wanted = model.state_dict()
    best: tuple[Weights, Misfit] | None = None
    for start, renamed in _renamings(weights, wanted):
        misfit = _misfit(renamed, wanted)._replace(start=start)
        if best is None or misfit.size < best[1].size:
            best = renamed, misfit
        if not misfit.size:
            break
    assert best is not None
    return best


def _renamings(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[tuple[str, Weights]]:
    """The same weights under other names, the plainest first; a renaming that makes two names one is none.

    With each what was taken away from a part of the names only.

    Yields:
        what was taken away, and the weights under their new names.
    """
    around = dict.fromkeys(("", _start(list(wanted))))
    for change in (str, _unwrapped):
        names = {n: change(n) for n in weights}
        counted = [name for name in names.values() if name not in COUNTERS]
        lead = _common(counted)
        cuts = [("", "".join(f"{part}." for part in lead[:cut])) for cut in range(len(lead) + 1)]
        if not lead:
            firsts = dict.fromkeys(name.split(".")[0] for name in counted)
            for first in itertools.islice(firsts, _MOST_PARTS):
                start = _start([name for name in counted if name.startswith(f"{first}.")])
                cuts += [(start, start)] if start else []
        for (only, start), before in itertools.product(cuts, around):
            # Before: the other way round, a model that is wrapped, and weights that are not.
            renamed = {f"{before}{name.removeprefix(start)}": weights[n] for n, name in names.items()}
            if len(renamed) == len(weights):
                yield only, renamed


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _start(names: Sequence[str]) -> str:
    return "".join(f"{part}." for part in _common(names))


def _common(names: Sequence[str]) -> list[str]:
    """What all names begin with, part by part; their last part is never of it."""
    parts = [name.split(".")[:-1] for name in names]
    same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return [column[0] for column in same]


def _misfit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Misfit:
    # Of tied weights, which share their memory, a file may hold one.
    present = {tensor.data_ptr() for key, tensor in wanted.items() if key in weights}
    missing = [
        k
        for k, tensor in wanted.items()
        if k not in weights and tensor.data_ptr() not in present and k.split(".")[-1] not in COUNTERS
    ]
    surplus = [k for k in weights if k not in wanted and k.split(".")[-1] not in COUNTERS]
    shapes = [k for k, tensor in weights.items() if k in wanted and tensor.shape != wanted[k].shape]
    return Misfit(missing, surplus, shapes)


def put(weights: Mapping[str, Tensor], model: nn.Module, name: str, key: str = "") -> None:
    """Copy ``weights`` into ``model``: every name, and every shape, must agree, but for what wrappers add to names.

    Args:
        weights: names and tensors.
        model: changed in place.
        name: of the weights, for messages.
        key: where in it they are.

    Raises:
        ModelError: a weight is missing, left over, of another shape, or no plain number.
    """
    fitting, misfit = fit(weights, model)
    if misfit.size:
        raise ModelError(explain(fitting, misfit, model, name, key))
    wanted = model.state_dict()
    for key, tensor in fitting.items():
        if key in wanted:
            _check_dtype(key, tensor, wanted[key], name)
    with torch.no_grad():
        for key, tensor in fitting.items():
            if key in wanted:
                wanted[key].copy_(tensor)


def _check_dtype(key: str, tensor: Tensor, wanted: Tensor, name: str) -> None:
    other = tensor.is_complex() and not wanted.is_complex()
    whole = not tensor.is_floating_point() and not tensor.is_complex() and wanted.is_floating_point()
    if tensor.is_quantized or other or whole:
        raise ModelError(
            f"weight '{key}' is {str(tensor.dtype).removeprefix('torch.')} in '{name}', the architecture's is "
            f"{str(wanted.dtype).removeprefix('torch.')}; save the weights of the model in floating point"
        )


def explain(weights: Mapping[str, Tensor], misfit: Misfit, model: nn.Module, name: str, key: str) -> str:
    """One line that says which names and shapes do not fit, with the nearest match."""
    asks = "is arch= the model it was saved from"
    if not misfit.missing and not misfit.surplus:
        key = misfit.shapes[0]
        return (
            f"weight '{key}' has shape {tuple(weights[key].shape)} in '{name}', the architecture expects "
            f"{tuple(model.state_dict()[key].shape)}; {asks}, with its options?"
        )
    said = []
    if misfit.missing:
        said.append(f"lacks {_names(misfit.missing)}, which the architecture has")
    if misfit.surplus:
        said.append(f"has {_names(misfit.surplus)}, which the architecture has not")
    near = nearest(misfit.missing[0], misfit.surplus) if misfit.missing else None
    hint = f"; '{near}' is nearest to '{misfit.missing[0]}'" if near else ""
    if misfit.start and not misfit.missing and not misfit.shapes:
        part = ".".join(filter(None, (key, misfit.start.removesuffix("."))))
        hint = f"; ?key={part} takes what begins with '{misfit.start}' alone"
    return f"'{name}' {', and '.join(said)}{hint}; {asks}?"


def _names(names: Sequence[str]) -> str:
    return f"weight '{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def choose(found: Sequence[Found], models: Sequence[nn.Module], file: str) -> tuple[Found, nn.Module]:
    """Of all weights in a file those that fit a model, and which of the models; the nearest where none does.

    Where a model's own weights and averages of them (EMA, SWA) fit, these are its own.

    Raises:
        ModelError: several fit, and they are not the same.
    """
    pairs = [(fit(one.weights, model)[1].size, i, j) for i, one in enumerate(found) for j, model in enumerate(models)]
    least = min(size for size, _, _ in pairs)
    best = {i: j for size, i, j in reversed(pairs) if size == least}
    if plain := {i: j for i, j in best.items() if not _AVERAGED.search(found[i].key)}:
        best = plain  # averages of weights are asked for by their key
    first = min(best)
    others = [found[i] for i in best if i != first and not _same(found[i].weights, found[first].weights)]
    if others and not least:
        names = [one.key for one in found if one is found[first] or any(one is other for other in others)]
        raise ModelError(
            f"'{file}' holds several weights that fit: {', '.join(names)}; say which: ckpt:FILE?key={names[0]}&arch=…"
        )
    if len(found) > 1 and least:
        misfit = fit(found[first].weights, models[best[first]])
        said = explain(*misfit, models[best[first]], f"{file}", found[first].key)
        raise ModelError(
            f"of the weights in '{file}' ({', '.join(one.key for one in found[:12])}) none fit; the nearest, "
            f"{found[first].key}: {said}"
        )
    return found[first], models[best[first]]


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))
