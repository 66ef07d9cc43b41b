"""Workers of a Ray cluster: one that is there, or one of this machine only, for the time of the sweep.

Ray finds a place for each task, and tells when a node or a process is lost; the supervisor decides what to do about it.
Ray itself tries nothing again (``max_retries=0``): otherwise both would repeat a cell that exhausts the memory. The
results are in the sweep's folder; only tasks, and messages that they are over, travel through Ray.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flatlens.errors import SpecError, one_line
from flatlens.extras import need
from flatlens.files.places import cache
from flatlens.sweeps.engines import DIED, LOST, Outcome, Task, Trouble, joining, overdue, worker
from flatlens.sweeps.engines.local import SAFE, own_gpus, shares

SETTLE = 1.0
"""Seconds after which a process's end may turn out to have been its node's."""


class WorkerSetup(NamedTuple):
    """What a worker must know besides its task: plain data."""

    threads: int
    gpus: float
    folder: str
    cache: str


class Started(NamedTuple):
    """A worker's first message, sent when all is imported: where it runs."""

    node: str
    host: str
    pid: int


class _Running(NamedTuple):
    task: Task
    limit: float | None


class Cluster:
    """Tasks of ``gpus`` GPUs and a few threads each, wherever the cluster has room for them."""

    def __init__(
        self, workers: int | None, address: str | None = None, *, gpus: float | None = None, accelerated: bool = True
    ) -> None:
        """Join a cluster, or start one.

        Args:
            workers: how many tasks at the same time; as many as there is room for when left out.
            address: of the cluster, ``HOST:PORT`` or ``auto``; when left out, one is started on this machine, which
                nobody else can reach. If this process is connected to one already, it is that.
            gpus: GPUs of a task, 0.5 for two tasks on one; 1 where there are any, when left out.
            accelerated: whether any task could use one.

        Raises:
            SpecError: the cluster cannot be reached, no node of it is large enough, or Ray is not installed.
        """
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise SpecError(f"--gpus {gpus:g}: needs a share of a GPU, or a whole number of them")
        self._ray = need("ray", "ray", "sweeps with --engine ray", SpecError)
        self._running: dict[Any, _Running] = {}
        self._begun: dict[Any, tuple[float, Started]] = {}
        self._temporary: Path | None = None
        self._workers, self._threads = workers, 1
        self._ours = not self._ray.is_initialized()
        try:
            if address is not None:
                joining.join(self._ray, address)
            elif self._ours:
                local = workers or (int(own_gpus() / gpus) or None if gpus else None)
                local, self._threads = shares(local, accelerated=accelerated and gpus != 0)
                self._temporary = joining.start(self._ray, local * self._threads)
            there = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            any_gpus = any(node.get("GPU") for node in there)
            self._gpus = gpus if gpus is not None else float(accelerated and any_gpus)
            self._check(there, address)
        except BaseException:
            self.stop()
            raise
        self._setting = WorkerSetup(self._threads, self._gpus, str(Path.cwd()), str(cache().absolute()))
        # A process with a GPU ends with its task, as is Ray's way, and so gives back all of the memory that it had.
        self._do = self._ray.remote(
            num_returns="streaming",
            max_retries=0,
            num_cpus=self._threads,
            num_gpus=self._gpus,
            scheduling_strategy="SPREAD",
            # Its first word has arrived before it goes on: who dies with it is known.
            _generator_backpressure_num_objects=1,
        )(_do)

    @property
    def slots(self) -> int:
        """How many tasks run at the same time; a cluster may grow and shrink."""
        if self._workers is not None and not self._gpus:
            return self._workers
        there = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        found = room(there, self._threads, self._gpus)
        # None at all is for the moment only: a task then waits for a node.
        return max(1, found if self._workers is None else min(found, self._workers))

    def submit(self, task: Task, timeout: float | None) -> None:
        """Run a task where there is room; from when it has begun there, it may take ``timeout`` seconds."""
        self._running[self._do.remote(self._setting, task)] = _Running(task, timeout)

    def next(self) -> tuple[Task, Outcome]:
        """Wait until a task is over."""
        while True:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=self._patience())
            for stream in ready:
                outcome = self._heard(stream)
                if outcome is not None:
                    return self._over(stream), outcome
            for stream, (when, _) in self._begun.items():
                limit = self._running[stream].limit
                if limit is not None and time.monotonic() >= when + limit:
                    self._ray.cancel(stream, force=True)
                    return self._over(stream), overdue(limit)

    def stop(self) -> None:
        """Kill what is running, leave the cluster, and end it if it is ours."""
        ray = self._ray
        if ray.is_initialized():
            for stream in self._running:
                with contextlib.suppress(Exception):
                    ray.cancel(stream, force=True)
            self._running.clear()
            self._begun.clear()
            if self._ours:
                ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    # ---- tasks ----------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """Seconds until the first limit is reached."""
        limits = [
            when + limit
            for stream, (when, _) in self._begun.items()
            if (limit := self._running[stream].limit) is not None
        ]
        return max(0.0, min(limits) - time.monotonic()) if limits else None

    def _over(self, stream: Any) -> Task:
        self._begun.pop(stream, None)
        return self._running.pop(stream).task

    def _heard(self, stream: Any) -> Outcome | None:
        """The outcome that a task has sent; None if its message was that it has begun."""
        errors = self._ray.exceptions
        try:
            said = self._ray.get(next(stream))
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError):
            return Trouble(f"its node{self._where(stream)} was lost", LOST)
        except errors.OutOfMemoryError:
            return Trouble(f"memory ran out{self._where(stream)}: fewer --workers, or a smaller batch_size", DIED)
        except (errors.WorkerCrashedError, errors.TaskCancelledError):
            if self._node_lost(stream):
                return Trouble(f"its node{self._where(stream)} was lost", LOST)
            return Trouble(f"its process{self._where(stream)} was killed, perhaps because memory ran out", DIED)
        except errors.RayTaskError as error:
            said = one_line(error.cause, kind=True)
            return Trouble(f"a worker cannot begin: {said}", type(error.cause).__name__, str(error))
        except errors.RayError as error:
            return Trouble(f"ray: {one_line(error)}", type(error).__name__)
        if isinstance(said, Started):
            self._begun[stream] = time.monotonic(), said
            return None
        outcome: Outcome = said
        return outcome

    def _where(self, stream: Any) -> str:
        return f" on {self._begun[stream][1].host}" if stream in self._begun else ""

    def _node_lost(self, stream: Any) -> bool:
        """Whether a process ended because its node was lost."""
        if stream not in self._begun:
            return False
        time.sleep(SETTLE)
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        return self._begun[stream][1].node not in alive

    # ---- the cluster ----------------------------------------------------------------------------

    def _check(self, nodes: list[Mapping[str, float]], address: str | None) -> None:
        """Refuse a cluster none of whose nodes could run a task; one that has no nodes yet may get them."""
        if self._gpus and not room(nodes, self._threads, self._gpus):
            most = max((node.get("GPU", 0) for node in nodes), default=0)
            place = "this machine" if address is None else f"any node at '{address}'"
            raise SpecError(f"--gpus {self._gpus:g}: more than {place} has, {most:g}")


def room(nodes: Iterable[Mapping[str, float]], threads: int, gpus: float) -> int:
    """How many tasks nodes of such resources can run at the same time."""

    def of(node: Mapping[str, float]) -> int:
        by_cpu = int(node.get("CPU", 0) // threads)
        return min(by_cpu, math.floor(node.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpu

    return sum(map(of, nodes))


# ---- in a worker ----------------------------------------------------------------------------------

_as: WorkerSetup | None = None
"""What this process has been started as."""


def _do(setting: WorkerSetup, task: Task) -> Iterator[Started | Outcome]:
    """Do a task: first yield the message that it has begun, and then its outcome."""
    global _as
    import ray

    if setting != _as:
        if not setting.gpus:
            # Ray lets a task without GPUs see them all.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["FLATLENS_CACHE"] = setting.cache
        os.environ[SAFE] = "1"
        with contextlib.suppress(OSError):  # names of files in a spec are relative to it
            os.chdir(setting.folder)
        # The process belongs to Ray, which ends it with the node, and with the driver.
        worker.start(None, setting.threads)
        _as = setting
    yield Started(ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid())
    yield worker.do(task)
