"""`robustness`: how robust a model is, for whoever has a model and data in Python."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from flatlens import datasets, models
from flatlens.measure import given
from flatlens.measure.load import samples_of
from flatlens.measure.prepare import device_of
from flatlens.models import OBJECT
from flatlens.progress import Report
from flatlens.records import cautions
from flatlens.specs.catalogue import QUERIES
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.trust import TRUST
from flatlens.specs.values import plain
from flatlens.training import reached
from flatlens.training.robustness import Robustness, evaluate
from flatlens.victims.precision import as_usual
from flatlens.wording import python_words, warn


def robustness(
    model: nn.Module | str,
    x: Any,
    y: Any = None,
    *,
    eps: Any = None,
    norm: str = "linf",
    bounds: Any = (0.0, 1.0),
    batch_size: int | None = 256,
    seed: int = 0,
    queries: int = QUERIES,
    normalize: Any = None,
    device: torch.device | str | None = None,
    progress: Report | None = None,
) -> Robustness:
    """Attack a model in several ways and say what is left: the worst case, its interval, whether to believe it.

    PGD-20 and auto-PGD on the cross-entropy, the same two on an objective that the scale of the logits does not
    change, APGD-T at three wrong classes, and Square, which needs no gradient.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed. Or the name of one: ``flatlens:digits-cnn``.
        x: clean inputs ``[n, …]`` within ``bounds``, in all forms that `trace` takes.
        y: labels ``[n]``.
        eps: radius of the attacks, in units of ``x``; 8/255 when left out, in linf alone.
        norm: ``linf`` or ``l2``.
        bounds: the range of valid inputs.
        batch_size: samples at a time.
        seed: of all noise; a sample's noise does not depend on its batch.
        queries: passes of Square on each sample.
        normalize: ``(mean, std)``, as for `trace`.
        device: where to compute; where the model is when left out.
        progress: called after each pass of a batch.

    Raises:
        ModelError: the model is no deterministic classifier in eval mode.
        DataError: inputs or labels that cannot be.
        SpecError: a value that cannot be.

    Warns:
        CautionWarning: for each of the result's ``cautions``.
    """
    with python_words(), as_usual():
        data = given.samples(x, y)
        net, _ = given.model(model, data, normalize)
        counts = {"batch_size": batch_size, "seed": seed, "steps": queries, "eps": eps}
        asked = {"norm": norm, "bounds": bounds} | {key: plain(value) for key, value in counts.items()}
        spec = from_dict({"model": OBJECT, "data": OBJECT, "attack": "square"} | asked).resolved()
        assert spec.eps is not None  # `resolved` has written the default
        found = evaluate(
            net, data.x, data.y, eps=spec.eps, norm=spec.norm, bounds=spec.bounds, batch_size=spec.batch_size,
            seed=spec.seed, queries=spec.steps, device=device_of(given.device(device)), progress=progress,
        )  # fmt: skip
        if isinstance(model, str) and isinstance(x, str):
            found = _with_origin(found, model, x, datasets.load(x).sha256)
    warn(found.cautions)
    return found


def _with_origin(found: Robustness, model: str, data: str, sha256: str) -> Robustness:
    """The same, with a caution where the data are those that the model was trained on, by its record."""
    if sha256 != reached.trained_on(model):
        return found
    return dataclasses.replace(found, cautions=(*found.cautions, cautions.tested_on_training(data)))


def of_names(spec: RunSpec, progress: Report | None = None) -> Robustness:
    """The same of a model and data by their names: ``model``, ``data``, ``eps``, ``norm``, ``limit``, … of a spec.

    Args:
        spec: whose attack is ``square``; its ``steps`` are the queries.
        progress: called after each pass of a batch.

    Returns:
        The robustness; where the data are those that the model was trained on, by its record, a caution says so.
    """
    spec = spec.resolved()
    assert spec.eps is not None  # `resolved` has written the default
    data = datasets.load(spec.data)
    trust = {key: getattr(spec, key) for key in TRUST}
    loaded = models.load(spec.model, shape=tuple(data.x.shape[1:]), classes=data.classes, **trust)
    some = data.take(samples_of(spec, data.y))
    found = evaluate(
        loaded.model, torch.from_numpy(some.x), torch.from_numpy(some.y), eps=spec.eps, norm=spec.norm,
        bounds=spec.bounds, batch_size=spec.batch_size, seed=spec.seed, queries=spec.steps,
        ids=torch.from_numpy(some.ids), device=device_of(spec.device), progress=progress,
    )  # fmt: skip
    return _with_origin(found, spec.model, spec.data, data.sha256)
