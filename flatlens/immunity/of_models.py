"""Immunization by names: of a model's features on two data sets, with θ appended to the model; or of two tables."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import nn

from flatlens import datasets, models
from flatlens.datasets import Dataset
from flatlens.datasets.table import regression
from flatlens.errors import DataError, SpecError
from flatlens.immunity import folder
from flatlens.immunity.fine_tuning import Network, by_rows, fine_tuned, told
from flatlens.immunity.immunize import Asked, identity, of_tasks
from flatlens.immunity.result import Immunized
from flatlens.immunity.tasks import Task, both
from flatlens.immunity.trials import KeptTrials
from flatlens.immunity.whole_network import Parts
from flatlens.measure.features import Features, features
from flatlens.measure.load import samples_of
from flatlens.measure.prepare import device_of
from flatlens.models.appended import HEAD, OPTION, appended
from flatlens.models.loaders import MAKERS, Loaded
from flatlens.progress import Progress, Report
from flatlens.records.immunized import THETA
from flatlens.specs.run import RunSpec
from flatlens.specs.trust import TRUST
from flatlens.specs.uris import parse
from flatlens.victims.layers import as_logits

TRIED = 512
"""Samples of the primary data that the logits are compared on."""


class Data(NamedTuple):
    """The data of a task.

    Attributes:
        uri: how they are named.
        classes: the labels of the samples to take; all when empty.
    """

    uri: str
    classes: tuple[int, ...] = ()


class OfModel(NamedTuple):
    """An immunization, and of which model.

    Attributes:
        found: the result.
        model: ``uri``, ``sha256`` of its weights, ``layer``, ``appended`` (the name that loads it with θ, None where
            its kind has none) and ``logits``, by how much θ moves them at most; None where the features are columns.
        fine_tuning: where a fine-tuning ends, as `fine_tuning.told` has it; None where it was not asked for.
    """

    found: Immunized
    model: dict[str, Any] | None
    fine_tuning: dict[str, Any] | None = None


def of_tables(
    primary: str, harmful: str, asked: Asked, out: Path, *, force: bool = False, progress: Report | None = None
) -> OfModel:
    """Immunize two tables with the same columns: ``table:FILE?target=COLUMN``.

    Args:
        primary: the useful task.
        harmful: the other one.
        asked: what is asked for.
        out: the folder of the result.
        force: replace the result that is there.
        progress: called after each step.

    Raises:
        DataError: tables that cannot be.
    """
    one, other = regression(primary), regression(harmful)
    if one.names != other.names:
        odd = sorted(set(one.names) ^ set(other.names))
        which = f"only one has '{odd[0]}'" if odd else "their order differs"
        raise DataError(
            f"'{primary}' and '{harmful}' need the same features: {which}; leave it out with &without=COLUMN"
        )
    tasks = both((one.x, one.y), (other.x, other.y))
    with folder.opened(out, identity(*tasks, asked), force=force) as place:
        found = place.result() or place.finish(
            of_tasks(*tasks, asked, place, progress), data=_called(Data(primary), Data(harmful))
        )
    return OfModel(found, None)


def of_names(
    spec: RunSpec,
    primary: Data,
    harmful: Data,
    asked: Asked,
    out: Path,
    *,
    fine_tune: int | None = None,
    force: bool = False,
    progress: Report | None = None,
) -> OfModel:
    """Immunize the features of a model, the inputs of its head, and append θ to it.

    Args:
        spec: with ``model``, ``layer``, ``limit``, ``batch_size`` and ``device``.
        primary: the data of the useful task; the model's own.
        harmful: those of the other task, of inputs of the same shape.
        asked: what is asked for.
        out: the folder of the result.
        fine_tune: also fine-tune the whole network on the harmful task, for so many epochs; None for not.
        force: replace the result that is there.
        progress: called after each step.

    Raises:
        DataError: data that cannot be.
        SpecError: more than one layer is named.
    """
    if fine_tune is not None:
        demand_held_out(asked)
    loaded, parts, taken = features_of(spec, primary, harmful, progress)
    tasks = both_tasks(taken, parts)
    known = identity(*tasks, asked) | {"model": spec.model, "weights_sha256": loaded.sha256}
    with folder.opened(out, known, force=force) as place:
        if (found := place.result()) is None:
            found = of_tasks(*tasks, asked, place, progress)
            about = _about(spec, loaded.model, loaded.sha256, taken[0].target, found, parts[0], out)
            place.finish(found, about, _called(primary, harmful))
        if fine_tune is not None and not place.fine_tuning(fine_tune):
            networks = _networks(loaded.model, taken[0].target, found, spec)
            kept = KeptTrials(out, known | {"epochs": fine_tune})
            data = split(tasks, parts, asked).tuning()
            tuned = fine_tuned(*networks, data, epochs=fine_tune, kept=kept, progress=progress)
            place.add_fine_tuning(tuned.table, told(tuned, fine_tune))
        summary = folder.read(out)
        done = place.result()
        assert done is not None
        return OfModel(done, summary["model"], summary.get(folder.FINE_TUNING))


def demand_held_out(asked: Asked) -> None:
    """Refuse to go on where no samples are held out.

    Raises:
        SpecError: none are.
    """
    if not asked.holdout:
        raise SpecError("--holdout 0 leaves no samples to see a training of the whole network by; leave it out")


class Taken(NamedTuple):
    """A model with the data of both tasks, and its features on them, primary first."""

    loaded: Loaded
    parts: tuple[Dataset, Dataset]
    features: tuple[Features, Features]


def features_of(spec: RunSpec, primary: Data, harmful: Data, progress: Report | None) -> Taken:
    """Load a model and the data of both tasks, and take its features.

    Raises:
        DataError: data that cannot be.
        SpecError: more than one layer is named.
    """
    if len(spec.layer) != 1:
        raise SpecError(f"--layer {', '.join(spec.layer)}: θ is appended before one layer; name one")
    data = [datasets.load(one.uri) for one in (primary, harmful)]
    if data[0].shape != data[1].shape:
        raise DataError(
            f"'{primary.uri}' has inputs of shape {list(data[0].shape)} and '{harmful.uri}' of {list(data[1].shape)}; "
            "one model takes inputs of one shape"
        )
    trust = {key: getattr(spec, key) for key in TRUST}
    loaded = models.load(spec.model, shape=data[0].shape, classes=data[0].classes, **trust)
    parts = [_some(one, of.classes, spec) for one, of in zip(data, (primary, harmful), strict=True)]
    taken: list[Features] = []
    for name, part in zip(("primary", "harmful"), parts, strict=True):
        if progress:
            progress(Progress(len(taken), 2, f"features of the {name} data"))
        taken.append(_features(loaded.model, part, spec))
    return Taken(loaded, (parts[0], parts[1]), (taken[0], taken[1]))


def both_tasks(taken: Sequence[Features], parts: Sequence[Dataset]) -> tuple[Task, Task]:
    """Both tasks of linear probes, with a target a class."""
    return both(*((one.x, one_hot(part.y)) for one, part in zip(taken, parts, strict=True)))


def one_hot(y: Any) -> Any:
    """Labels ``[n]`` as targets ``[n, c]``, a column for each class that occurs.

    Raises:
        DataError: all samples are of one class.
    """
    names = np.unique(y)
    if len(names) < 2:
        raise DataError(f"all {len(y)} samples are of class {names[0]}: there is nothing to learn; give at least two")
    return (np.asarray(y)[:, None] == names).astype(np.float64)


def _called(primary: Data, harmful: Data) -> dict[str, Any]:
    """What the data of both tasks are called, as plain data."""
    return {
        name: {"uri": of.uri, "classes": list(of.classes)} for name, of in (("primary", primary), ("harmful", harmful))
    }


def _some(data: Dataset, classes: Collection[int], spec: RunSpec) -> Dataset:
    """The samples of these classes, and of them as many as a spec asks for."""
    if absent := sorted(set(classes) - set(data.y.tolist())):
        raise DataError(f"'{data.uri}' has no sample of class {absent[0]}; its classes are 0 to {data.classes - 1}")
    part = data.take(np.flatnonzero(np.isin(data.y, list(classes)))) if classes else data
    return part.take(samples_of(spec, part.y))


def _features(model: nn.Module, data: Dataset, spec: RunSpec) -> Features:
    size = spec.batch_size if isinstance(spec.batch_size, int) else 256
    return features(model, torch.from_numpy(data.x), spec.layer[0], batch_size=size, device=device_of(spec.device))


def _networks(model: nn.Module, layer: str, found: Immunized, spec: RunSpec) -> tuple[Network, Network]:
    """The network with θ appended, and the one without."""
    device = device_of(spec.device)
    made = appended(model, layer, torch.from_numpy(found.theta))
    name = f"{layer}.{HEAD}" if layer else HEAD
    return Network(made.to(device), name), Network(copy.deepcopy(model).to(device), layer)


def split(tasks: tuple[Task, Task], parts: Sequence[Dataset], asked: Asked) -> Parts:
    """The inputs of both tasks, those that are learnt from and those held out, as θ has seen them or not."""
    rows = [task.split(asked.holdout, asked.seed) for task in tasks]
    return Parts(*(by_rows(part.x, part.y, some) for part, both in zip(parts, rows, strict=True) for some in both))


def _about(
    spec: RunSpec, model: nn.Module, sha256: str, layer: str, found: Immunized, data: Dataset, out: Path
) -> dict[str, Any]:
    made = appended(model, layer, torch.from_numpy(found.theta))
    x = torch.from_numpy(data.x[:TRIED]).to(next(model.parameters()))
    with torch.no_grad():
        moved = (as_logits(made(x)) - as_logits(model(x))).abs().max().item()
    return {"uri": spec.model, "sha256": sha256, "layer": layer, "appended": named(spec.model, out), "logits": moved}


def named(model: str, out: Path) -> str | None:
    """The name that loads a model with the θ in a folder; None for models that Python code makes."""
    uri = parse(model)
    if uri.scheme not in MAKERS:
        return None
    before, _, options = model.partition("?")
    return f"{before}?{OPTION}={quote(str(out / THETA))}{'&' if options else ''}{options}"


__all__ = ["Data", "OfModel", "named", "of_names", "of_tables", "one_hot"]
