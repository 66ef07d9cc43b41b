"""What is measured at a pass. A probe is called with the live pass and the path so far, and returns columns of a table.

A new probe is a file here, with a function for `StepProbe` or a class that has what `Probe` asks for, and one row in
`flatlens.measure.job.Job.probes`; its columns stand in `flatlens.records.schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from flatlens.victims.protocol import Pass

Columns = Mapping[str, Tensor | str | bool]
"""Column -> a number for each sample ``[n]``, or what is the same in all rows."""

ONE_ROW = ""
"""The key of a table that has one row for each sample and pass."""


@dataclass(frozen=True)
class Path:
    """Where the path came from: the clean input ``[n, …]``, and the pass of the step before."""

    clean: Tensor
    target: Tensor | None = None
    previous: Pass | None = None

    def at(self, rows: Tensor | None) -> Path:
        """The path of these samples of the batch only; None = all."""
        if rows is None:
            return self
        rows = rows.to(self.clean.device)
        return replace(self, clean=self.clean[rows], target=None if self.target is None else self.target[rows])

    def to(self, here: Pass) -> Path:
        """The path, one step further."""
        return replace(self, previous=here)


class Probe(Protocol):
    """Reads numbers off each pass of one path, in order."""

    @property
    def table(self) -> str:
        """Which of `flatlens.records.schema.TABLES` its columns are in."""

    @property
    def late(self) -> bool:
        """Whether it looks at a pass only once the attack is done with it, its gradient taken."""

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """The columns of this pass, for each value of the table's key: of ``layers`` for each layer.

        ``steps`` has no key: its columns stand under `ONE_ROW`.
        """


@dataclass(frozen=True)
class StepProbe:
    """A function that reads columns of the table of steps, as a `Probe`."""

    read: Callable[[Pass, Path], Columns]
    late: bool = False
    table: str = "steps"

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """The columns of this pass, under `ONE_ROW`."""
        return {ONE_ROW: self.read(here, path)}
