"""All paths of one prompt: walked, kept on the disk while they are under way, and gone on with where they broke off."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flatlens.attacks.protocol import Walks
from flatlens.measure import language_controls
from flatlens.measure.loop import Found, Midway, Piece, walk
from flatlens.measure.slot_keeper import SlotKeeper
from flatlens.probes import Probe, StepProbe
from flatlens.probes.gradients import GradientFlow
from flatlens.probes.language import Slot, TokenGradients, Tokens, distance
from flatlens.probes.positions import Answer, EachPosition, MeanFlatness
from flatlens.progress import Progress, Report
from flatlens.records import midway
from flatlens.records.schema import ATTACK, DISCRETE
from flatlens.victims.encoding import piece
from flatlens.victims.noise import Noise
from flatlens.victims.precision import exact_arithmetic
from flatlens.victims.protocol import Batch, Forward, Pass, Reached

if TYPE_CHECKING:
    from flatlens.measure.language_job import LanguageJob

EVERY = 5.0
"""Seconds after which a path that is under way is put on the disk again."""


class PromptWalk:
    """The paths of one prompt.

    Args:
        job: whose prompt it is.
        index: of the prompt.
        progress: called after every step.
        file: where it is kept while it is under way; None keeps nothing.
    """

    def __init__(self, job: LanguageJob, index: int, progress: Report | None, file: Path | None) -> None:
        self._job, self._index, self._progress, self._file = job, index, progress, file
        self.victim = job.victim(index)
        self.victim.where.batch = index + 1
        tokens = self.victim.start()
        self._batch = Batch(self.victim.embed(tokens), self.victim.target, job.ids[index : index + 1], tokens=tokens)
        self._saved = None if file is None else midway.read(file)
        self._written = time.monotonic()
        # What is finished: tables, names of paths, where the attack ended, and the slots that were kept of it.
        self._done: dict[str, pa.Table] = {}
        self._finished: list[str] = []
        self._end: Tensor | None = None
        self._keeper = SlotKeeper()
        if self._saved is not None:
            self._done = _under(self._saved.tables, "done.")
            self._finished = list(self._saved.known["finished"])
            self._end = _tensor(self._saved, "end") if "end" in self._saved.arrays else None
            self._keeper.restore(self._saved.arrays)

    def piece(self) -> Piece:
        """Walk what is not walked yet, and return all of it."""
        job, soft = self._job, False
        with exact_arithmetic(self.victim.device):
            walks, notes = job.attack.walker(job.model, self._batch, self.victim.bounds)
            soft = not getattr(walks, "discrete", True)
            for name in (ATTACK, *job.controls):
                if name not in self._finished:
                    control = walks if name == ATTACK else language_controls.made(name, job, self._index)
                    self._path(name, control, keeper=self._keeper if soft and name == ATTACK else None)
        tables = {name: _with_pieces(table, self.victim.encoding.tokenizer) for name, table in self._done.items()}
        uncached = bool(self.victim.encoding.prefix) and not self.victim.cached
        return Piece(
            tables.pop("steps"),
            tables.pop("layers"),
            notes={**notes, **({"uncached": 1} if uncached else {})},
            more=tables,
            embeddings=self._keeper.kept(self._batch.ids) if soft else None,
        )

    def _path(self, name: str, walks: Walks, keeper: SlotKeeper | None) -> None:
        flow, slot = GradientFlow(), Slot(self.victim, self.victim.start())
        batch, begun, flips = self._batch._replace(end=self._end), None, 0
        saved = self._saved
        if saved is not None and saved.known["path"] == name:
            text = self._passed(_tensor(saved, "text")) if "text" in saved.arrays else None
            previous = self._passed(_tensor(saved, "previous"))
            begun = Midway(int(saved.known["step"]), _under(saved.tables, "path."), previous, text)
            batch = batch._replace(reached=Reached(begun.step, _tensor(saved, "point")))
            flow.last = _tensor(saved, "direction").to(self.victim.dtype) if "direction" in saved.arrays else None
            flips = int(saved.known["flips"])
        step, most = [0 if begun is None else begun.step], self._job.settings["stop_after"]

        def enough(flipped: Tensor) -> bool:
            nonlocal flips
            flips = flips + 1 if bool(flipped.all()) else 0
            return name == ATTACK and most is not None and flips > most

        def keep(here: Pass, state: Callable[[], Midway]) -> None:
            if self._file is not None and time.monotonic() - self._written >= EVERY:
                self._save(name, flips, here, state(), flow.last)

        def tick() -> None:
            step[0] += 1
            self._tell(name, step[0])

        found = walk(
            walks, self.victim, batch, Noise(self._job.settings["seed"]), self._probes(flow, slot), path=name,
            keeper=keeper, tick=tick, at_end=(lambda at: self._agrees(at, slot.tokens)) if name == ATTACK else _nothing,
            begun=begun, midway=keep, enough=enough,
        )  # fmt: skip
        assert found.found is not None
        if name == ATTACK:
            self._end = found.found.x
        for table, rows in found.tables().items():
            before = [self._done[table]] if table in self._done else []
            ordered = _in_order(_with_gap(rows) if table == "steps" else rows)
            self._done[table] = pa.concat_tables([*before, ordered])
        self._finished.append(name)
        if self._file is not None:
            self._save(None, 0)

    def _passed(self, x: Tensor) -> Forward:
        """A pass of which no more is known than where it was."""
        return Forward(x, self._batch.y, torch.empty(0), {}, self.victim.where)

    def _probes(self, flow: GradientFlow, slot: Slot) -> list[Probe]:
        means = MeanFlatness(self._job.measure, self.victim if self._job.settings["positions"] == "all" else None)
        inner = self._job.inner(self._index, self.victim)
        return [
            means, *([] if inner is None else [inner]), Answer(means), EachPosition(means), StepProbe(distance), slot,
            Tokens(self.victim), StepProbe(flow, late=True), TokenGradients(),
        ]  # fmt: skip

    def _agrees(self, found: Found, tokens: Tensor | None) -> Tensor:
        """Whether greedy decoding by the user's own model gives the target where the path says so, ``[n]`` bool.

        Text is tokenised again first; from embeddings that are no text it is decoded token by token, without a cache.
        """
        target = self.victim.target
        if tokens is None:
            said = self.victim.says(found.x)
        else:
            said = torch.tensor([self.victim.generate(tokens, target.shape[1])], device=target.device)
        return found.flipped == torch.equal(said, target)

    def _tell(self, name: str, steps: int) -> None:
        if self._progress is None:
            return
        length = self._job.length + 1
        what = f"prompt {self._index + 1} of {self._job.batches}, {name}, step {steps - 1}"
        done = self._index * length + (min(steps, length) if name == ATTACK else length)
        self._progress(Progress(done, self._job.batches * length, what))

    def _save(
        self, name: str | None, flips: int, here: Pass | None = None, state: Midway | None = None,
        direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Put on the disk what is finished of this prompt and, of the path ``name``, its steps so far."""
        assert self._file is not None
        tables = {f"done.{key}": table for key, table in self._done.items()}
        arrays: dict[str, Any] = self._keeper.state()
        known: dict[str, Any] = {"finished": self._finished, "path": name, "flips": flips}
        if self._end is not None:
            arrays["end"] = _plain(self._end)
        if here is not None and state is not None:
            tables |= {f"path.{key}": table for key, table in state.tables.items()}
            arrays |= {"point": _plain(_point(here)), "previous": _plain(state.previous.x)}
            arrays |= {} if state.rounded is None else {"text": _plain(state.rounded.x)}
            arrays |= {} if direction is None else {"direction": _plain(direction)}
            known["step"] = state.step
        midway.write(self._file, tables, arrays, known)
        self._written = time.monotonic()


def _nothing(found: Found) -> None:
    return None


def _point(here: Pass) -> Tensor:
    """All that the attack needs to go on from this pass."""
    weights = here.weights if isinstance(here, Forward) else None
    return weights if weights is not None else here.x if here.tokens is None else here.tokens


def _plain(values: Tensor) -> np.ndarray[Any, Any]:
    # NumPy has no bfloat16; float32 holds it exactly.
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _tensor(saved: midway.Saved, name: str) -> Tensor:
    return torch.from_numpy(np.array(saved.arrays[name]))


def _under(tables: Mapping[str, pa.Table], prefix: str) -> dict[str, pa.Table]:
    return {name.removeprefix(prefix): table for name, table in tables.items() if name.startswith(prefix)}


def _in_order(rows: pa.Table) -> pa.Table:
    """Rows of one path by step, those of a pass as they were measured: whether it was broken off or not."""
    key = next((key for key in ("position", "slot") if key in rows.column_names), None)
    inner = np.zeros(rows.num_rows) if key is None else rows[key].to_numpy()
    rounded = np.asarray(rows["kind"].to_pylist()) == DISCRETE
    return rows.take(np.lexsort((np.arange(rows.num_rows), inner, rounded, rows["step"].to_numpy())))


def _with_gap(rows: pa.Table) -> pa.Table:
    """The rows of ``steps`` of one prompt, with how much the loss rises where a relaxed slot is rounded to text."""
    rounded = np.asarray(rows["kind"].to_pylist()) == DISCRETE
    if not rounded.any():
        return rows
    loss, step = rows["loss"].to_numpy(), rows["step"].to_numpy()
    relaxed = np.full(step.max() + 1, np.nan)
    relaxed[step[~rounded]] = loss[~rounded]
    gap = pa.array(np.where(rounded, loss - relaxed[step], 0.0), mask=~rounded)
    return rows.set_column(rows.schema.get_field_index("relaxed_gap"), rows.schema.field("relaxed_gap"), gap)


def _with_pieces(rows: pa.Table, tokenizer: Any) -> pa.Table:
    """The rows with what their tokens look like."""
    for column, of in (("piece", "token"), ("greedy_piece", "greedy")):
        if column in rows.column_names:
            ids = rows[of].to_pylist()
            shown = {i: None if i is None else piece(tokenizer, i) for i in set(ids)}
            values = pa.array([shown[i] for i in ids], pa.string())
            rows = rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), values)
    return rows
