"""The loop: an attack yields iterates, the probes measure each on its own live pass, the numbers become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flatlens.forward import Batch, Forward, Victim
from flatlens.hessian import NOT_FINITE, OK, Curvature
from flatlens.hessian.any_layer import AnyLayer
from flatlens.probes import Path
from flatlens.probes.flatness import flatness
from flatlens.probes.gradients import input_grad_norm
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
    way = Path(batch.x, batch.target)
    gradient_norms: list[Tensor] = []
    for step, here in enumerate(attack(victim, batch, rng)):
        if way.previous is not None:
            gradient_norms.append(input_grad_norm(way.previous))
        seen = prediction(here, way)
        steps.add(seen | perturbation(here, way))
        how = measure(here) if measure else {}
        for name, found in how.items():
            layers[name].add(flatness(found))
        if keeper is not None:
            first = next(iter(how.values()), None)
            keeper.look(step, here, seen["flipped"], None if first is None else first.relative_flatness)
        way = way.to(here)
        tick()
    gradient_norms.append(
        torch.full_like(gradient_norms[-1] if gradient_norms else way.clean.flatten(1)[:, 0], torch.nan)
    )

    length = len(gradient_norms)
    constant = {"path": path, "kind": "iterate", "label": batch.y, "target": batch.target}
    table = steps.table(STEPS, constant, {"input_grad_norm": torch.stack(gradient_norms)})
    if confirm is not None and way.previous is not None:
        table = _confirm(table, confirm(way.previous.x.detach()), length)
    parts = [
        layers[name].table(LAYERS, constant | {"layer": name, "method": found.method, "exact": found.exact}, {})
        for name, found in how.items()
    ]
    images = keeper.images(batch.ids, way.previous, length - 1) if keeper is not None and way.previous else None
    return Piece(table, pa.concat_tables(parts) if parts else LAYERS.empty_table(), images)


class Rows:
    """Columns of one path, collected step by step and kept where they were computed until the path ends."""

    def __init__(self, ids: Tensor) -> None:
        self._ids = ids
        self._columns: dict[str, list[Tensor]] = {}

    def add(self, columns: dict[str, Tensor]) -> None:
        """One step's columns, ``[n]`` each."""
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)

    def table(self, schema: pa.Schema, constant: dict[str, Any], late: dict[str, Tensor]) -> pa.Table:
        """The rows, ordered by sample, then step; what is in neither place is null."""
        found = {name: torch.stack(values) for name, values in self._columns.items()} | late
        length, n = next(iter(found.values())).shape
        arrays: dict[str, Any] = {
            "sample": np.repeat(self._ids.numpy(), length),
            "step": np.tile(np.arange(length, dtype=np.int32), n),
            "restart": np.zeros(n * length, dtype=np.int32),
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

    def images(self, ids: Tensor, last: Forward, final: int) -> Images:
        """What was kept, ordered by sample, then step, each step once."""
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
        return Images(
            x=x[sample, source].float().contiguous().numpy(),
            sample=ids[sample].numpy(),
            step=at[sample, source].to(torch.int32).numpy(),
            probabilities=torch.softmax(logits[sample, source].double(), 1).float().numpy(),
        )


def _confirm(table: pa.Table, predicted: Tensor, length: int) -> pa.Table:
    """Fill ``confirmed`` at each sample's last step."""
    at_end = np.arange(table.num_rows) % length == length - 1
    same = table["prediction"].to_numpy()[at_end] == predicted.cpu().numpy()
    values = np.zeros(table.num_rows, dtype=bool)
    values[at_end] = same
    column = pa.array(values, mask=~at_end)
    return table.set_column(table.schema.get_field_index("confirmed"), STEPS.field("confirmed"), column)
