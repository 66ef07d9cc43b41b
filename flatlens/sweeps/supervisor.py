"""`run_sweep`: from a sweep file to a folder of finished cells, whatever is killed on the way (no torch here)."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from flatlens.errors import DiskError, RunError, SpecError
from flatlens.progress import Progress, Report
from flatlens.records import runs
from flatlens.specs.run import RunSpec
from flatlens.sweeps import finished, grid
from flatlens.sweeps.engines import (
    CELL,
    CHECK,
    DIED,
    DISK,
    LOST,
    TRAIN,
    Done,
    Engine,
    More,
    Task,
    Trouble,
    starting,
)
from flatlens.sweeps.engines.worker import PLOTLY
from flatlens.sweeps.folder import Failure, Sweep
from flatlens.sweeps.owners import save_plan, supervised

PIECE = 60.0
"""Seconds after which a cell hands over the batches that it has not begun, for other workers to help."""
TRIES = {DIED: 2, LOST: 10}
"""How often a part of a cell is begun: a second death of its process is taken for its own fault. The loss of a machine
is not, but a cell might be what breaks them."""


class Result(NamedTuple):
    """What became of a sweep's cells: of this shard, where there are several.

    ``done`` and ``failed`` are counts at the end, ``new`` of the cells that were finished now.
    """

    sweep: Sweep
    done: int
    failed: int
    new: int
    notes: list[str]


def run_sweep(
    file: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    shard: tuple[int, int] = (1, 1),
    retry: bool = False,
    timeout: float | None = None,
    piece: float = PIECE,
    gpus: float | None = None,
    progress: Report | None = None,
    trust_pickle: bool = False,
    trust_remote_code: bool = False,
    download: bool = False,
    trust_code: bool = False,
) -> Result:
    """Do what is missing of a sweep.

    Args:
        file: the sweep file.
        out: the results folder. What is finished in it is left as it is; new cells amend it.
        workers: how many cells at the same time; when left out one for each GPU, or else one for each core.
        engine: ``local`` or ``ray``.
        address: of a Ray cluster; one is started on this machine when left out.
        shard: (i, n) does every n-th cell, from the i-th, 1 ≤ i ≤ n: for several machines with one results folder.
        retry: begin again what has failed.
        timeout: seconds after which a cell is given up.
        piece: seconds after which a cell's remaining batches are shared out among the workers.
        gpus: of a cell, on a Ray cluster; 0.5 for two cells on each. 1 when left out, where there are any.
        progress: called after each cell.
        trust_pickle: the sweep file may let pickled weights and exported programs run code.
        trust_remote_code: so may it Python files beside an ``hf:`` model.
        download: weights of hubs' models that are missing may be fetched by network.
        trust_code: so may it models that are code.

    Raises:
        SpecError: the file is no sweep, or a value cannot be.
        RunError: the folder holds something else, or another supervisor is at work on it.
        DiskError: the disk is full, or the folder was removed; what was finished is saved.
    """
    file, out = Path(file), Path(out)
    starting.shard_of((), shard)
    starting.check(engine, workers, address, gpus)
    if timeout is not None and not timeout > 0:
        raise SpecError(f"--timeout {timeout:g}: needs a number of seconds above 0")
    trust = {"trust_pickle": trust_pickle, "trust_remote_code": trust_remote_code, "download": download}
    trust["trust_code"] = trust_code
    found = grid.read(file, **trust)
    mine = starting.shard_of(found.cells, shard)
    if not mine:
        cells = "1 cell" if len(found.cells) == 1 else f"{len(found.cells):,} cells"
        raise SpecError(
            f"--shard {shard[0]}/{shard[1]}: has nothing to do, as the sweep has {cells}; use at most as many shards"
        )
    with supervised(out, found.cells, found.text, shard) as sweep:
        _dress(sweep)
        accelerated = any(cell.spec.device != "cpu" for cell in mine)
        made = starting.start(engine, workers, address, gpus, accelerated=accelerated)
        try:
            work = _Supervisor(sweep, mine, made, retry, timeout, piece, progress)
            work.run()
        finally:
            made.stop()
        states = [sweep.is_done(cell.key) for cell in mine]
        result = Result(sweep, sum(states), len(states) - sum(states), work.new, found.notes + sweep.notes + work.notes)
    return result


def _dress(sweep: Sweep) -> None:
    """Give the cells' pages what they share, and draw those again that were emptied or removed."""
    from flatlens.report import html_file, page

    page.save_plotly(sweep.path)
    for key in finished.keys(sweep):
        file = sweep.cell(key) / "report.html"
        if not html_file.is_whole(file):
            with contextlib.suppress(RunError):  # a damaged cell is told of elsewhere
                page.write([finished.trace(sweep, key)], file, plotly=PLOTLY)


class _Supervisor:
    """Gives tasks to workers, and keeps what comes of them."""

    def __init__(
        self,
        sweep: Sweep,
        cells: list[grid.Cell],
        engine: Engine,
        retry: bool,
        timeout: float | None,
        piece: float,
        progress: Report | None,
    ) -> None:
        self.sweep, self.engine, self.timeout, self.piece, self.progress = sweep, engine, timeout, piece, progress
        self.new, self.notes = 0, list[str]()
        self.specs = {cell.key: cell.spec.to_dict() for cell in cells}
        self.ready: deque[Task] = deque()
        self.waiting: dict[str, list[str]] = {}  # recipe -> cells that need its model
        self.parts: Counter[str] = Counter()  # cell -> parts of it that are not over
        self.tries: Counter[tuple[Any, ...]] = Counter()
        self.given_up: set[str] = set()
        self.left = 0
        done, failed = sweep.keys("cells"), sweep.keys("failed")
        self._check([key for key in self.specs if key in done])
        self._tell_kept([key for key in self.specs if key in done])
        for key in self.specs:
            if key in done or (key in failed and not retry):
                continue
            self._plan(key)

    def _tell_kept(self, keys: list[str]) -> None:
        """Which inputs are kept changes no number: finished cells are not measured anew for them."""
        kept = Counter[tuple[str, str]]()
        for key in keys:
            had, wanted = (spec.get("images", RunSpec.images) for spec in (self.sweep.plan[key], self.specs[key]))
            if had != wanted:
                kept[had, wanted] += 1
        for (had, wanted), n in kept.items():
            cells = "finished cell keeps its" if n == 1 else "finished cells keep their"
            self.notes.append(
                f"{n:,} {cells} inputs as they are, images = {had}, and not {wanted}: for those, remove them from "
                f"'{self.sweep.path / 'cells'}', or name another --out"
            )

    def run(self) -> None:
        """Until nothing is left to do."""
        busy, total = 0, self.left
        while self.ready or busy:
            while self.ready and busy < self.engine.slots:
                task = self.ready.popleft()
                self.engine.submit(task, self.timeout if task.kind == CELL else None)
                busy += 1
            task, outcome = self.engine.next()
            busy -= 1
            if isinstance(outcome, Trouble) and outcome.kind == DISK:
                raise DiskError(outcome.error)
            getattr(self, f"_after_{task.kind}")(task, outcome)
            total = max(total, self.left + self.new)
            if self.progress is not None:
                self.progress(Progress(total - self.left, total, self._what(task)))

    def _what(self, task: Task) -> str:
        return "training" if task.kind == TRAIN else "checking" if task.kind == CHECK else "measuring"

    # ---- cells ----------------------------------------------------------------------------------

    def _plan(self, key: str) -> None:
        """A cell is to be done: now, or when its model is trained."""
        self.left += 1
        self.sweep.forgive(key)
        spec = self.specs[key]
        if "train" not in spec:
            self.ready.append(self._task(key))
            return
        recipe = json.dumps([spec["model"], spec["train"]], sort_keys=True)
        if recipe not in self.waiting:
            self.waiting[recipe] = []
            self.ready.append(self._task(key, TRAIN))
        self.waiting[recipe].append(key)

    def _task(self, key: str, kind: str = CELL, batches: tuple[int, ...] | None = None) -> Task:
        return Task(str(self.sweep.path.absolute()), kind, key, self.specs[key], batches, self.piece)

    def _after_cell(self, task: Task, outcome: Done | More | Trouble) -> None:
        key = task.key
        if isinstance(outcome, More):
            size = max(1, round(self.piece / max(outcome.seconds, 1e-9)))
            # No larger than lets every worker help.
            size = min(size, -(-len(outcome.batches) // self.engine.slots))
            parts = [outcome.batches[i : i + size] for i in range(0, len(outcome.batches), size)]
            self.parts[key] = len(parts)
            self.ready.extendleft(self._task(key, batches=part) for part in reversed(parts))
        elif isinstance(outcome, Trouble):
            if self._again(task, outcome):
                return
            self.ready = deque(other for other in self.ready if other.key != key or other.kind != CELL)
            if key not in self.given_up:
                self._fail([key], outcome, task)
        elif task.batches is not None:
            self.parts[key] -= 1
            if self.parts[key] == 0 and key not in self.given_up:
                self.ready.appendleft(self._task(key))
        else:
            self.new += 1
            self.left -= 1

    def _again(self, task: Task, trouble: Trouble) -> bool:
        """Once more, if that may help: its process died for the first time, or its machine was lost."""
        if trouble.kind not in TRIES:
            return False
        # Of a part of a cell: a large one may well lose several workers, one after the other.
        tried = (task.kind, task.key, task.batches, trouble.kind)
        self.tries[tried] += 1
        if self.tries[tried] >= TRIES[trouble.kind] or task.key in self.given_up:
            return False
        self.ready.appendleft(task)
        return True

    def _fail(self, keys: Iterable[str], trouble: Trouble, task: Task) -> None:
        # Of the other kinds the first one is the last: it is not among the tries that are counted.
        tries = sum(self.tries[task.kind, task.key, task.batches, kind] for kind in TRIES) + (trouble.kind not in TRIES)
        for key in keys:
            self.sweep.fail(key, Failure(trouble.error, trouble.kind, trouble.details, time.time(), tries))
            self.given_up.add(key)
            self.left -= 1

    # ---- the models that recipes name -----------------------------------------------------------

    def _after_train(self, task: Task, outcome: Done | More | Trouble) -> None:
        if isinstance(outcome, Trouble) and self._again(task, outcome):
            return
        spec = self.specs[task.key]
        keys = self.waiting.pop(json.dumps([spec["model"], spec["train"]], sort_keys=True))
        if isinstance(outcome, Trouble):
            self._fail(keys, outcome._replace(error=f"training: {outcome.error}"), task)
        else:
            self.ready.extend(self._task(key) for key in keys)

    # ---- whether what is finished is still of today's models and data ---------------------------

    def _check(self, keys: list[str]) -> None:
        self.alike: dict[str, list[str]] = {}
        by_sources: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            spec = self.specs[key]
            named = [spec.get(name) for name in ("model", "data", "train", "immunize", "attack")]
            by_sources[json.dumps(named, sort_keys=True)].append(key)
        for found in by_sources.values():
            self.alike[found[0]] = found
            self.ready.append(self._task(found[0], CHECK))

    def _after_check(self, task: Task, outcome: Done | More | Trouble) -> None:
        if isinstance(outcome, Trouble) and self._again(task, outcome):
            return
        keys = self.alike.pop(task.key)
        if not isinstance(outcome, Done) or outcome.found is None:
            said = outcome.error if isinstance(outcome, Trouble) else "nothing was found"
            cells = "finished cell is" if len(keys) == 1 else "finished cells are"
            self.notes.append(f"{len(keys)} {cells} kept, and could not be checked: {said}")
            return
        for key in keys:
            if _differs(self.sweep.cell(key), outcome.found):
                self.sweep.set_aside(key)
                self.sweep.plan[key] = self.specs[key]
                save_plan(self.sweep.path, self.sweep.plan)
                self.notes.append(f"cell {key} was of other weights or data: it is done again, the old is in replaced/")
                self._plan(key)


def _differs(cell: Path, found: dict[str, Any]) -> bool:
    """Whether a finished cell was made from something else; a manifest that cannot be read is no proof of anything."""
    try:
        manifest = runs.load(cell).manifest
    except RunError:
        return True
    return any(manifest.get(name) != value for name, value in found.items())
