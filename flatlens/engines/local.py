"""Workers on this machine: one process each, which may be killed and is then replaced."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from concurrent.futures import Future
from queue import SimpleQueue

from pebble import ProcessExpired, ProcessPool

from flatlens.engines import DIED, Outcome, Task, Trouble, overdue, work


class Local:
    """``workers`` processes with ``threads`` each.

    Every worker is a pool of its own, so that it keeps its number, and with it its accelerator, when its process is
    replaced.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.slots, self._threads = workers, threads
        self._over: SimpleQueue[tuple[int, Task, Future[Outcome]]] = SimpleQueue()
        self._free = list(reversed(range(workers)))
        self._pools: dict[int, ProcessPool] = {}
        self._limits: dict[int, float | None] = {}

    def submit(self, task: Task, timeout: float | None) -> None:
        """Run a task on a free worker, and kill it after ``timeout`` seconds."""
        slot = self._free.pop()
        pool = self._pools.get(slot)
        if pool is None or not pool.active:
            # A pool whose idle process was killed is broken, and says so only now.
            pool = self._pools[slot] = ProcessPool(
                1, initializer=work.start, initargs=(slot, self._threads), context=multiprocessing.get_context("spawn")
            )
        self._limits[slot] = timeout
        future = pool.schedule(work.do, args=(task,), timeout=timeout)
        future.add_done_callback(lambda over: self._over.put((slot, task, over)))

    def next(self) -> tuple[Task, Outcome]:
        """Wait until a task is over."""
        slot, task, future = self._over.get()
        self._free.append(slot)
        try:
            return task, future.result()
        except TimeoutError:
            return task, overdue(self._limits[slot] or 0.0)
        except ProcessExpired as error:
            return task, Trouble(f"its process ended: {_how(error.exitcode)}", DIED)
        except Exception as error:  # the pool broke: its process died between two tasks
            self._pools.pop(slot).stop()
            return task, Trouble(f"its process ended: {error}", DIED)

    def stop(self) -> None:
        """Kill what is running."""
        for pool in self._pools.values():
            pool.stop()
        for pool in self._pools.values():
            pool.join()


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


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        killed = " (perhaps because memory ran out: fewer --workers, or a smaller batch_size)" if code == -9 else ""
        return f"killed by signal {-code}{killed}"
    return f"exit code {code}"
