"""A finished run's files as a `Trace`: each is verified, and what a run has not got is None. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlens.records import columnwise, prompts, stored
from flatlens.records.columnwise import StoredTable
from flatlens.records.schema import TABLES, Caution
from flatlens.records.trajectory import Trace

if TYPE_CHECKING:
    from flatlens.records.runs import Run

SMALL = 8_000_000
"""Bytes of tables that are read whole in any case."""


def trace(run: Run, *, whole: bool) -> Trace:
    """The run's tables, and what else it has kept. See `flatlens.records.runs.Run.trace`.

    Raises:
        DamageError: a file is damaged.
        FileNotFoundError: a table is missing.
    """
    path, files = run.path, run.files
    tables: dict[str, Any]
    # Opening a small run's tables once for each column would take longer than the work that they are read for.
    if whole or sum((path / f"{name}.parquet").stat().st_size for name in TABLES) < SMALL:
        tables = {name: stored.table(path, name, files) for name in TABLES}
    else:
        found = {name: stored.table_file(path, name, files) for name in TABLES}
        tables = {name: StoredTable(file, TABLES[name].schema) for name, file in found.items()}
    stored.check_points(tables["steps"], tables["layers"])
    images = gradients = None
    if (kept := run.kept("images.safetensors")) is not None:
        images = stored.images(kept, files) if whole else columnwise.unread(stored.image_file(kept, files))
    if (kept := run.kept("gradients.safetensors")) is not None:
        gradients = (
            stored.gradients(kept, files) if whole else columnwise.unread_gradients(stored.gradient_file(kept, files))
        )
    return Trace(
        tables["steps"],
        tables["layers"],
        run.settings(),
        cautions=tuple(Caution(c["code"], c["message"]) for c in run.manifest.get("warnings") or ()),
        images=images,
        labels=tuple(run.manifest.get("labels") or ()) or None,
        manifest=run.manifest,
        spectrum=_table(run, "spectrum"),
        gradients=gradients,
        surfaces=None if (kept := run.kept("surfaces.safetensors")) is None else stored.surfaces(kept, files),
        peers=_table(run, "peers"),
        condition=_table(run, "condition"),
        positions=_table(run, "positions"),
        tokens=_table(run, "tokens"),
        prompts=None if (kept := run.kept("prompts.json")) is None else prompts.read(kept, files),
        embeddings=None if (kept := run.kept("embeddings.safetensors")) is None else stored.embeddings(kept, files),
    )


def _table(run: Run, name: str) -> Any:
    there: Path | None = run.kept(f"{name}.parquet")
    return None if there is None else stored.table(run.path, name, run.files)
