"""Which engine is asked for, whether it can be, and starting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from flatlens.errors import SpecError, unknown
from flatlens.sweeps.engines import ENGINES, Engine, check_workers

One = TypeVar("One")


def check(name: str, workers: int | None, address: str | None, gpus: float | None = None) -> None:
    """Refuse what no engine is.

    Raises:
        SpecError: there is no such engine, or a value is not for it.
    """
    check_workers(workers)
    if name not in ENGINES:
        raise SpecError(unknown("engine", name, ENGINES, where="there are"))
    for flag, value in (("--address", address), ("--gpus", gpus)):
        if name != "ray" and value is not None:
            raise SpecError(f"{flag} {value}: is of --engine ray")


def start(
    name: str, workers: int | None, address: str | None, gpus: float | None = None, *, accelerated: bool = True
) -> Engine:
    """The engine of a name; whoever starts it must ``stop`` it."""
    if name == "ray":
        from flatlens.sweeps.engines.ray import Cluster

        return Cluster(workers, address, gpus=gpus, accelerated=accelerated)
    from flatlens.sweeps.engines.local import Local, shares

    return Local(*shares(workers, accelerated=accelerated))


def shard_of(cells: Sequence[One], shard: tuple[int, int]) -> list[One]:
    """Every n-th cell from the i-th.

    Raises:
        SpecError: there is no such part.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise SpecError(f"--shard {index}/{count}: needs i/n with i from 1 to n, for example 1/3")
    return list(cells[index - 1 :: count])
