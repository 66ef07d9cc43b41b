"""Where claims are measured: in this process, in several of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flatlens.claims.cells import Cell, attempt
from flatlens.errors import DiskError
from flatlens.sweeps.engines import CALL, DIED, DISK, LOST, Engine, Outcome, Task, Trouble, starting

TRIES = 2
"""How often a cell is begun whose process dies, or whose machine is lost."""


@dataclass(frozen=True)
class Machines:
    """Where the cells run.

    Attributes:
        workers: cells at the same time; 1 is this very process.
        engine: ``local``, or ``ray``.
        address: of a Ray cluster; one of this machine when None.
        shard: (i, n) does every n-th cell, from the i-th: for several machines with one folder.

    Raises:
        SpecError: a value cannot be.
    """

    workers: int | None = 1
    engine: str = "local"
    address: str | None = None
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        starting.check(self.engine, self.workers, self.address)
        starting.shard_of((), self.shard)

    @property
    def alone(self) -> bool:
        """Whether no other shard works in the folder."""
        return self.shard == (1, 1)

    def each(self, cells: Sequence[Cell], out: Path) -> Iterator[tuple[Cell, str]]:
        """Measure the cells.

        Yields:
            each cell as soon as it is over, with why it failed, or nothing.

        Raises:
            DiskError: the folder cannot be written.
        """
        few = self.engine == "local" and (self.workers == 1 or len(cells) < 2)
        if few or not cells:
            yield from ((cell, attempt(cell, out)) for cell in cells)
            return
        workers = None if self.workers is None else min(self.workers, len(cells))
        engine = starting.start(self.engine, workers, self.address)
        try:
            yield from _given(engine, cells, out)
        finally:
            engine.stop()


def _given(engine: Engine, cells: Sequence[Cell], out: Path) -> Iterator[tuple[Cell, str]]:
    # Networks are trained once: the first cell of a seed trains it, the others wait for its lock and find it.
    root = str(out.absolute())
    ready = deque(Task(root, CALL, str(index), cell.plain) for index, cell in enumerate(cells))
    busy, tries = 0, Counter[str]()
    while ready or busy:
        while ready and busy < engine.slots:
            engine.submit(ready.popleft(), None)
            busy += 1
        task, outcome = engine.next()
        busy -= 1
        tries[task.key] += 1
        if isinstance(outcome, Trouble) and outcome.kind in (DIED, LOST) and tries[task.key] < TRIES:
            ready.append(task)
            continue
        yield cells[int(task.key)], _why(outcome)


def _why(outcome: Outcome) -> str:
    if not isinstance(outcome, Trouble):
        return str((getattr(outcome, "found", None) or {}).get("why", ""))
    if outcome.kind == DISK:
        raise DiskError(outcome.error)
    return outcome.error
