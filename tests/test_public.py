"""What a shell and `help` offer: all that users need, under its public name, and nothing else."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path
from typing import Any

import pytest

import flatlens as fl
from flatlens.sweeps.folder import FOR_USERS

OBJECTS: dict[str, tuple[Any, set[str]]] = {
    "flatlens": (
        fl,
        {
            "Autopsy",
            "CautionWarning",
            "Condition",
            "Detection",
            "FlatlensError",
            "Immunized",
            "Robustness",
            "Run",
            "RunSpec",
            "Sweep",
            "Trace",
            "TrainSpec",
            "__version__",
        }
        | {
            "attacks",
            "autopsy",
            "callbacks",
            "condition",
            "curvature",
            "datasets",
            "defences",
            "detect",
            "head_flatness",
            "immunize",
            "loggers",
            "models",
            "normalized",
            "progress_bar",
            "open",
            "robustness",
        }
        | {"run", "run_sweep", "trace", "train", "watch"}
        | {"Prompt", "trace_text", "curvature_text"},
    ),
    "attacks": (
        fl.attacks,
        {"FGSM", "BIM", "MIFGSM", "PGD", "APGD", "APGDCE", "APGDDLR", "APGDT", "AdvGAN", "DDN", "Square", "along"}
        | {"GCG", "Embedding", "RandomSwap", "Simplex"}
        | {"recorded", "ATTACKS", "CONTROLS", "NORMS", "OBJECTIVES", "SCHEMES"},
    ),
    "callbacks": (fl.callbacks, {"Gauge", "HuggingFace", "Lightning"}),
    "a sweep": (
        fl.Sweep(Path("nowhere"), {}),
        {"path", "plan", "notes", "cells", "steps", "layers", "to_pandas", "trace", "report"}
        | {"cell", "spec", "labels", "is_done", "state", "progress", "failure"},
    ),
}


@pytest.mark.parametrize("which", OBJECTS)
def test_a_shell_offers_what_users_need_and_nothing_else(which: str) -> None:
    found, names = OBJECTS[which]
    assert set(dir(found)) == names
    assert all(inspect.getattr_static(found, name, None) is not None for name in names if which == "a sweep")
    assert all(getattr(found, name) is not None for name in names if which not in ("a sweep", "callbacks"))


def test_every_attack_of_the_catalogue_is_offered() -> None:
    assert {entry.name for entry in fl.attacks.ATTACKS.values()} <= set(dir(fl.attacks))
    assert set(fl.attacks.__all__) == set(dir(fl.attacks)) and set(fl.__all__) == set(dir(fl))


def test_what_is_not_offered_of_a_sweep_is_there_for_those_who_do_its_work() -> None:
    public = {name for name in vars(fl.Sweep) if not name.startswith("_")}
    assert set(FOR_USERS) - {"path", "plan", "notes"} <= public
    assert {"claim", "commit", "fail", "set_aside"} <= public - set(FOR_USERS)


FUNCTIONS = (
    "autopsy",
    "trace",
    "trace_text",
    "condition",
    "curvature",
    "curvature_text",
    "detect",
    "immunize",
    "open",
    "robustness",
    "run",
    "run_sweep",
    "normalized",
    "train",
    "watch",
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_shows_a_function_under_its_public_name_and_every_argument(name: str) -> None:
    function = getattr(fl, name)
    text = pydoc.plain(pydoc.render_doc(function))
    assert text.startswith(f"Python Library Documentation: function {name} in ") and f"\n{name}(" in text
    described = text.split("Args:")[1]
    for parameter in inspect.signature(function).parameters:
        assert f" {parameter}: " in described, parameter
    assert name == "curvature" or "Raises:" in described


@pytest.mark.parametrize("name", [name for name in fl.__all__ if name not in ("__version__",)])
def test_everything_public_has_its_own_name_and_says_what_it_is(name: str) -> None:
    found = getattr(fl, name)
    assert found.__name__.rpartition(".")[2] == name
    assert found.__doc__ and found.__doc__.strip()
