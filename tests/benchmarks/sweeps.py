"""Sweeps: what a cell costs beyond its work, what two workers gain, what the supervisor holds, how fast status is."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.timing import Row

CELLS = 1000
TINY = 'model = "flatlens:mlp?width=4"\nsteps = 1\nlimit = 2\nimages = "none"\nbatch_size = 2\n'
LARGE = 'model = "flatlens:resnet18?width=16"\nsteps = 40\nlimit = 128\nimages = "none"\nbatch_size = 16\n'


def rows() -> Iterator[Row]:
    """All rows about sweeps."""
    yield from overhead()
    yield from workers()
    yield status()


SWEEP = """
import json, sys, time, psutil
from flatlens.sweeps.engines import local
from flatlens.sweeps.supervisor import run_sweep

local.shares = lambda *_, **__: ({workers}, 1)  # one thread each

def main():
    ends, held = [], {{}}

    def tick(progress):
        ends.append(time.perf_counter())
        if len(ends) in (100, {last}):
            held[len(ends)] = psutil.Process().memory_info().rss

    began = time.perf_counter()
    result = run_sweep({file!r}, {out!r}, progress=tick)
    assert result.failed == 0
    print(json.dumps({{"all": time.perf_counter() - began, "first": ends[0] - began, "warm": ends[-1] - ends[0],
                      "few": held.get(100, 0), "many": held.get({last}, 0)}}))

if __name__ == "__main__":
    main()
"""
PAIRED = """
import json, statistics, time, torch
from pathlib import Path
from flatlens.measure import run as execute
from flatlens.sweeps import grid
from flatlens.sweeps.engines import local
from flatlens.sweeps.supervisor import run_sweep

local.shares = lambda *_, **__: ({workers}, 1)  # one thread each

def main():
    torch.set_num_threads(1)
    cells = iter(grid.read({file!r}).cells)
    swept, alone = [], []

    def tick(progress):
        # The worker waits: the next cell is its supervisor's to give.
        swept.append(time.perf_counter() - tick.began)
        began, cell = time.perf_counter(), next(cells)
        execute.run(cell.spec, Path({out!r} + "-alone") / cell.key)
        alone.append(time.perf_counter() - began)
        tick.began = time.perf_counter()

    tick.began = time.perf_counter()
    assert run_sweep({file!r}, {out!r}, progress=tick).failed == 0
    print(json.dumps({{"swept": statistics.fmean(swept[1:]), "alone": statistics.fmean(alone[1:])}}))

if __name__ == "__main__":
    main()
"""


def overhead(cells: int = CELLS) -> Iterator[Row]:
    """Of tiny cells with one worker, once it is warm, beyond the same runs, in turn, in one process; the memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), TINY, cells)
        each = sweep(file, PAIRED, workers=1)
        held = sweep(file, SWEEP, workers=1, last=cells)
    yield Row(
        f"a cell of a sweep of {cells:,}, beyond its work",
        1000 * (each["swept"] - each["alone"]),
        "ms",
        "< 50",
        f"{1000 * each['swept']:.1f} ms with its page and digest, {1000 * each['alone']:.1f} ms as a run, in turn",
    )
    detail = f"{held['many'] / 2**20:.1f} MiB, {held['few'] / 2**20:.1f} MiB"
    yield Row(
        f"the supervisor's memory after {cells:,} cells, against 100", held["many"] / held["few"], "×", "≤ 1.1", detail
    )


def workers(cells: int = 8, runs: int = 3) -> Iterator[Row]:
    """One worker against two, one thread each, on cells of a few seconds."""
    seconds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), LARGE, cells)
        for _ in range(runs):
            for n in seconds:
                seconds[n].append(sweep(file, SWEEP, workers=n, last=cells))
    for name, key, goal in (("steady", "warm", "≥ 1.6"), ("with start-up", "all", "–")):
        # From the first cell's end on, one worker does the others, and two do them and what the second has begun.
        counted = {
            n: statistics.median(found[key] / (cells - n * (key == "warm")) for found in seconds[n]) for n in seconds
        }
        yield Row(
            f"two workers against one, {cells} cells, {name}",
            counted[1] / counted[2],
            "×",
            goal,
            ", ".join(f"{n} worker{'s' * (n > 1)} {counted[n]:.2f} s a cell" for n in counted),
        )


def status(cells: int = 10_000) -> Row:
    """`flatlens status` as a whole process: half of the cells finished, a tenth failed, a few begun."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("cells", "failed", "work", "locks"):
            (folder / part).mkdir()
        spec = {"model": "flatlens:mlp", "data": "flatlens:digits", "attack": "pgd", "eps": 0.1, "steps": 40}
        plan = {f"{i:016x}": spec | {"seed": i} for i in range(cells)}
        (folder / "plan.json").write_text(json.dumps({"schema_version": 1, "cells": plan}))
        for i, key in enumerate(plan):
            if i < cells // 2:
                (folder / "cells" / key).mkdir()
            elif i < 6 * cells // 10:
                failure = {"error": f"of {i % 20} kinds", "kind": "x", "details": "", "when": 1.0, "attempts": 1}
                (folder / "failed" / f"{key}.json").write_text(json.dumps(failure))
            elif i < 6 * cells // 10 + 16:
                (folder / "work" / key / "parts").mkdir(parents=True)
                (folder / "locks" / f"{key}.cell").touch()
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "flatlens", "status", name], capture_output=True, check=True)
            seconds.append(time.perf_counter() - began)
        detail = f"{min(seconds):.2f} … {max(seconds):.2f} s"
    return Row(f"flatlens status of {cells:,} cells", statistics.median(seconds), "s", "< 2", detail)


def write(folder: Path, settings: str, cells: int) -> Path:
    """A sweep file of so many seeds."""
    file = folder / "sweep.toml"
    file.write_text(f'[run]\ndata = "flatlens:digits"\n{settings}[grid]\nseed = {list(range(cells))}\n')
    return file


def sweep(file: Path, program: str, **values: int) -> dict[str, float]:
    """What a program that runs a sweep in a process of its own has found."""
    script, out = file.with_suffix(".py"), file.with_name("out")
    script.write_text(program.format(file=str(file), out=str(out), **values))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
