"""What is known of the attack libraries: how to call their objects, what a step of theirs is, and their names in URIs.

Imports none of them by itself.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import re
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.errors import AttackError, SpecError, one_line, unknown
from flatlens.specs.uris import Uri
from flatlens.specs.values import number, plain, whole

Runner = Callable[[nn.Module, Tensor, Tensor, tuple[float, float]], Any]

CALLABLE = "callable"
LONGEST = 32
"""Of a list that is a setting; longer ones are data."""

PIP = {
    "torchattacks": "pip install torchattacks==3.5.1 --no-deps",
    "foolbox": "pip install foolbox==3.3.4",
    "pyautoattack": "pip install pyautoattack==0.2.0 --no-deps",
}

AUTO = ("standard", "plus", "rand")
"""Versions of AutoAttack, each a list of attacks."""

# Attacks of torchattacks that take several gradients a step, the first at the iterate (or at its look-ahead).
_CALLS: dict[str, Callable[[Any], int]] = {
    "VMIFGSM": lambda attack: attack.N + 1,
    "VNIFGSM": lambda attack: attack.N + 1,
    "SINIFGSM": lambda attack: attack.m,
    "EOTPGD": lambda attack: attack.eot_iter,
    "APGD": lambda attack: attack.eot_iter,
    "APGDT": lambda attack: attack.eot_iter,
}

# Norms that attacks of torchattacks minimise, where neither a setting nor the name says so. EAD weighs both l1 and l2.
_NORMS = {"CW": "l2", "DeepFool": "l2", "EADEN": "l1"}
_NORM = re.compile(r"L_?[12](?![0-9])|(?<![A-Za-z])l_?[12](?![0-9])")
"""In a setting or a name: ``PGDL2``, ``my_l2_attack``."""


def kind(attack: Any) -> str:
    """``torchattacks``, ``foolbox``, ``autoattack`` or ``callable``.

    Raises:
        AttackError: none of these.
    """
    homes = {base.__module__.split(".")[0] for base in type(attack).__mro__}
    for library in ("torchattacks", "foolbox"):
        if library in homes:
            return library
    if hasattr(attack, "run_standard_evaluation"):
        return "autoattack"
    if isinstance(attack, type) or not callable(attack):
        shown = attack.__name__ if isinstance(attack, type) else type(attack).__name__
        raise AttackError(f"'{shown}' is no attack; give an attack object, or a callable attack(model, x, y) -> x_adv")
    return CALLABLE


def name(attack: Any, library: str) -> str:
    """``torchattacks PGD``, or the name of a callable."""
    if library == CALLABLE:
        return str(getattr(attack, "__name__", type(attack).__name__))
    return f"{library} {type(attack).__name__}" if library != "autoattack" else f"autoattack {attack.version}"


def runner(attack: Any, library: str, eps: float | None) -> Runner:
    """How to call it: ``run(model, x, y, bounds) -> x_adv``."""
    if library == "torchattacks":
        return lambda model, x, y, bounds: attack(x, y)
    if library == "autoattack":
        return lambda model, x, y, bounds: _first(attack.run_standard_evaluation(x, y))
    if library == "foolbox":
        return _foolbox(attack, eps)
    return lambda model, x, y, bounds: attack(model, x, y)


def _foolbox(attack: Any, eps: float | None) -> Runner:
    foolbox = import_module("foolbox")
    if eps is None and not isinstance(attack, foolbox.attacks.base.MinimizationAttack):
        raise AttackError(
            f"foolbox's {type(attack).__name__} needs a radius: recorded(attack, eps=8/255), foolbox:NAME?eps=8/255"
        )

    def run(model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[float, float]) -> Any:
        wrapped = foolbox.PyTorchModel(model, bounds=bounds, device=x.device)
        _, clipped, _ = attack(wrapped, x, y, epsilons=eps)
        return clipped

    return run


def _first(result: Any) -> Any:
    """The examples; pyautoattack returns their predictions too."""
    return result[0] if isinstance(result, tuple) else result


def provenance(attack: Any, library: str) -> dict[str, Any]:
    """What can be read off an attack of which run it was: library, version, class and the settings in effect.

    Returns:
        ``library``, ``version``, ``attack`` and ``parameters``, plain data: of an object its public attributes (of an
        object made of others, theirs by name), of a function its keywords' defaults; None where nothing is known.
    """
    parameters = _parameters(attack, type(attack).__module__.split(".")[0])
    if library == CALLABLE:
        return {"library": None, "version": None, "attack": _qualified(attack), "parameters": parameters}
    known = "pyautoattack" if library == "autoattack" else library
    return {"library": known, "version": version(attack, known), "attack": type(attack).__name__} | {
        "parameters": parameters
    }


def version(attack: Any, library: str) -> str | None:
    """The version of an attack's library: as installed, or as the module says; None where neither does."""
    home = type(attack).__module__.split(".")[0]
    for name in (home, library):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    found = getattr(sys.modules.get(home), "__version__", None)
    return found if isinstance(found, str) else None


def _qualified(attack: Any) -> str:
    own = attack.func if isinstance(attack, functools.partial) else attack
    named = own if hasattr(own, "__qualname__") else type(own)
    return f"{named.__module__}.{named.__qualname__}"


def _parameters(attack: Any, home: str, depth: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if inspect.isroutine(attack) or isinstance(attack, functools.partial):
        with contextlib.suppress(TypeError, ValueError):
            known = inspect.signature(attack).parameters.values()
            found = {p.name: p.default for p in known if p.default is not inspect.Parameter.empty}
    else:
        found = dict(getattr(attack, "__dict__", {}))
    out = {}
    for key, value in found.items():
        own = type(value).__module__.split(".")[0] == home and not isinstance(value, nn.Module)
        if _is_plain(value):
            if not key.startswith("_"):  # what a library keeps for itself; attacks within attacks are settings
                out[key] = _as_plain(value)
        elif own and depth > 1 and (inner := _parameters(value, home, depth - 1)):
            out[key] = {"attack": type(value).__name__, **inner}
        elif isinstance(value, (list, tuple)) and depth > 1 and value and len(value) <= LONGEST:
            parts = [_parameters(one, home, depth - 1) for one in value if hasattr(one, "__dict__")]
            if len(parts) == len(value):
                out[key] = [{"attack": type(one).__name__, **part} for one, part in zip(value, parts, strict=True)]
    return out


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= LONGEST and all(map(_is_plain, value))
    return (
        value is None
        or isinstance(value, (bool, int, float, torch.device))
        or (isinstance(value, str) and len(value) <= 1000)
    )


def _as_plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, torch.device) else value


def radius(attack: Any) -> float | None:
    """The attack's own eps, or None."""
    found = plain(getattr(attack, "eps", getattr(attack, "epsilon", None)))
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def norm(attack: Any) -> str:
    """``l1``, ``l2`` or ``linf``: what the attack's settings, its library or its name say; ``linf`` where none does."""
    library, said = kind(attack), getattr(attack, "norm", None)
    if library == "foolbox":
        with contextlib.suppress(ValueError):  # of those that take any distance, where none is given
            said = getattr(getattr(attack, "distance", None), "p", None)
    if library == "torchattacks":
        said = _NORMS.get(type(attack).__name__, said)
    if isinstance(said, (int, float)):
        return {1.0: "l1", 2.0: "l2"}.get(float(said), "linf")
    if not isinstance(said, str):
        said = name(attack, library)
    found = _NORM.search(said)
    return f"l{found[0][-1]}" if found else "linf"


def steps(attack: Any) -> int | None:
    """The number of steps that the attack is set to, or None."""
    found = getattr(attack, "steps", None)
    return found if isinstance(found, int) and found > 0 else None


def calls_per_step(attack: Any) -> int:
    """Gradients per step; 1 where nothing else is known, 0 for as many as are made at one point."""
    # foolbox's DeepFool asks for the gradient of one candidate class at a time.
    if kind(attack) == "foolbox" and "DeepFool" in type(attack).__name__:
        return 0
    if kind(attack) == "torchattacks" and type(attack).__name__ in _CALLS:
        return max(1, int(_CALLS[type(attack).__name__](attack)))
    return 1


def build(uri: Uri, model: nn.Module, *, seed: int) -> tuple[Any, float | None]:
    """The attack that a URI names, bound to a model, and its eps where that is no setting of the attack's own.

    Raises:
        AttackError: the library is missing, has no such attack, or the attack no such setting.
    """
    options = {key: _value(text) for key, text in uri.options.items()}
    if uri.scheme == "torchattacks":
        made = _named(_load("torchattacks"), uri.path, "torchattacks")
        return _make(made, uri, (model,), options), None
    if uri.scheme == "foolbox":
        made = _named(_load("foolbox").attacks, uri.path, "foolbox")
        eps = options.pop("eps", None)
        return _make(made, uri, (), options), None if eps is None else float(eps)
    made = _load("pyautoattack").AutoAttack
    if uri.path not in AUTO:
        raise AttackError(unknown("version", uri.path, AUTO, where="autoattack has"))
    own = next(model.parameters(), None)
    fixed = {"version": uri.path, "device": "cpu" if own is None else own.device, "seed": seed}
    attack = _make(made, uri, (model,), fixed | options)
    attack.verbose = False
    return attack, None


def _load(library: str) -> Any:
    try:
        return import_module(library)
    except ImportError as error:
        raise AttackError(f"{library} is not installed: {PIP[library]} ({one_line(error)})") from error


def _named(module: Any, wanted: str, library: str) -> Any:
    known = [key for key, value in vars(module).items() if inspect.isclass(value) and not key.startswith("_")]
    if wanted not in known:
        raise AttackError(unknown("attack", wanted, sorted(known), where=f"{library} has"))
    return getattr(module, wanted)


def _make(made: Any, uri: Uri, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    parameters = inspect.signature(made).parameters
    known = [key for key in parameters if key not in ("model", "self")]
    for key, value in options.items():
        if key not in known:
            raise AttackError(unknown("option", key, known, where=f"'{uri.scheme}:{uri.path}' has"))
        if isinstance(value, str) and isinstance(parameters[key].default, (int, float)):
            raise AttackError(f"'{uri.text}': {key}={value} needs a number, for example {parameters[key].default}")
    try:
        return made(*given, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise AttackError(f"'{uri.text}' cannot be made: {one_line(error)}") from error


def _value(text: str) -> Any:
    """A number (``8/255`` too), true or false, none, or text."""
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    if (found := whole(text)) is not None:
        return found
    try:
        return number(text)
    except SpecError:
        return text
