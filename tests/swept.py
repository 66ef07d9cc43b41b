"""Sweeps for tests: a model of a file that counts and slows down, the command as a process, faults put into workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq

COMMAND = [sys.executable, "-m", "flatlens"]
PATIENCE = 120.0
"""Seconds after which something that has not happened is taken never to happen."""

MODEL = """
import os, time
from pathlib import Path
import torch
from torch import nn

HERE = Path(__file__).parent

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(64, classes)
        self.pause = float(os.environ.get("PAUSE", 0))

    def forward(self, x):
        time.sleep(self.pause)
        while os.path.exists(os.environ.get("GATE", "")):
            time.sleep(0.01)
        return self.fc(x.flatten(1))

def net(classes):
    with open(HERE / "begun.log", "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(float(os.environ.get("LOADING", 0)))
    return Net(classes)
"""
HOOK = """
import os, signal
from pathlib import Path

HERE = Path(__file__).parent

def once(name):
    try:
        os.close(os.open(HERE / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
"""


class Place:
    """A folder with the model's file and a sweep file, whose cells differ in their seeds."""

    def __init__(self, folder: Path, seeds: int = 6, more: str = "") -> None:
        self.folder, self.file, self.out = folder, folder / "sweep.toml", folder / "out"
        folder.mkdir(exist_ok=True)
        self.model = folder / "model.py"
        self.model.write_text(MODEL)
        self.environment: dict[str, str] = {"COLUMNS": "200"}
        self.write(seeds, more)

    def write(self, seeds: int, more: str = "") -> None:
        self.file.write_text(
            f'[run]\nmodel = "{self.model}:net"\ndata = "flatlens:digits"\neps = 0.3\nsteps = 3\nrandom_start = true\n'
            f"limit = 6\nbatch_size = 2\n{more}\n[grid]\nseed = {list(range(seeds))}\n"
        )

    def hook(self, code: str) -> None:
        """Let every Python process of the sweep run this before anything else."""
        hooks = self.folder / "hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / "sitecustomize.py").write_text(HOOK + code)
        self.environment["PYTHONPATH"] = os.pathsep.join([str(hooks), os.environ.get("PYTHONPATH", "")]).rstrip(":")

    def begun(self) -> int:
        """How often the model was made."""
        log = self.folder / "begun.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def start(self, *words: object, command: str = "sweep", **environment: str) -> subprocess.Popen[str]:
        """The command, as a process; ``flatlens sweep`` of the file, into the folder ``out``, with two workers."""
        sweep = [str(self.file), "--out", str(self.out), "--trust-code", "--workers", "2"]
        return subprocess.Popen(
            [*COMMAND, command, *(sweep if command == "sweep" else []), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment | environment,
        )

    def run(self, *words: object, command: str = "sweep", **environment: str) -> subprocess.CompletedProcess[str]:
        """The command, run to its end."""
        process = self.start(*words, command=command, **environment)
        printed, complained = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, printed, complained)

    def done(self) -> set[str]:
        """The keys of the finished cells."""
        return names(self.out / "cells")

    def stamps(self) -> dict[str, int]:
        """When the tables of each finished cell were written."""
        return {key: (self.out / "cells" / key / "steps.parquet").stat().st_mtime_ns for key in self.done()}


def names(folder: Path) -> set[str]:
    """What lies in a folder; nothing, where it is not there."""
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def same(one: Place, other: Place, cells: int) -> None:
    """So many cells of one are finished, with the tables that they have in the other, and nothing is left over."""
    assert one.done() <= other.done() and len(one.done()) == cells
    assert not names(one.out / "work")
    for key in one.done():
        mine, theirs = one.out / "cells" / key, other.out / "cells" / key
        for name in ("steps", "layers"):
            assert pq.read_table(mine / f"{name}.parquet").equals(pq.read_table(theirs / f"{name}.parquet")), key
        assert names(mine) == names(theirs), key


def until(happened: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something, while a process runs."""
    began = time.monotonic()
    while not happened():
        assert process is None or process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() - began < PATIENCE, "never happened"
        time.sleep(0.005)


def workers(process: subprocess.Popen[str] | psutil.Process) -> list[psutil.Process]:
    """The processes that work for a supervisor, ready or not yet."""
    with contextlib.suppress(psutil.Error):
        return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    return []


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that were started for a command."""
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether they have all ended."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes if _there(p))


def _there(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status())
    return False


@contextlib.contextmanager
def killed_afterwards(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Leave no process behind, whatever a test does."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
