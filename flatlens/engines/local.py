"""Workers on this machine: one process each, which may be killed at any moment and is then replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import NamedTuple

from flatlens.engines import DIED, TIMEOUT, Outcome, Task, Trouble, work

LOOK = 1.0
"""Seconds between two looks at whether the workers live: what a worker has forked holds its pipe open after its end."""
SAFE = "PYTHONSAFEPATH"


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: connection.Connection


class _Busy(NamedTuple):
    slot: int
    task: Task
    timeout: float | None
    deadline: float
    again: bool
    """Whether another process is to do it if this one is found dead: it was idle, and has not said that it begins."""


class Local:
    """``workers`` processes with ``threads`` each.

    A process has a number, and with it an accelerator, which it hands on to the process that replaces it. It is sent
    a task, says that it begins, and then what came of it; no lock is shared with it that its death could leave closed.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.slots, self._threads = workers, threads
        self._free = list(reversed(range(workers)))
        self._workers: dict[int, _Worker] = {}
        self._busy: dict[connection.Connection, _Busy] = {}

    def submit(self, task: Task, timeout: float | None) -> None:
        """Run a task on a free worker, and kill it after ``timeout`` seconds."""
        self._give(self._free.pop(), task, timeout)

    def next(self) -> tuple[Task, Outcome]:
        """Wait until a task is over."""
        while True:
            limit = min(busy.deadline for busy in self._busy.values()) - time.monotonic()
            for pipe in connection.wait(list(self._busy), min(max(0.0, limit), LOOK)):
                assert isinstance(pipe, connection.Connection)
                try:
                    said = pipe.recv()
                except (EOFError, OSError):
                    if self._given_again(pipe):
                        continue
                    return self._over(pipe)
                if said != work.BEGUN:
                    return self._over(pipe, said)
                busy = self._busy[pipe]
                deadline = float("inf") if busy.timeout is None else time.monotonic() + busy.timeout
                self._busy[pipe] = busy._replace(deadline=deadline, again=False)
            for pipe, busy in list(self._busy.items()):
                if time.monotonic() > busy.deadline:
                    said = f"took longer than the {busy.timeout:g} s that a cell may take"
                    self._workers[busy.slot].process.kill()
                    self._ended(busy.slot)
                    return self._over(pipe, Trouble(said, TIMEOUT))
                alive = self._workers[busy.slot].process.is_alive() or pipe.poll()
                if not alive and not self._given_again(pipe):
                    return self._over(pipe)

    def stop(self) -> None:
        """Kill what is running: nothing that is finished can be lost by it."""
        for worker in self._workers.values():
            worker.process.kill()
        for slot in list(self._workers):
            self._ended(slot)
        self._busy.clear()

    def _give(self, slot: int, task: Task, timeout: float | None) -> None:
        worker = self._workers.get(slot)
        idle = worker is not None and worker.process.is_alive()
        if worker is None or not idle:
            worker = self._replaced(slot)
        with contextlib.suppress(OSError):  # if it is dead by now, its pipe says so
            worker.pipe.send(task)
        self._busy[worker.pipe] = _Busy(slot, task, timeout, float("inf"), again=idle)

    def _given_again(self, pipe: connection.Connection) -> bool:
        busy = self._busy[pipe]
        if busy.again:
            del self._busy[pipe]
            self._ended(busy.slot)
            self._give(busy.slot, busy.task, busy.timeout)
        return busy.again

    def _over(self, pipe: connection.Connection, outcome: Outcome | None = None) -> tuple[Task, Outcome]:
        busy = self._busy.pop(pipe)
        self._free.append(busy.slot)
        if outcome is None:
            outcome = Trouble(f"its process ended: {_how(self._ended(busy.slot))}", DIED)
        return busy.task, outcome

    def _replaced(self, slot: int) -> _Worker:
        self._ended(slot)
        context = multiprocessing.get_context("spawn")
        pipe, far = context.Pipe()
        process = context.Process(target=work.serve, args=(far, slot, self._threads), name=f"flatlens worker {slot}")
        with _sheltered():
            process.start()
        far.close()  # so that the worker's end is the only one, and closes with it
        self._workers[slot] = _Worker(process, pipe)
        return self._workers[slot]

    def _ended(self, slot: int) -> int | None:
        """Make sure that a worker has ended, and how it did."""
        if (worker := self._workers.pop(slot, None)) is None:
            return None
        worker.process.join(0.5)  # its pipe closes shortly before it ends by itself
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        return worker.process.exitcode


def shares(workers: int | None, *, accelerated: bool = True) -> tuple[int, int]:
    """How many workers there are, and how many threads each may use.

    Args:
        workers: as the user wants it; when left out one for each GPU, or else one for each core.
        accelerated: whether GPUs are used at all.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or (gpus() if accelerated else 0) or cores
    return workers, max(1, cores // workers)


def gpus() -> int:
    """How many GPUs of NVIDIA this process may use, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return sum(bool(name.strip()) and name.strip() != "-1" for name in visible.split(","))
    if (program := shutil.which("nvidia-smi")) is None:
        return 0
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


@contextlib.contextmanager
def _sheltered() -> Iterator[None]:
    """What is started here inherits two things.

    Ctrl-C is not for it: its supervisor decides what an interruption means. And it imports nothing from the working
    folder, where a stranger's sweep may have brought a ``pickle.py`` along: Python looks there first for a program
    that is given by ``-c``, as processes are that are spawned.
    """
    blocked, safe = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}), os.environ.get(SAFE)
    os.environ[SAFE] = "1"
    try:
        yield
    finally:
        if safe is None:
            del os.environ[SAFE]
        else:
            os.environ[SAFE] = safe
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        killed = " (perhaps because memory ran out: fewer --workers, or a smaller batch_size)" if code == -9 else ""
        return f"killed by signal {-code}{killed}"
    return f"exit code {code}"
