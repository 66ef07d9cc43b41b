"""What is measured at an iterate. A probe is called with the live pass and the path so far, and returns columns.

    probe(here: Forward, path: Path) -> {column: tensor [n]}

Probes of a layer return such a dictionary for each layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from flatlens.victims.images import Forward

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Path:
    """Where the path came from: the clean input ``[n, …]``, and the pass of the step before."""

    clean: Tensor
    target: Tensor | None = None
    previous: Forward | None = None

    def at(self, rows: Tensor | None) -> Path:
        """The path of these samples of the batch only; None = all."""
        if rows is None:
            return self
        rows = rows.to(self.clean.device)
        return replace(self, clean=self.clean[rows], target=None if self.target is None else self.target[rows])

    def to(self, here: Forward) -> Path:
        """The path, one step further."""
        return replace(self, previous=here)
