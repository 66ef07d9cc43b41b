"""Workers on this machine: one process each, which may be killed at any moment and is then replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from pebble import ProcessExpired, ProcessPool

from flatlens.errors import ResourceError, one_line
from flatlens.sweeps.engines import DIED, Outcome, Task, Trouble, overdue, worker

LOOK = 1.0
"""Seconds between two looks at whether a process has left its task without a word."""
SAFE = "PYTHONSAFEPATH"
"""Of Python's environment: a process does not import from the folder that it is started in."""
HOW_TO_START = (
    "no worker could be started; a program that calls run_sweep must be a file, and call it under "
    "if __name__ == '__main__':"
)


class _Busy(NamedTuple):
    slot: int
    task: Task
    timeout: float | None
    starts: int
    """How many processes its pool will have started, at the least, when the task begins."""
    again: bool
    """Whether another worker was given it before, which was killed while it was idle."""


class Local:
    """``workers`` processes with ``threads`` each.

    Every worker is a pool of its own, so that it keeps its number, and with it its accelerator, when its process is
    replaced.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.slots: int = workers
        self._threads = threads
        self._free = list(reversed(range(workers)))
        self._pools: dict[int, ProcessPool] = {}
        self._starts: dict[int, Any] = {}  # of each pool, a counter that its processes share
        self._busy: dict[Future[Outcome], _Busy] = {}
        self._over: SimpleQueue[Future[Outcome]] = SimpleQueue()

    def submit(self, task: Task, timeout: float | None) -> None:
        """Run a task on a free worker, and kill it after ``timeout`` seconds."""
        self._give(self._free.pop(), task, timeout)

    def _give(self, slot: int, task: Task, timeout: float | None, *, again: bool = False) -> None:
        with _sheltered():
            pool = self._pools.get(slot)
            if pool is None or not pool.active:
                # A pool whose idle process was killed is broken, and says so only now.
                self._drop(slot)
                pool = self._pool(slot)
            future = pool.schedule(worker.do, args=(task,), timeout=timeout)
        self._busy[future] = _Busy(slot, task, timeout, max(1, self._starts[slot].value), again)
        future.add_done_callback(self._over.put)

    def next(self) -> tuple[Task, Outcome]:
        """Wait until a task is over."""
        while True:
            try:
                future = self._over.get(timeout=LOOK)
            except Empty:
                if (left := self._left()) is not None:
                    return self._ended(left, Trouble("its process ended: exit code 0", DIED))
                continue
            if future not in self._busy:
                continue
            try:
                outcome = future.result()
            except TimeoutError:
                return self._ended(future, overdue(self._busy[future].timeout or 0.0))
            except ProcessExpired as error:
                return self._ended(future, Trouble(f"its process ended: {_how(error.exitcode)}", DIED))
            except Exception as error:  # the pool broke: its process ended before it took the task
                busy = self._busy[future]
                if not self._starts[busy.slot].value:
                    raise ResourceError(HOW_TO_START) from error
                if busy.again:
                    return self._ended(future, Trouble(f"its process ended: {one_line(error)}", DIED))
                del self._busy[future]
                self._drop(busy.slot)
                self._give(busy.slot, busy.task, busy.timeout, again=True)
                continue
            busy = self._busy.pop(future)
            self._free.append(busy.slot)
            return busy.task, outcome

    def stop(self) -> None:
        """Kill what is running: nothing that is finished can be lost by it."""
        for slot in list(self._pools):
            self._drop(slot)
        self._busy.clear()

    def _pool(self, slot: int) -> ProcessPool:
        context = _Context()
        starts = self._starts[slot] = context.Value("i", 0)
        how = (starts, slot, self._threads)
        self._pools[slot] = ProcessPool(1, initializer=worker.begin_worker, initargs=how, context=context)
        return self._pools[slot]

    def _ended(self, future: Future[Outcome], trouble: Trouble) -> tuple[Task, Outcome]:
        busy = self._busy.pop(future)
        self._drop(busy.slot)
        self._free.append(busy.slot)
        return busy.task, trouble

    def _left(self) -> Future[Outcome] | None:
        """A task whose process ended with exit code 0 and no answer, which its pool takes for success."""
        for future, busy in self._busy.items():
            if not future.done() and self._starts[busy.slot].value > busy.starts:
                return future
        return None

    def _drop(self, slot: int) -> None:
        if (pool := self._pools.pop(slot, None)) is not None:
            pool.stop()
            pool.join()


class _Process(SpawnProcess):
    def start(self) -> None:
        """Start it so that it inherits two things.

        Ctrl-C is not for it: its supervisor decides what an interruption means. And it imports nothing from the working
        folder, where a stranger's sweep may have brought a ``pickle.py`` along: Python looks there first for a program
        that is given by ``-c``, as processes are that are spawned.
        """
        with _sheltered():
            super().start()


class _Context(SpawnContext):
    Process = _Process


@contextlib.contextmanager
def _sheltered() -> Iterator[None]:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _safe_path:
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _SafePath:
    """The environment with `SAFE` in it while any thread starts a process, and then as it was.

    A pool's thread replaces a process while another one is started: there is one environment for them all.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: str | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = os.environ.get(SAFE)
                os.environ[SAFE] = "1"
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            if self._before is None:
                os.environ.pop(SAFE, None)
            else:
                os.environ[SAFE] = self._before


_safe_path = _SafePath()


def shares(workers: int | None, *, accelerated: bool = True) -> tuple[int, int]:
    """How many workers there are, and how many threads each may use.

    Args:
        workers: as the user wants it; when left out one for each GPU, or else one for each core.
        accelerated: whether GPUs are used at all.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or (own_gpus() if accelerated else 0) or cores
    return workers, max(1, cores // workers)


def own_gpus() -> int:
    """How many GPUs of NVIDIA this process may use, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return sum(bool(name.strip()) and name.strip() != "-1" for name in visible.split(","))
    if (program := shutil.which("nvidia-smi")) is None:
        return 0
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        killed = " (perhaps because memory ran out: fewer --workers, or a smaller batch_size)" if code == -9 else ""
        return f"killed by signal {-code}{killed}"
    return f"exit code {code}"
