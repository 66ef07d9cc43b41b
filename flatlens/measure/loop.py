"""The loop: an attack walks, probes read off every pass, rows are kept, and the path ends in tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flatlens.attacks.balls import column
from flatlens.attacks.protocol import Walks
from flatlens.errors import AttackError
from flatlens.measure.keeper import Keeper
from flatlens.measure.rows import Ints, Rows
from flatlens.probes import ONE_ROW, Columns, Path, Probe
from flatlens.records.schema import ATTACK, BESIDE, DISCRETE, ITERATE, STEPS, TABLES, TEXT_TABLES, Table
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Forward, Pass, Victim

KAPPA = "relative_flatness"


class Piece(NamedTuple):
    """The rows of one batch: all its paths, complete.

    ``images`` is what was kept of the inputs, ``gradients`` of the attack's gradients, ``features`` of the head's
    inputs (`flatlens.measure.conditions`). ``notes`` counts samples of
    which a reader must know something, by code (`flatlens.records.cautions.recorded`).
    """

    steps: pa.Table
    layers: pa.Table
    images: Any = None
    found: Found | None = None
    notes: Mapping[str, int] = MappingProxyType({})
    gradients: Any = None
    more: Mapping[str, pa.Table] = MappingProxyType({})
    embeddings: Any = None
    features: Any = None

    def arrays(self) -> dict[str, Any]:
        """What is kept beside the tables, by name; None where there is nothing."""
        kept = {"images": self.images, "gradients": self.gradients, "embeddings": self.embeddings}
        return kept | {"features": self.features}

    def tables(self) -> dict[str, pa.Table]:
        """All of its tables, by name."""
        return {"steps": self.steps, "layers": self.layers, **self.more}


class Midway(NamedTuple):
    """A path that is under way: its finished steps, and what the next pass is of.

    Attributes:
        step: of the next pass.
        tables: all rows of the passes before it.
        previous: the step before it.
        rounded: the text that this one was rounded to, where the attack relaxes tokens.
    """

    step: int
    tables: Mapping[str, pa.Table]
    previous: Pass
    rounded: Pass | None = None


class Found(NamedTuple):
    """What a run of an attack has found: the points of each sample's last pass.

    That is its best point where the attack keeps one, otherwise the end of the path.

    ``x`` ``[n, …]``, ``flipped`` ``[n]``, ``loss`` ``[n]``; ``answer``, what the model says there: its logits
    ``[n, K]``, or its tokens ``[n, T]``.
    """

    x: Tensor
    flipped: Tensor
    loss: Tensor
    answer: Tensor

    @classmethod
    def at(cls, here: Pass, seen: Columns) -> Found:
        """The points of one pass, of which the probes have said ``seen``."""
        logits = here.logits.detach()
        flipped, loss = seen["flipped"], seen["loss"]
        assert isinstance(flipped, Tensor) and isinstance(loss, Tensor)
        return cls(here.x.detach(), flipped, loss, logits if logits.dim() == 2 else logits.argmax(-1))

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
    attack: Walks,
    victim: Victim,
    batch: Batch,
    rng: Noise,
    probes: Sequence[Probe],
    *,
    path: str = ATTACK,
    keeper: Keeper | None = None,
    tick: Callable[[], None] = lambda: None,
    at_end: Callable[[Found], Tensor | None] = lambda found: None,
    begun: Midway | None = None,
    midway: Callable[[Pass, Callable[[], Midway]], None] = lambda here, state: None,
    enough: Callable[[Tensor], bool] = lambda flipped: False,
) -> Piece:
    """Run one path of one batch and measure every step.

    A pass of kind ``best`` or ``discrete`` is no step of the path: probes see each kind's passes as a path of its own,
    and of relaxed tokens the texts that they are rounded to. A sample's last pass, whatever its kind, is what was found
    for it.

    Args:
        attack: what walks.
        victim: the model.
        batch: the samples.
        rng: the attack's noise; its ``restart`` is the rows'.
        probes: what is read off each pass, in the order of the columns; one of them gives ``flipped`` and ``loss``.
        path: the name of the path in the tables.
        keeper: what keeps inputs; None keeps none.
        tick: called after each step.
        at_end: called with what was found; may say for which samples the user's own model agrees, ``[n]`` bool.
        begun: what was measured of the path before it was broken off; its attack begins at ``batch.reached``.
        midway: called at each pass that is a step, before it is measured; its second argument gives what has been
            measured so far.
        enough: called after each step with who is flipped, ``[n]``; says whether the path may end here.

    Raises:
        AttackError: the attack yields nothing, something else than the clean input of all samples first, or writes into
            the clean inputs.
    """
    name, untouched = getattr(attack, "__name__", type(attack).__name__), batch.x._version
    known = {**TABLES, **TEXT_TABLES}
    first_step = 0 if begun is None else begun.step
    tables = {table: dict[str, Rows]() for table in known}
    tables["steps"][ONE_ROW] = steps = Rows(batch.ids, first_step)
    early, late = ([probe for probe in probes if probe.late == when] for when in (False, True))
    way = Path(batch.x, batch.target, None if begun is None else begun.previous)
    texts = Path(batch.x, batch.target, None if begun is None else begun.rounded)
    last: Path | None = None
    found: Found | None = None
    over = False
    label = batch.y if batch.y.dim() == 1 else None
    constant = {"path": path, "label": label, "target": batch.target, "restart": rng.restart}

    def measured() -> dict[str, pa.Table]:
        new = {table: _table(known[table], rows, constant) for table, rows in tables.items()}
        return new if begun is None else {name: pa.concat_tables([begun.tables[name], new[name]]) for name in new}

    victim.where.begin(path, rng.restart)

    def so_far(previous: Pass, text: Pass | None) -> Midway:
        return Midway(steps.reached, measured(), previous, text)

    for here in attack(victim, batch, rng):
        if way.previous is None and (here.kind != ITERATE or here.rows is not None or not _is_clean(here, batch)):
            raise AttackError(f"the attack '{name}' does not yield the clean input of all samples first")
        _look_back(late, tables, last)
        if here.kind not in BESIDE and way.previous is not None and found is not None:
            midway(here, partial(so_far, way.previous, texts.previous))
        own = texts if here.kind == DISCRETE else way
        with victim.where.watched():
            seen = _look(early, here, own.at(here.rows))
        step = steps.add(seen["steps", ONE_ROW], here)
        for (table, key), columns in seen.items():
            if table != "steps":
                tables[table].setdefault(key, Rows(batch.ids)).add(columns, here, step)
        now = Found.at(here, seen["steps", ONE_ROW])
        found = now if found is None or here.rows is None else found.with_rows(here.rows, now)
        last = own.to(here)
        if here.kind == DISCRETE:
            texts = last
            if over:
                break
            continue
        way = last
        if here.kind in BESIDE:
            continue
        if keeper is not None:
            first = next((columns.get(KAPPA) for (table, _), columns in seen.items() if table == "layers"), None)
            keeper.look(step, here, now.flipped, first if isinstance(first, Tensor) else None)
        tick()
        over = enough(now.flipped)
        # What is relaxed has its text behind it, and ends with that.
        if over and not (isinstance(here, Forward) and here.weights is not None):
            break
    if found is None or way.previous is None:
        raise AttackError(f"the attack '{name}' yields nothing; the clean input comes first")
    if batch.x._version != untouched:
        raise AttackError(f"the attack '{name}' writes into the clean inputs; let it work on a copy, batch.x.clone()")
    _look_back(late, tables, last)
    victim.where.end()

    done = measured()
    agreed = at_end(found)
    if agreed is not None:
        before = 0 if begun is None else begun.tables["steps"].num_rows
        done["steps"] = _confirm(done["steps"], agreed, steps.last_rows() + before)
    images = None if keeper is None else keeper.kept(batch.ids)
    more = {name: done[name] for name in TEXT_TABLES if done[name].num_rows}
    return Piece(done["steps"], done["layers"], images, found, more=more)


def _is_clean(here: Pass, batch: Batch) -> bool:
    """Whether a pass is at the clean inputs; a path of prompts may begin where it was broken off."""
    return batch.tokens is not None or torch.equal(here.x.detach(), batch.x)


def _look(probes: Sequence[Probe], here: Pass, path: Path) -> dict[tuple[str, str], Columns]:
    """The columns of a pass, by table and key; those of the table of steps come first."""
    found: dict[tuple[str, str], Columns] = {("steps", ONE_ROW): {}}
    for probe in probes:
        for key, columns in probe(here, path).items():
            found[probe.table, key] = {**found.get((probe.table, key), {}), **columns}
    return found


def _look_back(probes: Sequence[Probe], tables: Mapping[str, dict[str, Rows]], path: Path | None) -> None:
    """What is known of the pass before, the path's last, now that the attack is done with it."""
    if path is None or path.previous is None:
        return
    for probe in probes:
        for key, columns in probe(path.previous, path).items():
            tables[probe.table][key].late(columns)


def _table(kind: Table, rows: Mapping[str, Rows], constant: Mapping[str, Any]) -> pa.Table:
    """All rows of one table, key by key."""
    schema, key = kind
    parts = [part.table(schema, {**constant, **({} if key is None else {key: value})}) for value, part in rows.items()]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _choose(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(column(where, no) if no.dim() > 1 else where, yes, no)


def _confirm(table: pa.Table, agreed: Tensor, last: Ints) -> pa.Table:
    """Fill ``confirmed`` at each sample's last step."""
    at_end = np.zeros(table.num_rows, dtype=bool)
    at_end[last] = True
    values = np.zeros(table.num_rows, dtype=bool)
    values[last] = agreed.cpu().numpy()
    column = pa.array(values, mask=~at_end)
    return table.set_column(table.schema.get_field_index("confirmed"), STEPS.field("confirmed"), column)
