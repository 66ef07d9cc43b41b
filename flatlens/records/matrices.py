"""Rows of a table -> matrices of samples × steps; no torch."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flatlens.records.schema import BESIDE


class Places(NamedTuple):
    """The place of each row of a table in a matrix of samples × steps: found once, for all columns."""

    sample: NDArray[np.int64]
    """The samples' ids ``[n]``, ascending."""
    row: NDArray[np.intp]
    step: NDArray[Any]
    shape: tuple[int, int]

    @classmethod
    def of(cls, sample: NDArray[Any], step: NDArray[Any]) -> Places:
        """From the columns ``sample`` and ``step`` of some rows."""
        ids, row = np.unique(sample, return_inverse=True)
        return cls(ids, row, step, (len(ids), int(step.max()) + 1 if len(step) else 0))

    def fill(self, values: NDArray[Any]) -> NDArray[Any]:
        """A column as a matrix ``[n, T+1]``.

        Where a path is shorter than the longest, numbers are NaN beyond its end; whole numbers and flags, which have
        no NaN, keep their last value.
        """
        if values.dtype == bool:
            out: NDArray[Any] = np.zeros(self.shape, dtype=bool)
        elif np.issubdtype(values.dtype, np.integer):
            out = np.full(self.shape, -1, dtype=np.int64)
        else:
            out = np.full(self.shape, np.nan)
        out[self.row, self.step] = values
        if not np.issubdtype(out.dtype, np.floating) and len(values) < out.size:
            # The place of the last row at or before each step; -1 before the first.
            there = np.zeros(self.shape, dtype=bool)
            there[self.row, self.step] = True
            source = np.maximum.accumulate(np.where(there, np.arange(self.shape[1]), -1), axis=1)
            out = np.where(source >= 0, np.take_along_axis(out, np.maximum(source, 0), axis=1), out)
        return out


class Index:
    """Which rows of a table are of which path, run and layer, and their places in a matrix: found once each.

    Args:
        table: ``steps`` or ``layers`` of a trace, in memory or on the disk.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._found: dict[tuple[str, int, str | None, str | None], tuple[pa.Array, Places]] = {}

    def matrix(
        self, column: str, *, path: str, restart: int, kind: str | None = None, layer: str | None = None
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The samples' ids ``[n]`` and a column ``[n, T+1]``; without ``kind`` of the path, not what is beside it."""
        key = path, restart, kind, layer
        if key not in self._found:
            rows = self._rows(*key)
            sample, step = (self._table[name].take(rows).to_numpy() for name in ("sample", "step"))
            self._found[key] = rows, Places.of(sample, step)
        rows, places = self._found[key]
        return places.sample, places.fill(self._table[column].take(rows).to_numpy(zero_copy_only=False))

    def _rows(self, path: str, restart: int, kind: str | None, layer: str | None) -> pa.Array:
        group, known = self._groups
        wanted = {
            "path": lambda value: value == path,
            "restart": lambda value: value == restart,
            "kind": lambda value: value not in BESIDE if kind is None else value == kind,
            "layer": lambda value: layer is None or value == layer,
        }
        chosen = [[i for i, value in enumerate(values) if wanted[name](value)] for name, values in known.items()]
        sizes = [len(values) for values in known.values()]
        numbers = [np.ravel_multi_index(place, sizes) for place in itertools.product(*chosen)]
        return pa.array(np.flatnonzero(np.isin(group, numbers)).astype(np.int32))

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int32], dict[str, list[Any]]]:
        """A number for each row, the same where path, run, kind and layer are; and their values, which it counts."""
        known: dict[str, list[Any]] = {}
        group = np.zeros(self._table.num_rows, dtype=np.int32)
        for name in ("path", "restart", "kind", "layer"):
            if name in self._table.column_names:
                column = self._table[name]
                if not pa.types.is_dictionary(column.type):
                    column = column.dictionary_encode()
                whole = column.unify_dictionaries().combine_chunks()
                known[name] = whole.dictionary.to_pylist()
                group = group * len(known[name]) + whole.indices.to_numpy()
        return group, known
