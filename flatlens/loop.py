"""The loop: an attack yields iterates, the probes measure each on its own live pass, the numbers become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flatlens.attacks.balls import column
from flatlens.forward import BEST, ITERATE, Batch, Forward, Victim
from flatlens.hessian import NOT_FINITE, OK, Curvature
from flatlens.hessian.any_layer import AnyLayer
from flatlens.probes import Path
from flatlens.probes.certificate import Anchor, Certificate
from flatlens.probes.flatness import flatness
from flatlens.probes.gradients import gradient_flow, no_flow
from flatlens.probes.prediction import perturbation, prediction
from flatlens.randomness import Noise
from flatlens.trajectory import ATTACK, LAYERS, STEPS, Images


class Attack(Protocol):
    """Anything that walks: yields the pass at the clean input first, at the final iterate last."""

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Forward]:
        """Walk from ``batch.x``."""


class Piece(NamedTuple):
    """The rows of one batch: all its paths, complete."""

    steps: pa.Table
    layers: pa.Table
    images: Images | None
    found: Found | None = None


class Found(NamedTuple):
    """What a run of an attack has found: its best point, or its last iterate where it keeps no best.

    ``x`` ``[n, …]``, ``flipped`` ``[n]``, ``loss`` ``[n]``, ``logits`` ``[n, K]``.
    """

    x: Tensor
    flipped: Tensor
    loss: Tensor
    logits: Tensor

    def or_better(self, other: Found) -> Found:
        """For each sample the one that flips it, or else that of the higher loss; this one where they are equal."""
        better = (other.flipped & ~self.flipped) | ((other.flipped == self.flipped) & (other.loss > self.loss))
        return Found(*(_choose(better, theirs, own) for own, theirs in zip(self, other, strict=True)))


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
) -> Piece:
    """Run one path of one batch and measure every step.

    A pass whose kind is not ``iterate`` is no step of the path: its rows bear its kind and the step before it.

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
    """
    books: dict[str, _Book] = {}
    way = Path(batch.x, batch.target)
    before: Tensor | None = None
    anchor: Anchor | None = None
    flow: list[dict[str, Tensor]] = []
    step, found = -1, None
    for here in attack(victim, batch, rng):
        on_path = here.kind == ITERATE
        step += on_path
        if on_path and way.previous is not None:
            flow.append(gradient_flow(way.previous, before))
        seen = prediction(here, way)
        how = measure(here) if measure else {}
        if certificate is not None and anchor is None:
            anchor = certificate.anchor(here)
        bounds = certificate(here, anchor) if certificate is not None and anchor is not None else {}
        book = books.setdefault(here.kind, _Book(batch.ids))
        book.add(step, seen | perturbation(here, way), how, {} if certificate is None else {certificate.name: bounds})
        if here.dead_share is not None:
            book.dead.append(here.dead_share)
        if on_path or here.kind == BEST:
            found = Found(here.x.detach(), seen["flipped"], seen["loss"], here.logits.detach())
        if not on_path:
            continue
        if keeper is not None:
            first = next(iter(how.values()), None)
            keeper.look(step, here, seen["flipped"], None if first is None else first.relative_flatness)
        before = None if way.previous is None else way.previous.gradient
        way = way.to(here)
        tick()
    assert found is not None
    assert way.previous is not None
    flow.append(no_flow(len(batch.ids), batch.x.device))

    constant = {"path": path, "label": batch.y, "target": batch.target, "restart": rng.restart}
    tables: list[Piece] = []
    for kind, book in books.items():
        late = {name: torch.stack([at[name] for at in flow]) for name in flow[0]} if kind == ITERATE else {}
        tables.append(book.piece(constant | {"kind": kind}, late))
    if confirm is not None:
        where = list(books).index(BEST if BEST in books else ITERATE)
        confirmed = _confirm(tables[where].steps, confirm(found.x), len(tables[where].steps) // len(batch.ids))
        tables[where] = tables[where]._replace(steps=confirmed)
    return Piece(
        pa.concat_tables([table.steps for table in tables]),
        pa.concat_tables([table.layers for table in tables]),
        None if keeper is None else keeper.images(batch.ids, way.previous, step, found if BEST in books else None),
        found,
    )


class _Book:
    """The rows of one kind: the steps', and each layer's."""

    def __init__(self, ids: Tensor) -> None:
        self._ids, self._steps = ids, Rows(ids)
        self._layers: dict[str, Rows] = {}
        self._how: dict[str, Curvature] = {}
        self.dead: list[Tensor] = []

    def add(
        self, step: int, seen: dict[str, Tensor], how: dict[str, Curvature], more: dict[str, dict[str, Tensor]]
    ) -> None:
        """One step: its own columns, and each layer's curvature and what else is known of it."""
        self._steps.add(step, seen)
        self._how = how
        for name, found in how.items():
            columns = flatness(found) | more.get(name, {})
            self._layers.setdefault(name, Rows(self._ids)).add(step, columns)

    def piece(self, constant: dict[str, Any], late: dict[str, Tensor]) -> Piece:
        """The two tables."""
        if self.dead:
            late = late | {"dead_share": torch.stack(self.dead)}
        parts = [
            rows.table(LAYERS, constant | {"layer": name, "method": found.method, "exact": found.exact}, {})
            for (name, rows), found in zip(self._layers.items(), self._how.values(), strict=True)
        ]
        table = pa.concat_tables(parts) if parts else LAYERS.empty_table()
        return Piece(self._steps.table(STEPS, constant, late), table, None)


class Rows:
    """Columns of one path, collected step by step and kept where they were computed until the path ends."""

    def __init__(self, ids: Tensor) -> None:
        self._ids = ids
        self._at: list[int] = []
        self._columns: dict[str, list[Tensor]] = {}

    def add(self, step: int, columns: dict[str, Tensor]) -> None:
        """One step's columns, ``[n]`` each."""
        self._at.append(step)
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)

    def table(self, schema: pa.Schema, constant: dict[str, Any], late: dict[str, Tensor]) -> pa.Table:
        """The rows, ordered by sample, then step; what is in neither place is null."""
        found = {name: torch.stack(values) for name, values in self._columns.items()} | late
        length, n = next(iter(found.values())).shape
        arrays: dict[str, Any] = {
            "sample": np.repeat(self._ids.numpy(), length),
            "step": np.tile(np.asarray(self._at, dtype=np.int32), n),
        }
        for name, value in constant.items():
            if isinstance(value, Tensor):
                arrays[name] = np.repeat(value.cpu().numpy(), length)
            elif value is not None:
                arrays[name] = pa.repeat(value, n * length)
        # Steps × samples on the device; sample-major in the table.
        arrays |= {name: values.T.reshape(-1).cpu().numpy() for name, values in found.items()}
        if "trace" in arrays:
            finite = np.isfinite(arrays["trace"]) & np.isfinite(arrays["relative_flatness"])
            arrays["status"] = np.where(finite, OK, NOT_FINITE)
        columns = []
        for f in schema:
            value = arrays.get(f.name)
            if value is None:
                columns.append(pa.nulls(n * length, f.type))
            elif isinstance(value, pa.Array):
                columns.append(value.cast(f.type))
            else:  # a late column is null where it was never computed; in the others NaN is a finding and stays
                columns.append(pa.array(value, type=f.type, from_pandas=f.name in late))
        return pa.table(columns, schema=schema)


class Keeper:
    """Keeps a path's inputs: all, or those at the key steps clean, flip, peak and end.

    The peak is that of κ of the first probed layer, kept as a running maximum, so that memory does not grow with
    the number of steps.
    """

    def __init__(self, mode: str) -> None:
        self._all = mode == "all"
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._best: Tensor | None = None
        self._flipped: Tensor | None = None

    def look(self, step: int, here: Forward, flipped: Tensor, measure: Tensor | None) -> None:
        """See one step; ``flipped`` and ``measure`` are ``[n]``."""
        x, logits = here.x.detach(), here.logits.detach()
        at = torch.full((len(x),), step)
        if self._all or step == 0:
            self._kept.append((x, logits, at))
        if self._all:
            return
        if step == 0:  # slots for flip and peak, holding the clean input until there is something to hold
            self._kept += [(x.clone(), logits.clone(), at.clone()) for _ in range(2)]
            self._flipped = flipped.cpu().clone()
            self._best = None if measure is None else measure.cpu().clone()
            return
        assert self._flipped is not None
        self._put(1, flipped.cpu() & ~self._flipped, x, logits, step)
        self._flipped |= flipped.cpu()
        if measure is not None and self._best is not None:
            higher = measure.cpu() > self._best
            self._put(2, higher, x, logits, step)
            self._best = torch.where(higher, measure.cpu(), self._best)

    def _put(self, slot: int, where: Tensor, x: Tensor, logits: Tensor, step: int) -> None:
        kept_x, kept_logits, at = self._kept[slot]
        rows = where.to(x.device)
        kept_x[rows], kept_logits[rows] = x[rows], logits[rows]
        at[where] = step

    def images(self, ids: Tensor, last: Forward, final: int, found: Found | None) -> Images:
        """What was kept, ordered by sample, then step, each step once; then, at the last step, what was found."""
        kept = list(self._kept)
        if not self._all:
            kept.append((last.x.detach(), last.logits.detach(), torch.full((len(ids),), final)))
        x, logits, at = (torch.stack([entry[i].cpu() for entry in kept], 1) for i in range(3))
        # A step that plays two roles (the flip at the peak) is kept once.
        order = at.argsort(dim=1, stable=True)
        ordered = at.gather(1, order)
        fresh = torch.ones_like(ordered, dtype=torch.bool)
        fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        sample, slot = fresh.nonzero(as_tuple=True)
        source = order[sample, slot]
        kept_images = Images(
            x=x[sample, source].float().contiguous().numpy(),
            sample=ids[sample].numpy(),
            step=at[sample, source].to(torch.int32).numpy(),
            probabilities=torch.softmax(logits[sample, source].double(), 1).float().numpy(),
        )
        return kept_images if found is None else with_result(kept_images, ids, found)


def with_result(images: Images, ids: Tensor, found: Found) -> Images:
    """The images, each sample's followed by what was found: one more entry at its last step."""
    last = np.flatnonzero(np.append(images.sample[1:] != images.sample[:-1], True)) + 1
    order = {int(sample): i for i, sample in enumerate(ids)}
    rows = [order[int(sample)] for sample in images.sample[last - 1]]
    return Images(
        x=np.insert(images.x, last, found.x.cpu().float().numpy()[rows], axis=0),
        sample=np.insert(images.sample, last, images.sample[last - 1]),
        step=np.insert(images.step, last, images.step[last - 1]),
        probabilities=np.insert(
            images.probabilities, last, torch.softmax(found.logits.cpu().double(), 1).float().numpy()[rows], axis=0
        ),
    )


def _choose(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(column(where, no) if no.dim() > 1 else where, yes, no)


def _confirm(table: pa.Table, predicted: Tensor, length: int) -> pa.Table:
    """Fill ``confirmed`` at each sample's last step."""
    at_end = np.arange(table.num_rows) % length == length - 1
    same = table["prediction"].to_numpy()[at_end] == predicted.cpu().numpy()
    values = np.zeros(table.num_rows, dtype=bool)
    values[at_end] = same
    column = pa.array(values, mask=~at_end)
    return table.set_column(table.schema.get_field_index("confirmed"), STEPS.field("confirmed"), column)
