"""What the folder of an immunization holds, read without torch: its figures, and its tables as columns.

immunization.json     what was asked for, all figures, and the hashes of the other files; written last
theta.safetensors     θ, float64
history.parquet       a row a step; where there were steps
attackers.parquet     how fast the probes are learnt; where there were targets
finetuning.parquet    accuracy and loss by epoch, where the whole network was fine-tuned
pairs.parquet         a row a pair of classes; of `flatlens pairs`, and then there is no θ
unfinished.npz        places of a search that has not ended; unfinished-finetuning.parquet: trials of a fine-tuning
report.html           the page
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.errors import RunError, one_line
from flatlens.files import borders
from flatlens.files.borders import DamageError
from flatlens.files.sealing import file_sha256

SUMMARY, THETA, UNFINISHED, PAGE = "immunization.json", "theta.safetensors", "unfinished.npz", "report.html"
HISTORY, ATTACKERS, FINETUNING, PAIRS = "history.parquet", "attackers.parquet", "finetuning.parquet", "pairs.parquet"
TRIALS = "unfinished-finetuning.parquet"
BEGUN = "unfinished-pairs.parquet"
FILES = (BEGUN, SUMMARY, THETA, UNFINISHED, HISTORY, ATTACKERS, FINETUNING, TRIALS, PAIRS, PAGE)
TABLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    HISTORY: ((), ("step", "i", "ii", "rir")),
    ATTACKERS: (("task", "extractor", "attacker"), ("iteration", "loss_gap")),
    FINETUNING: (("extractor", "optimizer", "task"), ("seed", "epoch", "accuracy")),
    PAIRS: (("primary", "harmful"), ("i", "ii", "rir", "bound", "heldout_i", "heldout_ii", "heldout_rir")),
}
"""File -> its columns of text and of numbers that are read."""
MOST_ROWS = 2_000_000
"""Rows of a table: more are no immunization's."""

Columns = dict[str, Any]


class Result(NamedTuple):
    """A finished immunization, as plain data.

    Attributes:
        told: the summary: what was asked for and all figures.
        tables: file -> column -> its values ``[rows]``, for each of `TABLES` that is there; the others are left out.
    """

    told: dict[str, Any]
    tables: dict[str, Columns]


def is_one(path: str | Path) -> bool:
    """Whether a folder holds a finished immunization."""
    return os.path.lexists(Path(path) / SUMMARY)


def read(path: Path) -> dict[str, Any]:
    """The summary of a finished result, its own hash and those of the other files checked.

    Raises:
        RunError: it is damaged, or no such folder.
    """
    try:
        told = borders.read_json(path / SUMMARY)
        changed = [
            name
            for name, digits in told["files"].items()
            if name not in FILES or file_sha256(borders.plain_file(path / name)) != digits
        ]
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise RunError(_damaged(path, one_line(error))) from error
    if changed:
        raise RunError(_damaged(path, f"{changed[0]} is not what was written"))
    return told


def result(path: Path) -> Result:
    """A finished result with its tables.

    Raises:
        RunError: it is damaged, or no such folder.
    """
    told = read(path)
    try:
        found = {name: _columns(path / name, *TABLES[name]) for name in TABLES if os.path.lexists(path / name)}
    except DamageError as error:
        raise RunError(_damaged(path, str(error))) from error
    return Result(told, {name: columns for name, columns in found.items() if columns})


def _columns(file: Path, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Columns:
    """The columns of a table; none of a table without rows."""
    content = borders.read_bytes(file)
    try:
        table = pq.read_table(io.BytesIO(content), columns=[*texts, *numbers])
        if table.num_rows > MOST_ROWS:
            raise DamageError(f"{file.name} has {table.num_rows:,} rows, and may have {MOST_ROWS:,}")
        if not table.num_rows:
            return {}
        found: Columns = {name: np.asarray(table[name].cast(pa.string()).to_pylist(), dtype=str) for name in texts}
        found |= {name: np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=float) for name in numbers}
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamageError(f"{file.name} is damaged ({one_line(error)})") from error
    return found


def _damaged(path: Path, why: str) -> str:
    return f"'{path}' holds no immunization, or a damaged one ({why}); --force makes it anew"
