"""The loop: an attack yields iterates, the probes measure each on its own live pass, the numbers become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlens.errors import AttackError
from flatlens.forward import Batch, Forward, Victim
from flatlens.hessian import NOT_FINITE, OK, Curvature
from flatlens.hessian.any_layer import AnyLayer
from flatlens.probes import Path
from flatlens.probes.flatness import flatness
from flatlens.probes.gradients import input_grad_norm
from flatlens.probes.prediction import perturbation, prediction
from flatlens.randomness import Noise
from flatlens.trajectory import ATTACK, LAYERS, STEPS, Images

Ints = NDArray[np.int64]


class Attack(Protocol):
    """Anything that walks: yields the pass at the clean input first, at the final iterate last."""

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Forward]:
        """Walk from ``batch.x``."""


@runtime_checkable
class Recorder(Protocol):
    """An attack that does not yield: it is run once on the user's own model and then replayed."""

    def record(self, model: nn.Module, batch: Batch, bounds: tuple[float, float]) -> tuple[Attack, dict[str, int]]:
        """Run it. Returns what replays it, and counts of what a reader must know (code -> samples)."""


class Piece(NamedTuple):
    """The rows of one batch: all its paths, complete."""

    steps: pa.Table
    layers: pa.Table
    images: Images | None


def walk(
    attack: Attack,
    victim: Victim,
    batch: Batch,
    rng: Noise,
    *,
    path: str = ATTACK,
    measure: AnyLayer | None = None,
    keeper: Keeper | None = None,
    tick: Callable[[], None] = lambda: None,
    confirm: Callable[[Tensor], Tensor] | None = None,
) -> Piece:
    """Run one path of one batch and measure every step.

    Args:
        attack: what walks.
        victim: the model.
        batch: the samples.
        rng: the attack's noise.
        path: the name of the path in the tables.
        measure: what measures the layers; None measures predictions only.
        keeper: what keeps inputs; None keeps none.
        tick: called after each step.
        confirm: gives the predictions of the user's own model at the final iterate, ``[n]``.
    """
    steps, layers = Rows(batch.ids), {name: Rows(batch.ids) for name in victim.layers}
    how: dict[str, Curvature] = {}
    way, end = Path(batch.x, batch.target), End(len(batch.ids))
    for here in attack(victim, batch, rng):
        if way.previous is not None:
            steps.late("input_grad_norm", input_grad_norm(way.previous))
        at = way.at(here.rows)
        seen = prediction(here, at)
        step = steps.add(seen | perturbation(here, at), here)
        how = measure(here) if measure else {}
        for name, found in how.items():
            layers[name].add(flatness(found), here)
        if keeper is not None:
            first = next(iter(how.values()), None)
            keeper.look(step, here, seen["flipped"], None if first is None else first.relative_flatness)
        way = way.to(here)
        end.look(step, here)
        tick()
    if way.previous is None:
        raise AttackError(f"the attack '{type(attack).__name__}' yields nothing; the clean input comes first")
    steps.late("input_grad_norm", torch.full_like(input_grad_norm(way.previous), torch.nan))

    constant = {"path": path, "label": batch.y, "target": batch.target}
    table = steps.table(STEPS, constant)
    if confirm is not None:
        table = _confirm(table, confirm(end.x), steps.last_rows())
    parts = [
        layers[name].table(LAYERS, constant | {"layer": name, "method": found.method, "exact": found.exact})
        for name, found in how.items()
    ]
    images = keeper.images(batch.ids, end) if keeper is not None else None
    return Piece(table, pa.concat_tables(parts) if parts else LAYERS.empty_table(), images)


class Rows:
    """Columns of one path, collected pass by pass and kept where they were computed until the path ends."""

    def __init__(self, ids: Tensor) -> None:
        self._ids = ids
        self._columns: dict[str, list[Tensor]] = {}
        self._late: set[str] = set()
        self._who: list[Ints] = []
        self._step: list[Ints] = []
        self._kind: list[str] = []
        self._length = np.zeros(len(ids), dtype=np.int64)

    def add(self, columns: dict[str, Tensor], here: Forward) -> Ints:
        """One pass's columns, ``[n]`` each; returns which step of its own path this is for each sample."""
        who = np.arange(len(self._ids)) if here.rows is None else here.rows.numpy()
        step = self._length[who]
        self._length[who] += 1
        self._who.append(who)
        self._step.append(step)
        self._kind.append(here.kind)
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        return step

    def late(self, name: str, values: Tensor) -> None:
        """A column of the pass that was added last, known only when it is over; null where it is NaN."""
        self._late.add(name)
        self._columns.setdefault(name, []).append(values)

    def last_rows(self) -> Ints:
        """Where in the table each sample's last row is, ``[n]``."""
        return np.cumsum(self._length) - 1

    def table(self, schema: pa.Schema, constant: dict[str, Any]) -> pa.Table:
        """The rows, ordered by sample, then step; what was never added is null."""
        who, step = np.concatenate(self._who), np.concatenate(self._step)
        kind = np.repeat(np.asarray(self._kind), [len(part) for part in self._who])
        order = np.lexsort((step, who))
        who = who[order]
        arrays: dict[str, Any] = {
            "sample": self._ids.numpy()[who],
            "step": step[order].astype(np.int32),
            "kind": kind[order],
            "restart": np.zeros(len(who), dtype=np.int32),
        }
        for name, value in constant.items():
            if isinstance(value, Tensor):
                arrays[name] = value.cpu().numpy()[who]
            elif value is not None:
                arrays[name] = pa.repeat(value, len(who))
        arrays |= {name: torch.cat(values).cpu().numpy()[order] for name, values in self._columns.items()}
        if "trace" in arrays:
            finite = np.isfinite(arrays["trace"]) & np.isfinite(arrays["relative_flatness"])
            arrays["status"] = np.where(finite, OK, NOT_FINITE)
        columns = []
        for f in schema:
            value = arrays.get(f.name)
            if value is None:
                columns.append(pa.nulls(len(who), f.type))
            elif isinstance(value, pa.Array):
                columns.append(value.cast(f.type))
            else:  # a late column is null where it was never computed; in the others NaN is a finding and stays
                columns.append(pa.array(value, type=f.type, from_pandas=f.name in self._late))
        return pa.table(columns, schema=schema)


class End:
    """Where each sample's path has got to: ``x`` ``[n, …]``, ``logits`` ``[n, K]``, ``step`` ``[n]``."""

    def __init__(self, n: int) -> None:
        self.x = self.logits = torch.empty(0)
        self.step = torch.zeros(n, dtype=torch.long)

    def look(self, step: Ints, here: Forward) -> None:
        """See one pass."""
        x, logits, at = here.x.detach(), here.logits.detach(), torch.from_numpy(step)
        if here.rows is None:
            self.x, self.logits, self.step = x, logits, at
            return
        rows = here.rows.to(x.device)
        # Out of place: what is held may be the attack's own.
        self.x, self.logits = self.x.index_copy(0, rows, x), self.logits.index_copy(0, rows, logits)
        self.step = self.step.index_copy(0, here.rows, at)


class Keeper:
    """Keeps a path's inputs: all, or those at the key steps clean, flip, peak and end.

    The peak is that of κ of the first probed layer, kept as a running maximum, so that memory does not grow with
    the number of steps.
    """

    def __init__(self, mode: str) -> None:
        self._all = mode == "all"
        self._who: list[Tensor | None] = []
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._best: Tensor | None = None
        self._flipped: Tensor | None = None

    def look(self, step: Ints, here: Forward, flipped: Tensor, measure: Tensor | None) -> None:
        """See one pass; ``step``, ``flipped`` and ``measure`` are ``[n]``."""
        x, logits, at = here.x.detach(), here.logits.detach(), torch.from_numpy(step)
        flipped = flipped.cpu()
        if self._all:
            self._kept.append((x, logits, at))
            self._who.append(here.rows)
            return
        if self._flipped is None:  # slots for flip and peak hold the clean input until there is something to hold
            self._kept = [(x, logits, at)] + [(x.clone(), logits.clone(), at.clone()) for _ in range(2)]
            self._flipped = flipped.clone()
            self._best = None if measure is None else measure.cpu().clone()
            return
        who = torch.arange(len(self._flipped)) if here.rows is None else here.rows
        self._put(1, flipped & ~self._flipped[who], who, x, logits, at)
        self._flipped[who] |= flipped
        if measure is not None and self._best is not None:
            higher = measure.cpu() > self._best[who]
            self._put(2, higher, who, x, logits, at)
            self._best[who] = torch.where(higher, measure.cpu(), self._best[who])

    def _put(self, slot: int, where: Tensor, who: Tensor, x: Tensor, logits: Tensor, step: Tensor) -> None:
        kept_x, kept_logits, at = self._kept[slot]
        here, there = where.to(x.device), who[where].to(x.device)
        kept_x[there], kept_logits[there] = x[here], logits[here]
        at[who[where]] = step[where]

    def images(self, ids: Tensor, end: End) -> Images:
        """What was kept, ordered by sample, then step, each step once."""
        if self._all:
            return self._everything(ids)
        kept = [*self._kept, (end.x, end.logits, end.step)]
        x, logits, at = (torch.stack([entry[i].cpu() for entry in kept], 1) for i in range(3))
        # A step that plays two roles (the flip at the peak) is kept once.
        order = at.argsort(dim=1, stable=True)
        ordered = at.gather(1, order)
        fresh = torch.ones_like(ordered, dtype=torch.bool)
        fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        sample, slot = fresh.nonzero(as_tuple=True)
        source = order[sample, slot]
        return _images(x[sample, source], ids[sample], at[sample, source], logits[sample, source])

    def _everything(self, ids: Tensor) -> Images:
        x, logits, at = (torch.cat([entry[i].cpu() for entry in self._kept]) for i in range(3))
        who = torch.cat([torch.arange(len(ids)) if rows is None else rows for rows in self._who])
        order = torch.from_numpy(np.lexsort((at.numpy(), who.numpy())))
        return _images(x[order], ids[who[order]], at[order], logits[order])


def _images(x: Tensor, sample: Tensor, step: Tensor, logits: Tensor) -> Images:
    return Images(
        x=x.float().contiguous().numpy(),
        sample=sample.numpy(),
        step=step.to(torch.int32).numpy(),
        probabilities=torch.softmax(logits.double(), 1).float().numpy(),
    )


def _confirm(table: pa.Table, predicted: Tensor, last: Ints) -> pa.Table:
    """Fill ``confirmed`` at each sample's last step."""
    at_end = np.zeros(table.num_rows, dtype=bool)
    at_end[last] = True
    values = np.zeros(table.num_rows, dtype=bool)
    values[last] = table["prediction"].to_numpy()[last] == predicted.cpu().numpy()
    column = pa.array(values, mask=~at_end)
    return table.set_column(table.schema.get_field_index("confirmed"), STEPS.field("confirmed"), column)
