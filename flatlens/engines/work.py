"""What a worker does: one task of a sweep, in a process of its own that has imported torch once."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from flatlens.engines import CHECK, DISK, TRAIN, Done, More, Outcome, Task, Trouble
from flatlens.errors import DiskError, FlatlensError, RunError
from flatlens.spec import TRUST, RunSpec, from_dict
from flatlens.sweep import Sweep

if TYPE_CHECKING:
    from flatlens.execute import Begun

PLOTLY = "../../plotly.min.js"
"""Where a cell's page finds plotly: beside the sweep's page, and not 5 MB in each."""


def start(slot: int | None, threads: int, *, watch: bool = True) -> None:
    """Prepare a process for tasks: import torch, keep to its own cores and accelerator.

    Args:
        slot: the worker's number, from 0; it takes the accelerator of that number, and the first ones again. None
            where it sees no accelerators but its own.
        threads: how many it may use.
        watch: end with the parent, which is whoever started the sweep.
    """
    os.dup2(2, 1)  # stdout belongs to whoever started the sweep
    if watch:
        threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    from flatlens import execute  # noqa: F401  (here, once, and not with the first cell)

    torch.set_num_threads(threads)
    if slot is not None and torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def do(task: Task) -> Outcome:
    """Do a task; whatever goes wrong is told, not raised."""
    try:
        if task.kind == TRAIN:
            return _train(from_dict(task.spec))
        if task.kind == CHECK:
            from flatlens import execute

            return Done(execute.sources(from_dict(task.spec)))
        return _cell(task)
    except DiskError as error:
        return Trouble(str(error), DISK)
    except FlatlensError as error:
        return Trouble(" ".join(str(error).split()), type(error).__name__)
    except (Exception, SystemExit) as error:  # a model's own code may do anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return Trouble(f"internal: {said}", type(error).__name__, traceback.format_exc())


def _train(spec: RunSpec) -> Done:
    from flatlens import trained

    assert spec.train is not None
    trained.find(spec.model, spec.train, **{key: getattr(spec, key) for key in TRUST})
    return Done()


def _cell(task: Task) -> Outcome:
    from flatlens import execute

    sweep, whole = Sweep(Path(task.root), {}), task.batches is None
    with sweep.claim(task.key, "" if task.batches is None else f".{task.batches[0]}"):
        if sweep.is_done(task.key):
            return Done()
        begun = _begin(task, sweep.work(task.key))
        missing = begun.run.missing()
        wanted = missing if task.batches is None else sorted(set(task.batches).intersection(missing))
        began = time.monotonic()
        execute.measure(begun, wanted, until=began + task.seconds)
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
    from flatlens import execute

    kept = _kept.pop(task.key, None)
    _kept.clear()
    if kept is not None and folder.is_dir():
        return kept
    spec = from_dict(task.spec)
    try:
        return execute.begin(spec, folder)
    except RunError:
        # It was begun with other weights or data than there are now.
        shutil.rmtree(folder)
        return execute.begin(spec, folder)


def _finish(begun: Begun) -> None:
    from flatlens import digest, execute
    from flatlens.report import page
    from flatlens.runs import disk, replacing

    trace = execute.finish(begun)
    with disk(begun.run.path), replacing(begun.run.path / "digest.json") as file:
        file.write(json.dumps(digest.digest(trace), allow_nan=False).encode())
    page.write([trace], begun.run.path / "report.html", plotly=PLOTLY)


def _die_with_parent(parent: int) -> None:
    # A worker whose supervisor was killed would go on beside the next one's.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
