"""`reproduce`: claims tried on their networks, one table after the other, and what has been measured is kept.

In the folder::

    cells/C7/seed 30.parquet     the samples of one network
    cells/C7/seed 30.json        what they are of; written last
    claims.json, .csv, .md       verdicts and numbers
    index.html                   the page
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.claims import catalogue, nets, records
from flatlens.claims.claim import ROBUST, Claim
from flatlens.claims.nets import Case, Net
from flatlens.claims.statistics import Table
from flatlens.claims.verdict import NOT_RUN, Judged, judge
from flatlens.errors import FlatlensError, one_line
from flatlens.files.atomic import disk, replacing, write_json
from flatlens.progress import Progress, Report
from flatlens.records.claims import claimed
from flatlens.records.schema import MEASUREMENT_VERSION
from flatlens.wording import CautionWarning

VERSION = 1
"""Of how claims are measured: another one measures anew."""


@dataclass(frozen=True)
class Asked:
    """What is to be reproduced.

    Attributes:
        names: of the claims, in order.
        full: on five networks that are trained, else on the shipped one.
        models: the user's own networks instead, and ``twins`` of them that were trained against an attack.
        data: of these networks; their test split where there is one.
        eps: radius in linf.
        limit: samples of a network at most; the claim's own when None.
    """

    names: tuple[str, ...]
    full: bool = False
    models: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    data: str | None = None
    eps: float | None = None
    limit: int | None = None


class Cell(NamedTuple):
    """One claim on one network."""

    claim: str
    net: Net
    size: int
    full: bool

    @property
    def identity(self) -> dict[str, Any]:
        """What its table is of: another one is measured anew."""
        known = [VERSION, MEASUREMENT_VERSION, self.claim, self.size, self.full, self.net.data, self.net.eps]
        known += [self.net.seed, dict(self.net.uris), None]
        if self.net.trained:
            known[-1] = {**nets.TRAINING, **self.net.trainings}
        said = json.dumps(known, sort_keys=True)
        return {"claim": self.claim, "net": self.net.name, "hash": hashlib.sha256(said.encode()).hexdigest()}


def reproduce(asked: Asked, out: Path, *, workers: int = 1, progress: Report | None = None) -> list[Judged]:
    """Try the claims, write all that came out, and say the verdicts.

    What is in the folder already is not measured again. A claim that cannot be tried is ``not run``, with the reason;
    one whose network fails loses that network alone.

    Args:
        asked: what is to be reproduced.
        out: the folder.
        workers: networks at the same time, each in a process of its own.
        progress: called after each network.

    Raises:
        RunError: another process is at work in the folder.
        DiskError: it cannot be written.
    """
    known = {name: catalogue.claim(name) for name in asked.names}
    reasons = {name: _hindered(claim, asked) for name, claim in known.items()}
    cells = [cell for name, claim in known.items() if not reasons[name] for cell in _cells(claim, asked)]
    with disk(out), claimed(out):
        failures = _measured(cells, out, workers, progress)
        judged = [
            _judged(claim, reasons[name], [cell for cell in cells if cell.claim == name], failures, out)
            for name, claim in known.items()
        ]
        records.write(judged, out, full=asked.full)
    return judged


def _cells(claim: Claim, asked: Asked) -> list[Cell]:
    size = claim.sizes[1 if asked.full or asked.models else 0]
    size = size if asked.limit is None else min(size, asked.limit)
    found = nets.chosen(claim, full=asked.full, models=asked.models, twins=asked.twins, data=asked.data, eps=asked.eps)
    return [Cell(claim.name, net, size, asked.full) for net in found]


def _hindered(claim: Claim, asked: Asked) -> str:
    """Why a claim cannot be tried, and how it could be; empty where it can."""
    if missing := [f"{name} ({how})" for name, how in (claim.needs or {}).items() if find_spec(name) is None]:
        return f"needs {missing[0]}"
    if asked.models and claim.own_models:
        return claim.own_models
    if asked.models and ROBUST in claim.kinds and len(asked.twins) < len(asked.models):
        return "needs a twin of each model that was trained against an attack: --twin MODEL"
    if claim.full_only and not asked.full and not asked.models:
        return f"{claim.full_only}; --full runs it"
    return ""


def _measured(cells: Sequence[Cell], out: Path, workers: int, progress: Report | None) -> dict[tuple[str, str], str]:
    """Measure what is missing, and say what failed: (claim, network) -> why."""
    missing = [cell for cell in cells if _read(cell, out) is None]
    done, failures = len(cells) - len(missing), {}

    def tell(cell: Cell | None) -> None:
        if progress is not None:
            what = "claims" if cell is None else f"{cell.claim} on {cell.net.name}"
            progress(Progress(done, max(len(cells), 1), what))

    tell(None)
    if workers <= 1 or len(missing) <= 1:
        results = ((cell, _try(cell, out)) for cell in missing)
        for cell, why in results:
            done += 1
            failures.update({(cell.claim, cell.net.name): why} if why else {})
            tell(cell)
        return failures
    with ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn"), _one_thread) as pool:
        # Networks are trained once: the first of a seed trains, the others wait for its lock and find it.
        for cell, why in zip(missing, pool.map(_try, missing, [out] * len(missing)), strict=True):
            done += 1
            failures.update({(cell.claim, cell.net.name): why} if why else {})
            tell(cell)
    return failures


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _try(cell: Cell, out: Path) -> str:
    """Measure one cell and keep its table; why it failed, in one line, or nothing."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():  # a claim has caveats of its own
            warnings.simplefilter("ignore", CautionWarning)
            table = catalogue.module(cell.claim).measure(Case(cell.net, cell.size, cell.full))
    except FlatlensError as error:
        return str(error)
    except (MemoryError, RuntimeError, ValueError) as error:
        return one_line(error, kind=True)
    _write(cell, table, out, time.perf_counter() - began)
    return ""


def _place(cell: Cell, out: Path) -> Path:
    return out / "cells" / cell.claim / f"{quote(cell.net.name, safe=' ')[:120]}.parquet"


def _write(cell: Cell, table: Table, out: Path, seconds: float) -> None:
    file = _place(cell, out)
    with disk(out):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as opened:
            pq.write_table(pa.table({name: np.asarray(values) for name, values in table.items()}), opened)
        write_json(file.with_suffix(".json"), {**cell.identity, "seconds": round(seconds, 2)})


def _read(cell: Cell, out: Path) -> Table | None:
    """The table of a cell; None where there is none of it, or a damaged one."""
    file = _place(cell, out)
    try:
        told = json.loads(file.with_suffix(".json").read_text())
        if told.get("hash") != cell.identity["hash"]:
            return None
        table = pq.read_table(file)
    except (OSError, ValueError, pa.ArrowException, AttributeError):
        return None
    return {name: table[name].to_numpy() for name in table.column_names}


def _judged(
    claim: Claim, reason: str, cells: Sequence[Cell], failures: Mapping[tuple[str, str], str], out: Path
) -> Judged:
    if reason:
        return Judged(claim, NOT_RUN, reason, [], 0, 0)
    tables = [table for cell in cells if (table := _read(cell, out)) is not None]
    lost = [f"{net}: {why}" for (name, net), why in failures.items() if name == claim.name]
    if not tables:
        return Judged(claim, NOT_RUN, "; ".join(lost), [], 0, 0)
    found = judge(claim, tables)
    return found._replace(why=f"{found.why}. Without {'; '.join(lost)}") if lost else found
