"""What is on record of a model's training: its data, and the clean accuracy to hold what is measured against."""

from __future__ import annotations

import json
from typing import Any

from flatlens import datasets
from flatlens.models.loaders import Loaded
from flatlens.specs import uris

SHIPPED = {"flatlens:digits-cnn": 0.9844, "flatlens:digits-cnn-robust": 0.9889}
"""Of the models that come with flatlens, on the test part of its digits (`data/checkpoints.json`)."""


def on_record(loaded: Loaded, data: str) -> float | None:
    """The accuracy, 0 to 1, that was reached on these data when the weights were made; None where none is on record.

    It is on record for what comes with flatlens, for what was trained by a recipe, and for a file of weights that
    ``flatlens train`` has written.
    """
    return _of(dict(loaded.reached) if loaded.reached is not None else _record(loaded.uri), data)


def trained_on(model: str) -> str | None:
    """The SHA-256 of the data that a named model was trained on; None where none is on record, as for `on_record`."""
    if model in SHIPPED:
        return datasets.load("flatlens:digits?split=train").sha256
    record = _record(model)
    found = record.get("data_sha256") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None


def told(loaded: Loaded) -> dict[str, Any] | None:
    """What the record of a training by recipe tells of it, for a run's manifest; None of a model that has none.

    Returns:
        ``clean``, ``worst`` and ``pgd``, shares of right answers, the latter two under attack; ``loss_gap``, nats, and
        ``kappa``, the head's median relative flatness at clean inputs, both with their intervals; ``lipschitz``, a
        bound, where there is one; ``masked``; ``eps`` and ``norm`` of these attacks; ``step_seconds`` of training;
        ``alarms``, their codes.
    """
    record = loaded.reached
    robustness = record.get("robustness") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(robustness, dict):
        return None
    return {
        "clean": robustness["clean"],
        "worst": record["worst_accuracy"],
        "pgd": robustness["pgd"],
        "loss_gap": record["loss_gap"]["mean"],
        "kappa": record["kappa"]["after"],
        "lipschitz": robustness.get("lipschitz"),
        "masked": record["masked"],
        "eps": robustness["eps"],
        "norm": robustness["norm"],
        "step_seconds": record.get("step_seconds"),
        "alarms": [alarm["code"] for alarm in record.get("alarms", ())],
    }


def _record(model: str) -> object:
    """What is on record of a named model's training; None where nothing is."""
    if model in SHIPPED:
        return {"test": "flatlens:digits?split=test", "accuracy": SHIPPED[model]}
    uri = uris.parse(model)
    if uri.scheme != "ckpt":
        return None
    try:
        return json.loads(uri.file.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # a file without a record, or beside something else's


def _of(record: object, data: str) -> float | None:
    if not isinstance(record, dict) or record.get("test") != datasets.with_split(data, "test"):
        return None
    found = record.get("accuracy")
    known = isinstance(found, float | int) and not isinstance(found, bool) and 0 <= found <= 1
    return float(found) if known and found is not None else None
