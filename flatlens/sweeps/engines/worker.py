"""What a worker does: one task of a sweep, in a process of its own that has imported torch once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from flatlens.errors import DiskError, FlatlensError, StaleRunError, one_line
from flatlens.specs.run import from_dict
from flatlens.specs.trust import TRUST
from flatlens.sweeps.engines import CALL, CHECK, DISK, TRAIN, Done, More, Outcome, Task, Trouble
from flatlens.sweeps.folder import Sweep

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from flatlens.measure.run import Begun

PLOTLY = "../../plotly.min.js"
"""Where a cell's page finds plotly: beside the sweep's page, and not 5 MB in each."""


def begin_worker(starts: Synchronized[int], slot: int, threads: int) -> None:
    """The first thing that a worker does: count itself among the processes of its pool, and get ready."""
    with starts.get_lock():
        starts.value += 1
    start(slot, threads)


def start(slot: int | None, threads: int) -> None:
    """Prepare a process for tasks: import torch, keep to its own cores and accelerator.

    Args:
        slot: the worker's number, from 0; it takes the accelerator of that number, and the first ones again. None
            where it sees no accelerators but its own.
        threads: how many it may use.
    """
    os.dup2(2, 1)  # stdout belongs to whoever started the sweep
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    import flatlens.measure.run  # noqa: F401  (here, once, and not with the first cell)

    torch.set_num_threads(threads)
    if slot is not None and torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def do(task: Task) -> Outcome:
    """Do a task; whatever goes wrong is told, not raised."""
    try:
        if task.kind == TRAIN:
            return _train(task)
        if task.kind == CHECK:
            from flatlens.measure.load import sources

            return Done(sources(from_dict(task.spec)))
        if task.kind == CALL:
            module, _, name = task.spec["call"].partition(":")
            return Done(getattr(importlib.import_module(f"flatlens.{module}"), name)(task.root, task.spec))
        return _cell(task)
    except DiskError as error:
        return Trouble(str(error), DISK)
    except FlatlensError as error:
        return Trouble(one_line(error), type(error).__name__)
    except BaseException as error:  # a model's own code may do anything
        said = f"internal: {one_line(error, kind=True)}"
        return Trouble(said, type(error).__name__, _plain(traceback.format_exc()))


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _train(task: Task) -> Done:
    from flatlens.training import recipes

    spec = from_dict(task.spec)
    assert spec.train is not None
    # The first of the cells that need the model is under way with its training.
    with Sweep(Path(task.root), {}).claim(task.key):
        recipes.obtain(spec.model, spec.train, **{key: getattr(spec, key) for key in TRUST})
    return Done()


def _cell(task: Task) -> Outcome:
    from flatlens.measure.run import measure

    sweep, whole = Sweep(Path(task.root), {}), task.batches is None
    with sweep.claim(task.key, "" if task.batches is None else f".{task.batches[0]}"):
        if sweep.is_done(task.key):
            return Done()
        begun = _begin(task, sweep.work(task.key))
        missing = begun.run.missing()
        wanted = missing if task.batches is None else sorted(set(task.batches).intersection(missing))
        began = time.monotonic()
        measure(begun, wanted, until=began + task.seconds)
        if not whole:
            return Done()
        if left := begun.run.missing():
            _kept[task.key] = begun
            return More(tuple(left), (time.monotonic() - began) / (len(missing) - len(left)))
        _finish(begun)
        sweep.commit(task.key)
    return Done()


_kept: dict[str, Begun] = {}
"""The job of the cell that this process has last worked on, where it is likely to be given more of it."""


def _begin(task: Task, folder: Path) -> Begun:
    from flatlens.measure.run import begin

    kept = _kept.pop(task.key, None)
    _kept.clear()
    if kept is not None and folder.is_dir():
        return kept
    spec = from_dict(task.spec)
    try:
        return begin(spec, folder, parents=False, whole=task.batches is None)
    except StaleRunError:
        # It was begun with other weights or data than there are now.
        shutil.rmtree(folder, ignore_errors=True)
        return begin(spec, folder, parents=False)


def _finish(begun: Begun) -> None:
    from flatlens.files.atomic import disk, write_file
    from flatlens.measure.run import finish
    from flatlens.records import digest
    from flatlens.report import page

    # It may have been killed after it was finished, and before it was declared so to the sweep.
    trace = begun.run.trace(whole=False) if begun.run.finished else finish(begun)
    begun.run.keep("digest.json", digest.digest(trace))
    text = page.document([trace], plotly=PLOTLY).encode("utf-8", "backslashreplace")
    with disk(begun.run.path):
        write_file(begun.run.path / "report.html", text)


def _die_with_parent() -> None:
    # A worker whose supervisor was killed would go on beside the next one's. What it waits for is a pipe that the
    # supervisor holds, and not a process number, which would be the wrong one if the supervisor was killed before this.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
