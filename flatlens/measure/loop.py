"""The loop: an attack yields iterates, the probes measure each on its own live pass, the numbers become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlens.attacks.balls import column
from flatlens.attacks.protocol import Attack
from flatlens.errors import AttackError
from flatlens.hessian import Curvature
from flatlens.hessian.any_layer import AnyLayer
from flatlens.probes import Columns, Path
from flatlens.probes.certificate import Anchor, Certificate
from flatlens.probes.flatness import flatness
from flatlens.probes.gradients import GradientFlow, zero_inputs
from flatlens.probes.prediction import perturbation, prediction
from flatlens.records.schema import ATTACK, BEST, ITERATE, LAYERS, NOT_FINITE, OK, STEPS, Images
from flatlens.victims.images import Batch, Forward, Victim
from flatlens.victims.noise import Noise

Ints = NDArray[np.int64]


class Piece(NamedTuple):
    """The rows of one batch: all its paths, complete.

    ``notes`` counts samples of which a reader must know something, by code (`flatlens.records.cautions.recorded`).
    ``clean`` is the curvature at the clean inputs, layer by layer.
    """

    steps: pa.Table
    layers: pa.Table
    images: Images | None
    found: Found | None = None
    notes: Mapping[str, int] = MappingProxyType({})
    clean: Mapping[str, Curvature] = MappingProxyType({})


class Found(NamedTuple):
    """What a run of an attack has found: the points of each sample's last pass.

    That is its best point where the attack keeps one, otherwise the end of the path.

    ``x`` ``[n, …]``, ``flipped`` ``[n]``, ``loss`` ``[n]``, ``logits`` ``[n, K]``.
    """

    x: Tensor
    flipped: Tensor
    loss: Tensor
    logits: Tensor

    def or_better(self, other: Found) -> Found:
        """For each sample the one that flips it, or else that of the higher loss; this one where they are equal."""
        mine, theirs = (torch.where(loss.isnan(), -torch.inf, loss) for loss in (self.loss, other.loss))
        better = (other.flipped & ~self.flipped) | ((other.flipped == self.flipped) & (theirs > mine))
        return Found(*(_choose(better, theirs, own) for own, theirs in zip(self, other, strict=True)))

    def with_rows(self, rows: Tensor, now: Found) -> Found:
        """The same but for these samples. Out of place: what is held may be the attack's own."""
        at = rows.to(self.x.device)
        return Found(*(held.index_copy(0, at, new) for held, new in zip(self, now, strict=True)))


def walk(
    attack: Attack,
    victim: Victim,
    batch: Batch,
    rng: Noise,
    *,
    path: str = ATTACK,
    measure: AnyLayer | None = None,
    certificate: Certificate | None = None,
    keeper: Keeper | None = None,
    tick: Callable[[], None] = lambda: None,
    confirm: Callable[[Tensor], Tensor] | None = None,
    clean: Mapping[str, Curvature] | None = None,
) -> Piece:
    """Run one path of one batch and measure every step.

    A pass of kind ``best`` is no step of the path: its rows bear the step of the iterate before it. A sample's last
    pass, whatever its kind, is what was found for it.

    Args:
        attack: what walks.
        victim: the model.
        batch: the samples.
        rng: the attack's noise; its ``restart`` is the rows'.
        path: the name of the path in the tables.
        measure: what measures the layers; None measures predictions only.
        certificate: what bounds the loss along the path; None bounds nothing.
        keeper: what keeps inputs; None keeps none.
        tick: called after each step.
        confirm: gives the predictions of the user's own model at what was found, ``[n]``.
        clean: the curvature at the clean inputs, from another path of the batch: it is not measured again then.

    Raises:
        AttackError: the attack yields nothing, or does not begin with the clean input of all samples.
    """
    steps, layers = Rows(batch.ids), {name: Rows(batch.ids) for name in victim.layers}
    how: Mapping[str, Curvature] = {}
    start: Mapping[str, Curvature] = {}
    way = Path(batch.x, batch.target)
    flow = GradientFlow()
    anchor: Anchor | None = None
    found: Found | None = None
    victim.where.begin(path, rng.restart)
    for here in attack(victim, batch, rng):
        if way.previous is None and (here.kind != ITERATE or here.rows is not None):
            raise AttackError(
                f"the attack '{type(attack).__name__}' does not yield the clean input of all samples first"
            )
        if way.previous is not None:
            steps.late(flow(way.previous))
        at = way.at(here.rows)
        seen = prediction(here, at)
        dead = {} if here.dead_share is None else {"dead_share": here.dead_share}
        step = steps.add(seen | perturbation(here, at) | dead, here)
        if way.previous is None and clean is not None and torch.equal(here.x, batch.x):
            how = clean
        else:
            with victim.where.watched():
                how = measure(here) if measure else {}
        start = start or how
        more: dict[str, Columns] = {}
        if certificate is not None:
            anchor = certificate.anchor(here) if anchor is None else anchor
            more[certificate.name] = certificate(here, anchor.at(here.rows))
        for name, curvature in how.items():
            given = zero_inputs(here.taps[name], len(here.logits))
            layers[name].add(flatness(curvature) | given | more.get(name, {}), here)
        now = Found(here.x.detach(), seen["flipped"], seen["loss"], here.logits.detach())
        found = now if found is None or here.rows is None else found.with_rows(here.rows, now)
        way = way.to(here)
        if here.kind == BEST:
            continue
        if keeper is not None:
            first = next(iter(how.values()), None)
            keeper.look(step, here, seen["flipped"], None if first is None else first.relative_flatness)
        tick()
    if found is None or way.previous is None:
        raise AttackError(f"the attack '{type(attack).__name__}' yields nothing; the clean input comes first")
    steps.late(flow(way.previous))
    victim.where.end()

    constant = {"path": path, "label": batch.y, "target": batch.target, "restart": rng.restart}
    table = steps.table(STEPS, constant)
    if confirm is not None:
        table = _confirm(table, confirm(found.x), steps.last_rows())
    elif measure is not None:
        victim.check_again(found.x)
    parts = [
        layers[name].table(LAYERS, constant | {"layer": name, "method": curvature.method, "exact": curvature.exact})
        for name, curvature in how.items()
    ]
    images = None if keeper is None else keeper.images(batch.ids)
    rows = pa.concat_tables(parts) if parts else LAYERS.empty_table()
    return Piece(table, rows, images, found, clean=start)


class Column:
    """One column's values, pass by pass, in blocks.

    A small tensor kept from every pass would lie between the large ones that the pass has freed, and the memory
    in use would grow with the number of steps.
    """

    BLOCK = 4096

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._free = 0

    def add(self, values: Tensor) -> None:
        """The values of one pass, ``[n]``."""
        if self._free < len(values) or self._blocks[-1].dtype != values.dtype:
            self._close()
            self._free = max(self.BLOCK, len(values))
            self._blocks.append(values.new_empty(self._free))
        last = self._blocks[-1]
        start = len(last) - self._free
        last[start : start + len(values)] = values
        self._free -= len(values)

    def _close(self) -> None:
        if self._blocks:
            self._blocks[-1] = self._blocks[-1][: len(self._blocks[-1]) - self._free]

    def values(self) -> Tensor:
        """All of them, in order, on the CPU."""
        self._close()
        self._free = 0
        return torch.cat(self._blocks).cpu()


class Rows:
    """Columns of one path, collected pass by pass and kept where they were computed until the path ends."""

    def __init__(self, ids: Tensor) -> None:
        self._ids = ids
        self._columns: dict[str, Column] = {}
        self._late: set[str] = set()
        self._who: list[Ints] = []
        self._step: list[Ints] = []
        self._kind: list[str] = []
        self._length = np.zeros(len(ids), dtype=np.int64)

    def add(self, columns: dict[str, Tensor], here: Forward) -> Ints:
        """One pass's columns, ``[n]`` each; returns which step of its own path this is for each sample."""
        who = np.arange(len(self._ids)) if here.rows is None else here.rows.numpy()
        self._length[who] += here.kind != BEST
        step = self._length[who] - 1
        self._who.append(who)
        self._step.append(step)
        self._kind.append(here.kind)
        for name, values in columns.items():
            self._columns.setdefault(name, Column()).add(values)
        return step

    def late(self, columns: dict[str, Tensor]) -> None:
        """Columns of the pass that was added last, known only when it is over; null where they are NaN."""
        self._late |= columns.keys()
        for name, values in columns.items():
            self._columns.setdefault(name, Column()).add(values)

    def last_rows(self) -> Ints:
        """Where in the table each sample's last row is, ``[n]``."""
        return np.cumsum(np.bincount(np.concatenate(self._who), minlength=len(self._ids))) - 1

    def table(self, schema: pa.Schema, constant: dict[str, Any]) -> pa.Table:
        """The rows, ordered by sample, then step, then as they were added; what was never added is null."""
        who, step = np.concatenate(self._who), np.concatenate(self._step)
        kind = np.repeat(np.asarray(self._kind), [len(part) for part in self._who])
        order = np.lexsort((step, who))
        who = who[order]
        arrays: dict[str, Any] = {
            "sample": self._ids.numpy()[who],
            "step": step[order].astype(np.int32),
            "kind": kind[order],
        }
        for name, value in constant.items():
            if isinstance(value, Tensor):
                arrays[name] = value.cpu().numpy()[who]
            elif value is not None:
                arrays[name] = pa.repeat(value, len(who))
        arrays |= {name: column.values().numpy()[order] for name, column in self._columns.items()}
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


class Keeper:
    """Keeps a path's inputs: all, or those at the key steps clean, flip, peak and end.

    The peak is that of κ of the first probed layer, kept as a running maximum, so that memory does not grow with
    the number of steps.
    """

    def __init__(self, mode: str) -> None:
        self._all = mode == "all"
        self._kept: list[_Shot] = []
        self._flipped: Tensor | None = None
        self._highest: Tensor | None = None

    def look(self, step: Ints, here: Forward, flipped: Tensor, measure: Tensor | None) -> None:
        """See one pass; ``step``, ``flipped`` and ``measure`` are ``[n]``."""
        who = torch.arange(len(here.x)) if here.rows is None else here.rows
        now = _Shot(here.x.detach(), here.logits.detach(), who, torch.from_numpy(step))
        flipped = flipped.cpu()
        if self._all:
            self._kept.append(now)
            return
        if self._flipped is None:  # clean; flip, peak and end hold the clean input until there is something to hold
            self._kept = [now] * 4
            self._flipped = flipped.clone()
            self._highest = None if measure is None else measure.cpu().clone()
            return
        clean, flip, peak, end = self._kept
        flip = flip.where(flipped & ~self._flipped[who], now)
        self._flipped[who] |= flipped
        if measure is not None and self._highest is not None:
            higher = measure.cpu() > self._highest[who]
            peak = peak.where(higher, now)
            self._highest[who] = torch.where(higher, measure.cpu(), self._highest[who])
        end = now if here.rows is None else end.where(torch.ones_like(flipped), now)
        self._kept = [clean, flip, peak, end]

    def images(self, ids: Tensor) -> Images:
        """What was kept, ordered by sample, then step, each step once."""
        x, logits, who, at = (torch.cat([part.cpu() for part in parts]) for parts in zip(*self._kept, strict=True))
        order = torch.from_numpy(np.lexsort((at.numpy(), who.numpy())))
        # A step that plays two roles (the flip at the peak) is kept once.
        fresh = torch.ones_like(order, dtype=torch.bool)
        fresh[1:] = (who[order].diff() != 0) | (at[order].diff() != 0)
        chosen = order[fresh]
        return _images(x[chosen], ids[who[chosen]], at[chosen], logits[chosen])


class _Shot(NamedTuple):
    """Inputs ``x`` with their ``logits``, whose they are and at which step, ``[n, …]`` each."""

    x: Tensor
    logits: Tensor
    who: Tensor
    step: Tensor

    def where(self, taken: Tensor, now: _Shot) -> _Shot:
        """This one of all samples, but ``now`` for those of its samples that are taken."""
        if not taken.any():
            return self
        there = now.who[taken]
        x, logits, step = (
            held.index_copy(0, there.to(held.device), new[taken.to(new.device)])
            for held, new in ((self.x, now.x), (self.logits, now.logits), (self.step, now.step))
        )
        return _Shot(x, logits, self.who, step)


def with_result(images: Images, ids: Tensor, found: Found) -> Images:
    """The images, each sample's followed by what was found: one more entry at its last step."""
    last = np.flatnonzero(np.append(images.sample[1:] != images.sample[:-1], True)) + 1
    order = {int(sample): i for i, sample in enumerate(ids)}
    rows = [order[int(sample)] for sample in images.sample[last - 1]]
    sample, step = torch.from_numpy(images.sample[last - 1]), torch.from_numpy(images.step[last - 1])
    added = _images(found.x.cpu()[rows], sample, step, found.logits.cpu()[rows])
    columns: Iterator[tuple[Any, Any]] = zip(images, added, strict=True)
    return Images(*(np.insert(held, last, new, axis=0) for held, new in columns))


def _images(x: Tensor, sample: Tensor, step: Tensor, logits: Tensor) -> Images:
    return Images(
        x=x.float().contiguous().numpy(),
        sample=sample.numpy(),
        step=step.to(torch.int32).numpy(),
        probabilities=torch.softmax(logits.double(), 1).float().numpy(),
    )


def _choose(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(column(where, no) if no.dim() > 1 else where, yes, no)


def _confirm(table: pa.Table, predicted: Tensor, last: Ints) -> pa.Table:
    """Fill ``confirmed`` at each sample's last step."""
    at_end = np.zeros(table.num_rows, dtype=bool)
    at_end[last] = True
    values = np.zeros(table.num_rows, dtype=bool)
    values[last] = table["prediction"].to_numpy()[last] == predicted.cpu().numpy()
    column = pa.array(values, mask=~at_end)
    return table.set_column(table.schema.get_field_index("confirmed"), STEPS.field("confirmed"), column)
