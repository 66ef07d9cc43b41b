"""Rows and the record of a training as its page is given them, made of plain numbers."""

from __future__ import annotations

import math
from typing import Any

from flatlens.training.watch import Row


def rows(epochs: int = 6, *, every: int = 1, head: bool = True, diverged: bool = False) -> dict[str, list[Any]]:
    """Epochs of which each ``every``-th was looked at, of a model with or without a head in closed form."""
    found = []
    for k in range(1, epochs + 1):
        row = Row(k, math.nan if diverged else 2 / k, 1 - 0.8 / k, lr=1e-3 / k, seconds=0.2)
        if k % every == 0:
            row = row._replace(
                watched_accuracy=1 - 0.5 / k, fgsm_accuracy=0.8 - 0.5 / k, pgd_accuracy=0.75 - 0.5 / k,
                flatness_mean=3.0 * k if head else math.nan, flatness_median=2.0 * k if head else math.nan,
                weight_gradient=1 / k, input_gradient=0.4 / k, zero_gradients=0.01,
            )  # fmt: skip
        found.append(row)
    return {name: [getattr(row, name) for row in found] for name in Row._fields}


def record(**more: Any) -> dict[str, Any]:
    """What stands in ``NAME.json``, as far as the page reads it."""
    return {
        "model": "flatlens:cnn",
        "recipe": {"data": "flatlens:digits", "epochs": 6, "adversarial": "pgd", "eps": 0.1},
        "test": "flatlens:digits?split=test", "test_samples": 450, "accuracy": 0.958, "epoch": 6,
        "worst_accuracy": {"value": 0.736, "low": 0.693, "high": 0.774, "n": 450},
        "loss_gap": {"mean": {"value": 0.49, "low": 0.45, "high": 0.53, "n": 450}},
        "kappa": {"before": {"value": 0.021}, "after": {"value": 29.0}},
        "robustness": {"eps": 0.1, "norm": "linf"}, "alarms": [], "seconds": 12.0,
    } | more  # fmt: skip
