"""What the record of a training tells of it, for a run's manifest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flatlens import models
from flatlens.training import reached


def record(**more: Any) -> dict[str, Any]:
    share = {"value": 0.9, "low": 0.87, "high": 0.93, "n": 450}
    return {
        "worst_accuracy": share | {"value": 0.4}, "masked": False, "step_seconds": 0.01,
        "loss_gap": {"mean": {"value": 1.2}}, "kappa": {"before": None, "after": {"value": 6.0}},
        "alarms": [{"code": "masked", "epoch": 3, "text": "masked: …"}],
        "robustness": {"clean": share, "pgd": share, "lipschitz": 20.0, "eps": 0.1, "norm": "linf"},
    } | more  # fmt: skip


def told(record: Any) -> dict[str, Any] | None:
    return reached.told(replace(models.load("flatlens:mlp", shape=(1, 8, 8), classes=10), reached=record))


def test_clean_and_worst_are_told_of_the_same_samples() -> None:
    found = told(record())
    assert found is not None
    assert (found["clean"]["value"], found["worst"]["value"]) == (0.9, 0.4)
    assert found["clean"]["n"] == found["worst"]["n"] == 450
    assert (found["kappa"], found["loss_gap"], found["alarms"]) == ({"value": 6.0}, {"value": 1.2}, ["masked"])


@pytest.mark.parametrize("record", [None, {}, {"robustness": None}], ids=["none", "empty", "of before"])
def test_nothing_is_told_of_what_was_not_judged(record: Any) -> None:
    assert told(record) is None
