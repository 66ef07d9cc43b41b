"""What a sweep varies: the settings that differ among its cells, and how they are written for people (no torch)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flatlens.specs.defences import AXES, STANDARD, in_words, uses_eps
from flatlens.specs.immunize import NONE, ImmunizeSpec
from flatlens.specs.run import KEYS, SUBTABLES
from flatlens.specs.train import TrainSpec
from flatlens.specs.values import shown, written

ABSENT = "–"
TRAIN_KEYS = tuple(f"train.{name}" for name in TrainSpec.__dataclass_fields__)
IMMUNIZE = "immunize"
IMMUNIZE_KEYS = tuple(f"{IMMUNIZE}.{name}" for name in ImmunizeSpec.__dataclass_fields__)
METHOD = f"{IMMUNIZE}.method"
"""How a model was immunized; ``none`` where it was not."""
DEFENCE = "train.defence"
"""A training's axes in one word, which stands for them where more than the attack differs."""
_AXES = tuple(f"train.{axis}" for axis in AXES)
_STEP = ("attack", "eps", "steps")


def varying(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The flattened keys (``model``, ``train.adversarial``, …) whose value differs, in the order of a specification.

    Where some models are trained and others are not, that alone counts as a difference of ``train``; the settings of a
    training are compared among the trained. With immunization it is the same, and its method stands for it. A step
    size that only follows from the attack's eps and steps is none.
    """
    points = [flat(spec) for spec in specs]
    known = {key for values in points for key in values}
    having = {
        table: [values for values, spec in zip(points, specs, strict=True) if spec.get(table)] for table in SUBTABLES
    }
    trained, immune = having["train"], having[IMMUNIZE]
    found = []
    for key in ordered(known - {DEFENCE}):
        among = having.get(key.partition(".")[0], points) if "." in key else points
        if len({text(key, values.get(key)) for values in among}) > 1:
            found.append(key)
    if "step_size" in found:
        sizes = {tuple(text(key, values.get(key)) for key in (*_STEP, "step_size")) for values in points}
        if len(sizes) == len({size[:-1] for size in sizes}):
            found.remove("step_size")
    if any(axis in found for axis in _AXES[1:]):
        found = ordered([DEFENCE, *(key for key in found if key not in _AXES)])
    mixed = 0 < len(trained) < len(specs)
    if mixed and not any(key.startswith("train.") for key in found):
        found.append("train")
    if 0 < len(immune) < len(specs) and METHOD not in found:
        found.append(METHOD)
    return ordered(found)


def label(spec: Mapping[str, Any], keys: Iterable[str]) -> str:
    """A cell in words: ``model flatlens:cnn, seed 3, train.adversarial standard``."""
    return ", ".join(f"{key} {value_of(spec, key)}" for key in keys) or "the one cell"


def labels(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What tells each cell from the others, by key: its name, if it has one, and what differs among cells of that name.

    Args:
        specs: the specifications of all cells by key.
    """
    groups: dict[str | None, list[str]] = {}
    for key, spec in specs.items():
        groups.setdefault(spec.get("name"), []).append(key)
    found: dict[str, str] = {}
    for name, members in groups.items():
        among = specs if name is None or len(groups) == 1 else {key: specs[key] for key in members}
        apart = [key for key in varying(list(among.values())) if key != "name"]
        for key in members:
            said = label(specs[key], apart) if apart or name is None else ""
            found[key] = ", ".join(filter(None, (name, said)))
    return {key: found[key] for key in specs}


def flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A specification without tables: ``train`` as ``train.epochs``, …, and its defence in words."""
    own = {key: value for key, value in spec.items() if key not in SUBTABLES and value is not None}
    train = spec.get("train") or {}
    for table in SUBTABLES:
        own |= {f"{table}.{key}": value for key, value in (spec.get(table) or {}).items() if value is not None}
    return own | ({DEFENCE: in_words(train)} if train else {})


def value_of(spec: Mapping[str, Any], key: str) -> str:
    """A setting of a cell, as its column shows it; ``–`` where the cell has no such setting."""
    train = spec.get("train")
    if key == "train":
        return _training(train) if train else ABSENT
    if key == METHOD and not spec.get(IMMUNIZE):
        return NONE
    if key == DEFENCE and train:
        return in_words(train)
    if key == "train.adversarial" and train and not train.get("adversarial"):
        return STANDARD
    unused = {"train.eps": not uses_eps(train or {}), "train.steps": not (train or {}).get("adversarial")}
    if train and unused.get(key):
        return ABSENT  # of an attack that was not trained against
    return text(key, flat(spec).get(key))


def text(key: str, value: Any) -> str:
    """A setting's value for people, ``–`` where there is none. See `flatlens.specs.values.written`."""
    return ABSENT if value is None else written(key, value) or ABSENT


def _training(train: Mapping[str, Any], epochs: bool = True) -> str:
    how = in_words(train) + (f" {text('eps', train.get('eps'))}" if uses_eps(train) else "")
    return f"{how}, {train.get('epochs', '?')} epochs" if epochs else how


def model_of(spec: Mapping[str, Any], *, epochs: bool = True) -> str:
    """The row of the heat map: the model, and how it was trained (for how long, where that differs)."""
    model = shown(spec.get("model", "?"))
    trained = [_training(train, epochs)] if (train := spec.get("train")) else []
    immune = [f"immunized, {shown(of.get('method', '?'))}"] if (of := spec.get(IMMUNIZE)) else []
    return " · ".join([model, *trained, *immune])


def ordered(keys: Iterable[str]) -> list[str]:
    """Flattened keys in the order of a specification."""
    order = [
        "name",
        *(k for k in KEYS if k not in (*SUBTABLES, "name")),
        "train",
        *TRAIN_KEYS,
        IMMUNIZE,
        *IMMUNIZE_KEYS,
    ]
    place = {key: i for i, key in enumerate(order)}
    return sorted(keys, key=lambda key: (place.get(key, len(order)), key))


def shared(points: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[tuple[str, Any]]:
    """What all cells have in common, apart from ``keys``; a training's settings only where all are trained."""
    everywhere = set.intersection(*(set(values) for values in points)) if points else set()
    return [(key, points[0][key]) for key in ordered(everywhere - {*keys, DEFENCE})]


def column(key: str, specs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One varying setting: its values in order, and which of them each cell has."""
    said = [value_of(spec, key) for spec in specs]
    raw: dict[str, Any] = {}
    for spec, word in zip(specs, said, strict=True):
        raw.setdefault(word, flat(spec).get(key))
    there = [value for value in raw.values() if value is not None]
    numbers = bool(there) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in there)
    if numbers:
        values = sorted(raw, key=lambda word: -math.inf if raw[word] is None else raw[word])
    else:
        values = sorted(raw, key=str.lower)
    place = {word: i for i, word in enumerate(values)}
    return {"key": key, "numbers": numbers, "values": values, "of": [place[word] for word in said]}
