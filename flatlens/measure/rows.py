"""The rows of one path: columns collected pass by pass, and made into tables when the path ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlens.probes import Columns
from flatlens.records.schema import BESIDE, GGN_ONLY, NOT_FINITE, OK, SOMETIMES
from flatlens.victims.protocol import Pass

Ints = NDArray[np.int64]


class _Block(NamedTuple):
    """Columns of one type, pass behind pass: ``values`` ``[columns, room]``, of which ``used`` are there."""

    names: tuple[str, ...]
    values: Tensor
    used: int


class Sheet:
    """Columns' values, pass by pass, in blocks of all columns of one type: two operations a pass, and no copy off it.

    A small tensor kept from every pass would lie between the large ones that the pass has freed, and the memory
    in use would grow with the number of steps.
    """

    ROOM = 4096

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._latest: dict[str, int] = {}
        """The number of the block that has a column's values of the last pass."""

    def add(self, columns: Mapping[str, Tensor]) -> None:
        """The values of one pass, ``[n]`` each."""
        kinds: dict[tuple[Any, ...], list[str]] = {}
        for name, values in columns.items():
            kinds.setdefault((values.dtype, values.device), []).append(name)
        for names in map(tuple, kinds.values()):
            new = torch.stack([columns[name].detach() for name in names])
            block = self._room(names, new)
            end = block.used + new.shape[1]
            block.values[:, block.used : end] = new
            self._blocks[self._latest[names[0]]] = block._replace(used=end)

    def _room(self, names: tuple[str, ...], new: Tensor) -> _Block:
        """The block of these columns' last pass, if it is of one type and has room, or else a new one."""
        numbers = {self._latest.get(name) for name in names}
        number = numbers.pop()
        if number is not None and not numbers:
            block = self._blocks[number]
            like = block.names == names and block.values.dtype == new.dtype and block.values.device == new.device
            if like and block.used + new.shape[1] <= block.values.shape[1]:
                return block
        self._latest |= dict.fromkeys(names, len(self._blocks))
        self._blocks.append(_Block(names, new.new_empty(len(names), max(self.ROOM, new.shape[1])), 0))
        return self._blocks[-1]

    def values(self) -> dict[str, Tensor]:
        """All of each column, in order, on the CPU."""
        found: dict[str, list[Tensor]] = {}
        for names, values, used in self._blocks:
            here = values[:, :used].cpu()
            if here.dtype == torch.bfloat16:  # NumPy has none
                here = here.float()
            for name, column in zip(names, here, strict=True):
                found.setdefault(name, []).append(column)
        return {name: torch.cat(parts) for name, parts in found.items()}


class Rows:
    """Columns of one path, collected pass by pass and kept where they were computed until the path ends.

    Args:
        ids: of the samples.
        begin: the step of the first pass: that at which a path was broken off, where it is gone on with.
    """

    def __init__(self, ids: Tensor, begin: int = 0) -> None:
        self._ids = ids
        self._early, self._late = Sheet(), Sheet()
        self._constant: dict[str, Any] = {}
        self._who: list[Ints] = []
        self._step: list[Ints] = []
        self._kind: list[str] = []
        self._length = np.full(len(ids), begin, dtype=np.int64)

    def add(self, columns: Columns, here: Pass, at: Ints | None = None) -> Ints:
        """One pass's columns; returns which step of its own path this is for each sample, ``[n]``.

        ``at`` tells it where it is known: a table may have rows of some passes only.

        A pass of kind ``best`` or ``discrete`` is no step of the path: its rows bear the step of the pass before it.
        """
        who = np.arange(len(self._ids)) if here.rows is None else here.rows.numpy()
        self._length[who] += here.kind not in BESIDE
        step = self._length[who] - 1 if at is None else at
        self._who.append(who)
        self._step.append(step)
        self._kind.append(here.kind)
        self._early.add({name: values for name, values in columns.items() if isinstance(values, Tensor)})
        self._constant |= {name: value for name, value in columns.items() if not isinstance(value, Tensor)}
        return step

    def late(self, columns: Columns) -> None:
        """Columns of the pass that was added last, known only when it is over; null where they are NaN."""
        self._late.add({name: values for name, values in columns.items() if isinstance(values, Tensor)})

    @property
    def reached(self) -> int:
        """The step of the next pass, of one sample."""
        return int(self._length.max(initial=0))

    def last_rows(self) -> Ints:
        """Where in the table each sample's last row is, ``[n]``."""
        return np.cumsum(np.bincount(np.concatenate(self._who), minlength=len(self._ids))) - 1

    def table(self, schema: pa.Schema, constant: Mapping[str, Any]) -> pa.Table:
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
        for name, value in {**constant, **self._constant}.items():
            if isinstance(value, Tensor):
                arrays[name] = value.cpu().numpy()[who]
            elif value is not None:
                arrays[name] = pa.repeat(value, len(who))
        late = self._late.values()
        arrays |= {name: values.numpy()[order] for name, values in (self._early.values() | late).items()}
        if "trace" in arrays:
            partly = self._constant.get("method") in GGN_ONLY
            found = ("ggn_trace",) if partly else ("trace", "relative_flatness")
            finite = np.all([np.isfinite(arrays[name]) for name in found], axis=0)
            arrays["status"] = np.where(finite, OK, NOT_FINITE)
        columns = []
        for f in schema:
            value = arrays.get(f.name)
            if value is None:
                columns.append(pa.nulls(len(who), f.type))
            elif isinstance(value, pa.Array):
                columns.append(value.cast(f.type))
            elif f.name in SOMETIMES:  # NaN stands for null, whatever the column's type
                there = ~np.isnan(value)
                known = np.where(there, value, 0).astype(f.type.to_pandas_dtype())
                columns.append(pa.array(known, type=f.type, mask=~there))
            else:  # a late column is null where it was never computed; in the others NaN is a finding and stays
                columns.append(pa.array(value, type=f.type, from_pandas=f.name in late))
        return pa.table(columns, schema=schema)
