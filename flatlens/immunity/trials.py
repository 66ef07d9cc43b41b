"""Finished trials of a fine-tuning that is under way, kept in the result's folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.files.atomic import disk, write_file
from flatlens.immunity.fine_tuning import SCHEMA, Done, Trial

FILE = "unfinished-finetuning.parquet"
_IDENTITY = b"flatlens.identity"
_SCHEMA = pa.schema([*SCHEMA, ("rate", pa.float64()), ("training_loss", pa.float64())])


class KeptTrials:
    """Trials in a file; those of another fine-tuning, or of a damaged file, count as none.

    Args:
        folder: of the result.
        identity: what the fine-tuning is of.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._file, self._identity = folder / FILE, repr(identity).encode()
        self._rows = self._read()

    def found(self, trial: Trial) -> Done | None:
        """What became of a trial that was finished before."""
        mine = [row for row in self._rows if _trial(row) == trial]
        if not mine:
            return None
        return Done(mine[0]["training_loss"], [{name: row[name] for name in SCHEMA.names} for row in mine])

    def keep(self, trial: Trial, done: Done) -> None:
        """Keep one that is finished."""
        self._rows += [row | {"rate": trial.rate, "training_loss": done.training_loss} for row in done.rows]
        out = io.BytesIO()
        table = pa.Table.from_pylist(self._rows, _SCHEMA.with_metadata({_IDENTITY: self._identity}))
        pq.write_table(table, out)
        with disk(self._file):
            write_file(self._file, out.getvalue())

    def _read(self) -> list[dict[str, Any]]:
        try:
            table = pq.read_table(io.BytesIO(self._file.read_bytes()))
            same = (table.schema.metadata or {}).get(_IDENTITY) == self._identity
            return table.cast(_SCHEMA).to_pylist() if same else []
        except Exception:  # a damaged file raises whatever its bytes provoke; the trials are made anew
            return []


def _trial(row: dict[str, Any]) -> Trial:
    return Trial(row["extractor"], row["optimizer"], row["rate"], row["seed"])
