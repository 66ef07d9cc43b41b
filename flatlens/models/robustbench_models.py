"""``robustbench:NAME``: models of RobustBench's zoo, from files that are there, by the library's own loader."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flatlens.errors import ModelError, one_line, unknown
from flatlens.extras import ROBUSTBENCH, need, trouble
from flatlens.files.places import cache
from flatlens.models import checkpoints, fetching
from flatlens.specs.trust import Trust
from flatlens.specs.uris import Uri, location

OPTIONS = ("dataset", "threat", "root")
_WHAT = "'robustbench:' models"


def make(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    """The model with its own normalisation, for inputs in [0, 1], and where it comes from.

    Its file is looked for where RobustBench keeps it, ``ROOT/DATASET/THREAT/NAME.pt``; ROOT is the option ``root``, or
    ``robustbench`` in flatlens' cache folder. It keeps its own classes. Only with ``trust.download`` is a file that is
    missing fetched.

    Raises:
        ModelError: RobustBench does not have it or is missing, the file is missing, damaged or does not fit, would
            have to run code, or there is more than one.
    """
    uri.only(OPTIONS)
    library = _library()
    zoo = library.all_models
    dataset = uri.choice("dataset", [d.value for d in zoo], "cifar10")
    threats = {threat.value: models for threat, models in zoo[library.BenchmarkDataset(dataset)].items()}
    threat = uri.choice("threat", list(threats), "Linf")
    known = threats[threat]
    if uri.path not in known:
        raise ModelError(_unknown(uri.path, zoo, dataset, threat))
    if len(shape) != 3 or shape[0] != 3:
        raise ModelError(f"'{uri.text}' needs images [3, H, W], not inputs of shape {shape}; use data in colour")
    _demand_one_file(uri, library, known[uri.path], dataset, threat)
    root = location(uri.options["root"]) if "root" in uri.options else cache() / "robustbench"
    file = root / dataset / threat / f"{uri.path}.pt"
    if not file.is_file():
        _obtain(file, library, known[uri.path]["gdrive_id"], uri, trust)
    checkpoints.content(file, trust_pickle=trust.pickle)  # says in one line what is wrong with it
    try:
        with _reading(trust), torch.serialization.safe_globals(checkpoints.HARMLESS), _quiet():
            model = library.load_model(uri.path, model_dir=root, dataset=dataset, threat_model=threat)
    except Exception as error:  # whatever an architecture, or weights of another, provoke
        raise ModelError(f"'{file}' cannot be loaded as '{uri.text}': {one_line(error, kind=True)}") from error
    return model, f"RobustBench {metadata.version('robustbench')}, {uri.path} of {dataset}, {threat}"


def _unknown(name: str, zoo: Any, dataset: str, threat: str) -> str:
    """What is said of a name that this part of the zoo does not have."""
    parts = {(d.value, t.value): list(models) for d, by in zoo.items() for t, models in by.items()}
    names = parts[dataset, threat]
    near = difflib.get_close_matches(name.casefold(), [n.casefold() for n in names], n=8, cutoff=0.5)
    nearest = [n for one in near for n in names if n.casefold() == one]
    said = unknown(
        f"model of RobustBench for {dataset} and {threat}", name, nearest, where=f"of its {len(names)}, the nearest are"
    )
    others = [f"dataset={d}&threat={t}" for (d, t), its in parts.items() if name in its]
    return f"{said} There is one for {' and '.join(others)}." if others else said


def _demand_one_file(uri: Uri, library: Any, entry: Any, dataset: str, threat: str) -> None:
    """Refuse what is not one file of RobustBench's own: load_model would fetch the rest without asking."""
    numbers = entry.get("gdrive_id")
    if isinstance(numbers, list):
        raise ModelError(
            f"'{uri.text}' is an ensemble of {len(numbers)} files, and only models of one file are taken; write a "
            "factory around robustbench.utils.load_model: my_model.py:make"
        )
    registered = f"{uri.path.lower().replace('-', '_')}_{dataset}_{threat.lower()}"
    foreign = library.timm.is_model(registered) or (dataset == "imagenet" and "Standard" in uri.path)
    if numbers is None or foreign:
        raise ModelError(
            f"'{uri.text}' has no file of RobustBench's own, but weights that timm or torchvision fetch; write a "
            "factory around robustbench.utils.load_model: my_model.py:make"
        )


def _obtain(file: Path, library: Any, number: str, uri: Uri, trust: Trust) -> None:
    if not trust.download:
        raise ModelError(
            f"the weights of '{uri.text}' are not on this machine; they are looked for in '{file}': fetch them with "
            f"{fetching.FLAG}, or gdown {number} -O '{file}', or name where RobustBench keeps them by root=FOLDER"
        )
    source = f"https://drive.google.com/uc?id={number}"
    fetching.fetch(file, lambda part: library.download_gdrive_new(number, part), source)


def _library() -> Any:
    """``robustbench.utils``."""
    need("torchvision", "torchvision", _WHAT, ModelError)  # if it fails, so does timm, without saying why
    need("timm", "timm", _WHAT, ModelError)
    try:
        with _quiet(), _autoattack():
            return import_module("robustbench.utils")
    except ModuleNotFoundError as gone:
        absent = (gone.name or "robustbench").partition(".")[0]
        raise ModelError(f"{_WHAT} need the package '{absent}': {ROBUSTBENCH}") from gone
    except Exception as broken:  # a misfit of two packages raises whatever its libraries provoke
        raise ModelError(trouble(_WHAT, "robustbench", broken)) from broken


@contextlib.contextmanager
def _autoattack() -> Iterator[None]:
    """RobustBench imports ``autoattack``, and asks for pyautoattack, where the same package has another name."""
    if "autoattack" in sys.modules or find_spec("autoattack") or not find_spec("pyautoattack"):
        yield
        return
    sys.modules["autoattack"] = import_module("pyautoattack")
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "autoattack"]:
            del sys.modules[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of what RobustBench imports, registers with timm, and leaves to torch.load's default."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing from timm", FutureWarning)
        for message in ("pkg_resources is deprecated", "Overwriting .* with robustbench", "Environment variable TORCH"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


@contextlib.contextmanager
def _reading(trust: Trust) -> Iterator[None]:
    """Make RobustBench, which does not say which, read pickles that run code only if they are trusted."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[trust.pickle]] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
