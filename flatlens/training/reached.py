"""The clean accuracy that is on record for a model on some data, to hold what is measured against."""

from __future__ import annotations

import json

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
    if loaded.uri in SHIPPED and loaded.reached is None:
        return _of({"test": "flatlens:digits?split=test", "accuracy": SHIPPED[loaded.uri]}, data)
    if loaded.reached is not None:
        return _of(loaded.reached, data)
    uri = uris.parse(loaded.uri)
    if uri.scheme != "ckpt":
        return None
    try:
        record = json.loads(uri.file.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # a file without a record, or beside something else's
    return _of(record, data)


def _of(record: object, data: str) -> float | None:
    if not isinstance(record, dict) or record.get("test") != datasets.with_split(data, "test"):
        return None
    found = record.get("accuracy")
    known = isinstance(found, float | int) and not isinstance(found, bool) and 0 <= found <= 1
    return float(found) if known and found is not None else None
