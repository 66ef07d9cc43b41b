"""From a specification to a model, data and the samples that are asked for."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from flatlens import datasets, models
from flatlens.attacks.building import build, points_sha256
from flatlens.errors import DataError, SpecError
from flatlens.measure import load_language
from flatlens.measure.job import Job
from flatlens.measure.prepare import prepare
from flatlens.progress import Report
from flatlens.records.schema import MEASUREMENT_VERSION
from flatlens.records.valley import Ints
from flatlens.specs.run import RunSpec, demand_named
from flatlens.specs.trust import TRUST
from flatlens.specs.uris import parse
from flatlens.training import reached, recipes

DIGITS = "flatlens:digits"


class Loaded(NamedTuple):
    """A spec's job, its defaults filled in, and the identity of what went into it."""

    spec: RunSpec
    job: Job
    identity: dict[str, object]


def load(spec: RunSpec, progress: Report | None = None) -> Loaded:
    """Load what a spec names (training what it has a recipe for), choose the samples, and prepare the job."""
    demand_named(spec)
    spec = spec.resolved()
    if spec.of_language:
        raise SpecError(f"'{spec.model}' is a language model: this is of image classifiers")
    data = datasets.load(spec.data)
    chosen = samples_of(spec, data.y)
    loaded, immunized = _model(spec, tuple(data.x.shape[1:]), data.classes, progress)
    recorded = reached.on_record(loaded, spec.data)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    attack = build(spec, loaded.model)
    job = prepare(
        loaded.model,
        x[chosen],
        y[chosen],
        attack=attack,
        settings=spec.settings,
        ids=torch.from_numpy(data.ids)[chosen],
        pool=(x, y),
        study=_study(spec.data) if attack.learns else None,
        weights=loaded.sha256,
        recorded_accuracy=recorded,
    )
    identity: dict[str, object] = {
        "weights_sha256": loaded.sha256,
        "recipe_sha256": loaded.recipe_sha256,
        "data_sha256": data.sha256,
        "points_sha256": points_sha256(spec),
        "measurement_version": MEASUREMENT_VERSION,
        "recorded_accuracy": recorded,
        "trained": reached.told(loaded),
        "immunized": immunized,
        "labels": list(data.labels) if data.labels else None,
    }
    return Loaded(dataclasses.replace(spec, batch_size=job.batch_size), job, identity)


def sources(spec: RunSpec) -> dict[str, object]:
    """The hashes, as in a run's manifest, of what a run of ``spec`` would be made from; nothing is recipes."""
    spec = spec.resolved()
    if spec.of_language:
        return load_language.sources(spec)
    data = datasets.load(spec.data)
    found: dict[str, object] = {"data_sha256": data.sha256, "points_sha256": points_sha256(spec)}
    trust = {key: getattr(spec, key) for key in TRUST}
    if spec.train is not None:
        name, value = "recipe_sha256", recipes.recipe_sha256(spec.model, spec.train, **trust)
    else:
        shape = tuple(data.x.shape[1:])
        name, value = "weights_sha256", models.load(spec.model, shape=shape, classes=data.classes, **trust).sha256
    return found | {name: value if spec.immunize is None else _immunity().known_as(spec.immunize, value)}


def _study(data: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The training split of the same data, which an attack learns from; None of data that come in one part."""
    if parse(data, DataError).scheme not in datasets.SPLIT:
        return None
    found = datasets.load(datasets.with_split(data, "train"))
    return torch.from_numpy(found.x), torch.from_numpy(found.y)


def _model(
    spec: RunSpec, shape: tuple[int, ...], classes: int, progress: Report | None
) -> tuple[models.loaders.Loaded, dict[str, object] | None]:
    """The model, trained and immunized as the spec says, and what is to be told of its immunization."""
    trust = {key: getattr(spec, key) for key in TRUST}
    if spec.train is not None:
        loaded = recipes.obtain(spec.model, spec.train, progress=progress, **trust)
    else:
        loaded = models.load(spec.model, shape=shape, classes=classes, **trust)
    if spec.immunize is None:
        return loaded, None
    return _immunity().obtain(loaded, spec.immunize, device=spec.device, progress=progress)


def _immunity() -> ModuleType:
    # Immunization takes features, as what is measured does, and stands above it: it is looked up when it is asked for.
    from flatlens.immunity import of_runs

    return of_runs


def samples_of(spec: RunSpec, y: Ints) -> Ints:
    """Indices of the samples that a spec asks for, ascending; ``limit`` takes as many of each class as there are.

    They are the same for all seeds, so that runs of several seeds differ in nothing but their noise.

    Raises:
        DataError: a sample is asked for that the data do not have.
    """
    if spec.samples is not None:
        beyond = [i for i in spec.samples if i >= len(y)]
        if beyond:
            raise DataError(f"no sample {beyond[0]}; the data have {len(y)} samples, 0 … {len(y) - 1}")
        chosen = np.sort(np.asarray(spec.samples))
    else:
        chosen = np.arange(len(y))
    if spec.limit is None or spec.limit >= len(chosen):
        return chosen
    return chosen[datasets.balanced(y[chosen], spec.limit, spec.sample_seed or 0)]
