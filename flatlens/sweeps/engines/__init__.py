"""Where a sweep's cells run: engines, the tasks that they are given, and their outcomes (no torch)."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from flatlens.errors import SpecError

ENGINES: dict[str, str] = {
    "local": "processes of this machine",
    "ray": "a Ray cluster, --address, or one of this machine; pip install 'flatlens[ray]'",
}
"""Name -> one line about it."""

CELL, TRAIN, CHECK, CALL = "cell", "train", "check", "call"


class Task(NamedTuple):
    """Something for a worker to do; plain data, so that it can travel.

    Attributes:
        root: the sweep's folder.
        kind: ``cell`` measures, ``train`` makes the model that a recipe names, ``check`` tells what a cell's model
            and data are now; ``call`` calls the function of flatlens that the spec's ``call`` names, with the spec.
        key: the cell's.
        spec: the cell's, as plain data.
        batches: of a part of a cell its batches; None for the whole cell.
        seconds: a whole cell that has taken so long hands over the batches that it has not begun.
    """

    root: str
    kind: str
    key: str
    spec: dict[str, Any]
    batches: tuple[int, ...] | None = None
    seconds: float = float("inf")


class Done(NamedTuple):
    """It is done; ``found`` is what a check has found."""

    found: dict[str, Any] | None = None


class More(NamedTuple):
    """A cell is large: these batches are left, and one takes about ``seconds``."""

    batches: tuple[int, ...]
    seconds: float


class Trouble(NamedTuple):
    """It cannot be done.

    Attributes:
        error: one line that says why.
        kind: the error's name; one of `DISK`, `DIED`, `LOST`, `TIMEOUT` where it is no error that the cell has raised:
            its process died, or the machine that it was on was lost.
        details: a traceback, or nothing.
    """

    error: str
    kind: str
    details: str = ""


DISK, DIED, LOST, TIMEOUT = "disk", "died", "lost", "timeout"


def check_workers(workers: int | None) -> None:
    """Refuse a number of workers that cannot be."""
    if workers is not None and workers < 1:
        raise SpecError(f"--workers {workers}: needs a whole number of at least 1")


def overdue(limit: float) -> Trouble:
    """What is said of a cell that took longer than ``limit`` seconds."""
    return Trouble(f"took longer than the {limit:g} s that a cell may take", TIMEOUT)


Outcome = Done | More | Trouble


class Engine(Protocol):
    """Runs tasks in processes that may be killed without harm to anything else."""

    @property
    def slots(self) -> int:
        """How many tasks run at the same time."""

    def submit(self, task: Task, timeout: float | None) -> None:
        """Run a task, and kill it after ``timeout`` seconds."""

    def next(self) -> tuple[Task, Outcome]:
        """Wait until a task is over."""

    def stop(self) -> None:
        """Kill what is running, and let go of all processes."""
