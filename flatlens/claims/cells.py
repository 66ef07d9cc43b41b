"""One claim on one network: its table, measured once and kept in a file."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.claims import catalogue, nets
from flatlens.claims.nets import Case, Net
from flatlens.claims.statistics import Table
from flatlens.errors import FlatlensError, one_line
from flatlens.files.atomic import disk, replacing, write_json
from flatlens.records.schema import MEASUREMENT_VERSION
from flatlens.wording import CautionWarning

VERSION = 1
"""Of how claims are measured: another one measures anew."""
CALL = "claims.cells:called"
"""What a worker is asked to call."""


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
        known += [self.net.weights] if self.net.weights else []
        said = json.dumps(known, sort_keys=True)
        return {"claim": self.claim, "net": self.net.name, "hash": hashlib.sha256(said.encode()).hexdigest()}

    @property
    def plain(self) -> dict[str, Any]:
        """As data that can travel to a worker."""
        return {"call": CALL, "claim": self.claim, "net": asdict(self.net), "size": self.size, "full": self.full}


def called(root: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Measure the cell that another process asks for; tells why it failed, or nothing."""
    return {"why": attempt(Cell(spec["claim"], Net(**spec["net"]), spec["size"], spec["full"]), Path(root))}


def attempt(cell: Cell, out: Path) -> str:
    """Measure a cell and keep its table; why it failed, in one line, or nothing."""
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


def read(cell: Cell, out: Path) -> Table | None:
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
