"""The immunized model of a run, by its table ``[immunize]``: made once, kept in the cache, and found again."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatlens import datasets
from flatlens.datasets import Dataset
from flatlens.errors import DataError, RunError
from flatlens.files.atomic import disk
from flatlens.files.locks import file_lock
from flatlens.files.places import cache
from flatlens.immunity import folder
from flatlens.immunity.immunize import Asked, checked, of_tasks
from flatlens.immunity.of_models import one_hot
from flatlens.immunity.result import Immunized
from flatlens.immunity.tasks import Task, both
from flatlens.measure.features import features
from flatlens.measure.prepare import device_of
from flatlens.models.appended import appended
from flatlens.models.loaders import Loaded
from flatlens.progress import Report
from flatlens.specs.immunize import ImmunizeSpec, classes

VERSION = 1
"""Of the way models are immunized: a change of it immunizes anew."""
BATCH = 256
"""Samples whose features are taken at a time."""


def obtain(
    loaded: Loaded, spec: ImmunizeSpec, *, device: str = "auto", progress: Report | None = None
) -> tuple[Loaded, dict[str, Any]]:
    """A model with θ appended, which is found in the cache, or now, and what a run's manifest tells of it.

    Args:
        loaded: the model as it is.
        spec: with its data.
        device: where features are taken.
        progress: called after each step of a search.

    Returns:
        The model, whose hashes are those of what it is made from, as `known_as` has them; and `told`.

    Raises:
        DataError: data that cannot be.
        DiskError: the cache cannot be written.
    """
    parts = _parts(spec)
    taken = [
        features(loaded.model, torch.from_numpy(part.x), spec.layer, batch_size=BATCH, device=device_of(device))
        for part in parts
    ]
    tasks = both(*((one.x, one_hot(part.y)) for one, part in zip(taken, parts, strict=True)))
    asked = _asked(spec)
    name = known_as(spec, loaded.recipe_sha256 or loaded.sha256)
    place = cache() / "immunized" / name[:32]
    with disk(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    # Whoever else immunizes the same is waited for, and then has done the work.
    with file_lock(place.parent / f".{place.name}.lock", root=place.parent):
        known = {"model": name}
        try:
            found = _found(place, known, tasks, asked, progress)
        except RunError:  # damaged, or of another flatlens
            found = _found(place, known, tasks, asked, progress, force=True)
    model = appended(loaded.model, taken[0].target, torch.from_numpy(found.theta)).eval()
    hashes = {"sha256": known_as(spec, loaded.sha256)}
    if loaded.recipe_sha256 is not None:
        hashes["recipe_sha256"] = name
    return replace(loaded, model=model, source=f"{loaded.source}, θ appended", **hashes), told(found)  # type: ignore[arg-type]


def known_as(spec: ImmunizeSpec, sha256: str) -> str:
    """The hash of what an immunized model is made from: a model by its own hash, and the table with its data."""
    data = [part.sha256 for part in _parts(spec)]
    known = json.dumps([VERSION, sha256, spec.to_dict(), data], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()


def told(found: Immunized) -> dict[str, Any]:
    """What a run's manifest tells of an immunization; None of what is not known.

    Returns:
        ``method``, ``stop``; ``i``, ``ii``, ``rir``, ``bound``, and the first three held out; and the shares of the
        loss that plain gradient descent leaves: ``harmful_left``, ``primary_left``, and each ``_before``.
    """
    plain = {name: _number(getattr(found, name)) for name in ("i", "ii", "rir", "bound")}
    held = found.heldout._asdict() if found.heldout is not None else dict.fromkeys(("i", "ii", "rir"))
    left = {}
    for task in ("harmful", "primary"):
        for extractor, ending in (("immunized", ""), ("identity", "_before")):
            left[f"{task}_left{ending}"] = _left(found, task, extractor)
    aside = {f"heldout_{name}": _number(value) for name, value in held.items()}
    return {"method": found.method, "stop": found.stop, **plain, **aside, **left}


def _left(found: Immunized, task: str, extractor: str) -> float | None:
    if found.attackers is None:
        return None
    wanted = ("gradient-descent", task, extractor)
    rows = [row for row in found.attackers.to_pylist() if (row["attacker"], row["task"], row["extractor"]) == wanted]
    return _number(rows[-1]["loss_gap"]) if rows else None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _found(
    place: Path,
    known: dict[str, Any],
    tasks: tuple[Task, Task],
    asked: Asked,
    progress: Report | None,
    *,
    force: bool = False,
) -> Immunized:
    with folder.opened(place, known, force=force) as kept:
        return kept.result() or kept.finish(of_tasks(*tasks, asked, kept, progress))


def _asked(spec: ImmunizeSpec) -> Asked:
    return checked(
        spec.method,
        ridge=spec.ridge,
        delta=spec.delta,
        balance=spec.balance,
        target=spec.target,
        max_cond=spec.max_cond,
        steps=spec.steps,
        holdout=spec.holdout,
        seed=spec.seed,
    )


def _parts(spec: ImmunizeSpec) -> list[Dataset]:
    """The samples of both tasks: the primary one's, the harmful one's."""
    found = []
    for name in ("primary", "harmful"):
        data, wanted = datasets.load(str(getattr(spec, name))), classes(name, getattr(spec, f"{name}_classes"))
        if absent := sorted(set(wanted) - set(data.y.tolist())):
            raise DataError(f"'{data.uri}' has no sample of class {absent[0]}; its classes are 0 to {data.classes - 1}")
        part = data.take(np.flatnonzero(np.isin(data.y, wanted))) if wanted else data
        if spec.limit is not None and spec.limit < len(part.y):
            part = part.take(datasets.balanced(part.y, spec.limit, 0))
        found.append(part)
    if found[0].shape != found[1].shape:
        raise DataError(
            f"'{spec.primary}' has inputs of shape {list(found[0].shape)} and '{spec.harmful}' of "
            f"{list(found[1].shape)}; one model takes inputs of one shape"
        )
    return found
