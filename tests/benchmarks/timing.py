"""Interleaved timing: the variants in turn, so that a machine that slows down slows all of them."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

RUNS = 7


class Row(NamedTuple):
    """One line of the table: what was measured, the value seen, what is to be reached, and the raw figures."""

    work: str
    value: float
    unit: str
    goal: str
    detail: str


def interleaved(variants: dict[str, Callable[[], object]], runs: int = RUNS) -> dict[str, list[float]]:
    """Seconds of each variant, run in turn ``runs`` times after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for run in range(runs + 1):
        for name, work in variants.items():
            began = time.perf_counter()
            work()
            if run:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def apart(module: str, names: Sequence[str], runs: int = RUNS) -> dict[str, list[float]]:
    """As `interleaved`, each variant in a process of its own, as a user runs it; only one works at a time.

    What one library teaches the memory allocator would otherwise speed up the others.

    Args:
        module: where ``variant(name)`` makes the function to be timed.
        names: of the variants.
        runs: of each, after one warm-up.
    """
    code = (
        f"import sys, time\nfrom {module} import variant\nwork = variant(sys.argv[1])\nfor _ in sys.stdin:\n"
        "    began = time.perf_counter()\n    work()\n    print(time.perf_counter() - began, flush=True)\n"
    )
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in names
    }

    def timed(worker: subprocess.Popen[str]) -> float:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs + 1):
        for name, worker in workers.items():
            took = timed(worker)
            if run:
                seconds[name].append(took)
    for worker in workers.values():
        worker.communicate()
    return seconds


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """The median of the ratios of neighbouring runs."""
    return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))


def medians(seconds: dict[str, list[float]]) -> str:
    """``name 1.23 s`` for each variant."""
    return ", ".join(f"{name} {statistics.median(values):.3g} s" for name, values in seconds.items())


def subprocess_json(code: str) -> dict[str, float]:
    """Run Python code in a fresh process; it prints one JSON object as its last line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def environment() -> dict[str, object]:
    """What the figures depend on."""
    import os

    import numpy
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
