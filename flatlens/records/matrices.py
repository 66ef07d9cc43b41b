"""Rows of a table -> matrices of samples × steps (numpy only)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


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
