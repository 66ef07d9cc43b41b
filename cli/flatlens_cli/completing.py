"""What a shell offers for a value: names that are known without torch, and without looking into any file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Complete = Callable[[str], list[tuple[str, str]]]


def among(names: Callable[[], Iterable[tuple[str, str]]]) -> Complete:
    """What completes a value that is one of ``names()``, each with a line about it; names are made when asked for."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        return [(name, text) for name, text in names() if name.casefold().startswith(incomplete.casefold())]

    return complete


def _attacks() -> Iterable[tuple[str, str]]:
    from flatlens import attacks

    yield from ((name, entry.summary) for name, entry in attacks.ATTACKS.items())
    yield from _schemes(attacks.SCHEMES)


def _controls() -> Iterable[tuple[str, str]]:
    from flatlens import attacks

    yield from ((name, entry.summary) for name, entry in attacks.CONTROLS.items())
    yield "all", "all of them"


def _models() -> Iterable[tuple[str, str]]:
    from flatlens import models

    yield from models.BUILT_IN.items()
    yield from _schemes({k: v for k, v in models.SCHEMES.items() if k not in models.CODE and k != "flatlens"})


def _datasets() -> Iterable[tuple[str, str]]:
    from flatlens import datasets

    yield from datasets.BUILT_IN.items()
    yield from _schemes({k: v for k, v in datasets.SCHEMES.items() if k != "flatlens"})


def _schemes(known: dict[str, str]) -> Iterable[tuple[str, str]]:
    return ((f"{name}:", text) for name, text in known.items())


def words(*names: str) -> Complete:
    """What completes a value that is one of a few words."""
    return among(lambda: ((name, "") for name in names))


def _of(module: str, name: str) -> Complete:
    def known() -> Iterable[tuple[str, str]]:
        from importlib import import_module

        found: Any = getattr(import_module(module), name)
        return ((key, _said(found[key]) if isinstance(found, dict) else "") for key in found)

    return among(known)


def _said(entry: Any) -> str:
    return str(getattr(entry, "summary", entry))


FOR: dict[str, Complete] = {
    "attack": among(_attacks),
    "control": among(_controls),
    "model": among(_models),
    "data": among(_datasets),
    "norm": _of("flatlens.attacks", "NORMS"),
    "objective": _of("flatlens.attacks", "OBJECTIVES"),
    "targeted": _of("flatlens.specs.run", "TARGETS"),
    "images": _of("flatlens.specs.settings", "IMAGES"),
    "dtype": _of("flatlens.specs.settings", "DTYPES"),
    "layer": words("head", "all", "last:"),
    "device": words("auto", "cpu", "cuda", "mps"),
    "engine": words("local", "ray"),
    "log": words("tensorboard", "wandb", "mlflow"),
    "adversarial": _of("flatlens.specs.defences", "ADVERSARIAL"),
    "loss": _of("flatlens.specs.defences", "LOSSES"),
    "perturb_weights": _of("flatlens.specs.defences", "WEIGHTS"),
    "penalty": _of("flatlens.specs.defences", "PENALTIES"),
    "defence": _of("flatlens.specs.defences", "RECIPES"),
    "keep": words("last", "best"),
}
"""Option -> what completes its value."""
FORMAT = _of("flatlens.export.formats", "FORMATS")
TABLE = _of("flatlens.export.table", "TABLES")
PAGE_FORMAT = _of("flatlens.report.formats", "FORMATS")
