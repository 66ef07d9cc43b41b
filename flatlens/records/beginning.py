"""How a run begins in a folder, is gone on with there, or gives way to another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flatlens.errors import RunError, StaleRunError
from flatlens.files.atomic import clear_leftovers, disk, write_file
from flatlens.records.claims import LOCK
from flatlens.records.runs import FILES, FINISHED, RUNNING, Run, load
from flatlens.records.schema import MEASUREMENT_VERSION, SCHEMA_VERSION
from flatlens.specs.run import RunSpec, difference


def create(path: Path, spec: RunSpec, manifest: dict[str, Any], *, parents: bool = True) -> Run:
    """Begin a run in a folder that holds none; the folders around it are made too, if ``parents``."""
    run = Run(path, {"schema_version": SCHEMA_VERSION, "state": RUNNING} | manifest, "new")
    with disk(path):
        path.mkdir(parents=parents, exist_ok=True)
        clear_leftovers(path)
        write_file(path / "spec.toml", spec.to_toml().encode())
        run.write_manifest()
    return run


def existing(path: Path, *, force: bool = False) -> Run | None:
    """The run that a folder already holds, or None; None as well with ``force``, which replaces it: see `remove`.

    Raises:
        RunError: the folder holds other things.
        StaleRunError: the run is damaged.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"--out '{path}' is a file; name a folder")
    # A run that was killed while it began leaves its spec, or a file under its temporary name: no loss.
    ours = {"spec.toml", *LOCK} | ({p.name for p in path.iterdir() if p.suffix == ".tmp"} if path.exists() else set())
    if not path.exists() or all(p.name in ours for p in path.iterdir()):
        return None
    if not os.path.lexists(path / "manifest.json"):
        raise RunError(f"--out '{path}' holds other files and no run; name a new or an empty folder")
    return None if force else load(path)


def demand_current(run: Run) -> None:
    """Refuse to go on with a run, finished or not, whose numbers another version of flatlens measures otherwise.

    Raises:
        StaleRunError: it is of another measurement version.
    """
    version = run.manifest.get("measurement_version")
    if version == MEASUREMENT_VERSION:
        return
    kept = (
        "it opens, reports and exports as before"
        if run.finished
        else f"its {run.manifest['batches'] - len(run.missing())} finished batches are not mixed with new ones"
    )
    raise StaleRunError(
        f"'{run.path}' holds a run of measurement version {version}, and this flatlens measures by version "
        f"{MEASUREMENT_VERSION} (what --seed draws has changed, and columns are new): {kept}; choose another --out, or "
        "replace it with --force"
    )


def remove(path: Path) -> None:
    """Remove the run in a folder, whatever its state; of a link, the link. Its replacement is prepared by now.

    Raises:
        DiskError: a file cannot be removed.
    """
    with disk(path):
        # The manifest goes last: until then the folder is known to be a run's.
        drawn = (f"report.{ending}" for ending in ("html", "svg", "png", "pdf"))
        for name in ("parts", *FILES, "digest.json", *drawn, "manifest.json"):
            found = path / name
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)


def resume(run: Run, spec: RunSpec, manifest: Mapping[str, Any], *, whole: bool = True) -> Run:
    """Go on with a run, which must be of the same spec, weights, data and measurement version.

    Damaged batches are measured again, unless other processes may be at work on some (``whole`` is false).

    Raises:
        StaleRunError: it is not; the message says in what it differs.
    """
    differs = [text for text in difference(spec, run.spec) if not text.startswith("device ")]
    for key, name in (
        ("weights_sha256", "weights"),
        ("data_sha256", "data"),
        ("points_sha256", "points"),
        ("tokens_sha256", "tokens (another tokenizer, or chat template)"),
        ("measurement_version", "measurement version"),
        ("batches", "number of batches"),
    ):
        if run.manifest.get(key) != manifest.get(key):
            differs.append(f"other {name}")
    if differs:
        raise StaleRunError(
            f"'{run.path}' holds another run: {', '.join(differs)}; choose another --out, or replace it with --force"
        )
    run.resumed = FINISHED if run.finished else "resumed"
    if run.finished:  # and killed before it had dropped its parts
        shutil.rmtree(run.path / "parts", ignore_errors=True)
    elif whole:
        run.drop_damaged()
    return run
