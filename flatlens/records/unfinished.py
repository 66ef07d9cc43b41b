"""The finished batches of a run that is under way, as a `Trace`: what can be seen of it so far. No torch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

from flatlens.errors import RunError
from flatlens.files import borders
from flatlens.files.borders import DamageError, inside
from flatlens.records import stored
from flatlens.records.runs import Run
from flatlens.records.schema import Caution, Gradients, Images
from flatlens.records.trajectory import Trace

CODE = "unfinished"


def trace(run: Run) -> Trace:
    """What has been measured so far, with a caution that says how far that is.

    A batch is taken as a whole or not at all; one that is damaged, or that is joined with the others and removed just
    now, is left out.

    Raises:
        RunError: no batch is finished yet, or the run's specification is damaged.
    """
    folder, total = inside(run.path, "parts"), run.manifest["batches"]
    missing = set(run.missing())
    found = []
    for index in (i for i in range(total) if i not in missing):
        try:
            found.append(_batch(run, index))
        except (DamageError, FileNotFoundError):
            continue
    if not found:
        raise RunError(f"the run in '{run.path}' has no finished batch in '{folder.name}' yet: wait for it")
    steps, layers = (pa.concat_tables([batch[name] for batch in found]) for name in ("steps", "layers"))
    try:
        stored.check_points(steps, layers)
    except DamageError as error:
        raise RunError(f"the batches of the run in '{run.path}' are damaged: {error}") from error
    said = f"{len(found)} of {total} batches are finished: all numbers are of their samples alone, and will change."
    return Trace(
        steps,
        layers,
        run.settings(),
        cautions=(Caution(CODE, said),),
        images=_joined(Images, [batch["images"] for batch in found]),
        labels=tuple(run.manifest.get("labels") or ()) or None,
        manifest=run.manifest,
        gradients=_joined(Gradients, [batch["gradients"] for batch in found]),
    )


def _batch(run: Run, index: int) -> dict[str, Any]:
    folder, prefix = inside(run.path, "parts"), f"{index:05d}."
    files: dict[str, str] | None = None
    if os.path.lexists(folder / f"{prefix}json"):  # a batch of before hashes were kept has none
        sums: Any = borders.read_json(folder / f"{prefix}json").get("files")
        if not borders.HASHES.holds(sums):
            raise DamageError(f"{prefix}json tells no hashes")
        files = {f"{prefix}{name}": digits for name, digits in sums.items()}
    batch: dict[str, Any] = {name: stored.table(folder, name, files, prefix) for name in ("steps", "layers")}
    for name, read in (("images", stored.images), ("gradients", stored.gradients)):
        file = f"{prefix}{name}.safetensors"
        there = os.path.lexists(folder / file) if files is None else file in files
        batch[name] = read(folder / file, files) if there else None
    return batch


def _joined(made: Any, parts: list[Any]) -> Any:
    """Inputs of all batches, by sample, then step; None where a batch has none, or others of another shape."""
    if any(part is None for part in parts) or len({part[0].shape[1:] for part in parts}) != 1:
        return None
    if made is Images and len({part.probabilities.shape[1:] for part in parts}) != 1:
        return None
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in made._fields}
    order = np.lexsort((joined["step"], joined["sample"]))
    return made(**{name: values[order] for name, values in joined.items()})
