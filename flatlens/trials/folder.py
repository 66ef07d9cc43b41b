"""A trial's result on a disk: ``NAME.parquet``, a row a sample, and ``NAME.json``, all figures."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from flatlens.errors import RunError
from flatlens.files.atomic import disk, write_file, write_json

if TYPE_CHECKING:
    import pandas as pd


def plain(value: Any) -> Any:
    """A value of a result as JSON has it: not finite is None, a share is ``{value, low, high, n}``."""
    if hasattr(value, "item") and not isinstance(value, (list, tuple, dict)):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "_asdict"):
        return {key: plain(item) for key, item in value._asdict().items() if key != "count"}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """A table as a pandas DataFrame.

    Raises:
        RunError: pandas is not there.
    """
    try:
        return table.to_pandas()
    except ImportError as error:
        raise RunError("to_pandas needs pandas: pip install 'flatlens[pandas]'") from error


def demand_free(place: str | Path, name: str, *, force: bool = False) -> Path:
    """Refuse a place that cannot take a result, before anything is computed.

    Raises:
        RunError: it is a file, or holds such a result already.
    """
    path = Path(place)
    if path.exists() and not path.is_dir():
        raise RunError(f"--out '{path}' is a file; name a folder")
    if not force and (path / f"{name}.json").exists():
        raise RunError(f"--out '{path}' holds {name}.json already; name another folder, or replace it with --force")
    return path


def save(place: str | Path, name: str, table: pa.Table, record: dict[str, Any], *, force: bool = False) -> Path:
    """Write a result, its figures last.

    Args:
        place: the folder; made where it is not there.
        name: of the trial.
        table: a row a sample.
        record: all figures, as plain data.
        force: replace what is there.
    """
    path = demand_free(place, name, force=force)
    content = io.BytesIO()
    pq.write_table(table, content)
    with disk(path):
        path.mkdir(parents=True, exist_ok=True)
        write_file(path / f"{name}.parquet", content.getvalue())
        write_json(path / f"{name}.json", record)
    return path
