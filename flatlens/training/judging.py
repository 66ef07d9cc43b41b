"""What a trained model reaches on test data, as the record of its training tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from flatlens import datasets
from flatlens.datasets import Dataset
from flatlens.progress import Report
from flatlens.records import cautions
from flatlens.records.intervals import Median
from flatlens.specs.train import TrainSpec
from flatlens.training import attacked, robustness
from flatlens.training.fit import accuracy
from flatlens.training.watch import Alarm

ROBUST_SAMPLES = 500
"""On how many samples at most robustness is measured, all classes alike."""


def reached(
    model: nn.Module,
    recipe: TrainSpec,
    test: Dataset,
    *,
    data_sha256: str,
    before: Median | None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """What a model reaches: clean, under each of several attacks, and in the worst case.

    Args:
        model: with its trained weights.
        recipe: which it was trained by.
        test: the data.
        data_sha256: of the data that it was trained on.
        before: the head's flatness with the weights that the training began with, as `flatness` finds it.
        progress: called after each pass of the attacks.
    """
    few, norm = _few(recipe, test), recipe.norm or "linf"
    x, y, ids = (torch.from_numpy(part) for part in (few.x, few.y, few.ids))
    found = robustness.evaluate(model, x, y, eps=recipe.eps, norm=norm, seed=recipe.seed, ids=ids, progress=progress)
    if test.sha256 == data_sha256:  # data that come in one part
        found = replace(found, cautions=(*found.cautions, cautions.tested_on_training(test.uri)))
    plain = found.to_dict()
    return {
        "accuracy": accuracy(model, torch.from_numpy(test.x), torch.from_numpy(test.y)),
        "robust_accuracy": found.pgd.value,
        "robust_samples": found.n,
        "robust_attack": f"PGD {norm}, eps {recipe.eps:g}, {attacked.PGD_STEPS} steps, random start",
        "worst_accuracy": plain["worst"],
        "loss_gap": plain["loss_gap"],
        "masked": found.masked,
        "kappa": {"before": robustness.plain(before), "after": plain["kappa"]},
        "robustness": plain,
    }


def flatness(model: nn.Module, recipe: TrainSpec, test: Dataset) -> Median | None:
    """The median of the head's relative flatness at the test inputs; None where the model has no such head."""
    return robustness.clean_kappa(model, torch.from_numpy(_few(recipe, test).x))


def alarms(reached: Mapping[str, Any], recipe: TrainSpec, classes: int) -> Iterator[Alarm]:
    """Alarms that only the finished model raises: it has learnt little, or its gradients mislead attacks."""
    right = reached["accuracy"]
    if right < (1 + 1 / classes) / 2:  # less than half way from guessing
        why = f"eps {recipe.eps:g} may be too large for these data" if recipe.adversarial else "train longer"
        yield Alarm("not-learnt", recipe.epochs, f"not learnt: {100 * right:.0f} % right, clean; {why}")
    if reached["masked"]:
        yield Alarm("masked", recipe.epochs, f"masked: {reached['robustness']['why_masked']}")


def _few(recipe: TrainSpec, test: Dataset) -> Dataset:
    return test.take(datasets.balanced(test.y, ROBUST_SAMPLES, recipe.seed))
