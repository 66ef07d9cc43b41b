"""Cells of a sweep that differ in nothing but a defence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flatlens.specs.defences import AXES
from flatlens.specs.trust import TRUST

ROBUST = "-robust"
"""The end of a model's name that says so: ``flatlens:digits-cnn-robust`` beside ``flatlens:digits-cnn``."""
HOW = (*AXES, "eps", "steps", "norm", "eps_warmup")
"""Of ``train``, what describes the defence; standard training may bear some of them too."""
NO_MATTER = ("batch_size", "device", "images", *TRUST)


class Pair(NamedTuple):
    """Two cells by their index: the standard model, and the one trained with a defence."""

    standard: int
    robust: int


def pairs(specs: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Every cell of a defended model beside the standard one that is like it in all else."""
    standard: dict[str, int] = {}
    robust: list[tuple[str, int]] = []
    for index, spec in enumerate(specs):
        train = dict(spec.get("train") or {})
        model, named = _without_suffix(str(spec.get("model", "")))
        is_robust = named or any(train.get(axis) for axis in AXES)
        rest = {key: value for key, value in spec.items() if key not in NO_MATTER}
        rest |= {"model": model, "train": {key: value for key, value in train.items() if key not in HOW}}
        what = json.dumps(rest, sort_keys=True, default=str)
        if is_robust:
            robust.append((what, index))
        else:
            standard.setdefault(what, index)
    return [Pair(standard[what], index) for what, index in robust if what in standard]


def _without_suffix(model: str) -> tuple[str, bool]:
    name, mark, options = model.partition("?")
    return name.removesuffix(ROBUST) + mark + options, name.endswith(ROBUST)
