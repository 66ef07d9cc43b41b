"""The attacks and controls that there are: names and where they live. Imports no torch by itself.

An attack is a frozen object with ``attack(victim, batch, rng) -> Iterator[Forward]``: it yields its iterates,
the clean input first, the final one last, and lets the caller decide what to do with each.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from flatlens.errors import AttackError, unknown

if TYPE_CHECKING:
    from flatlens.attacks.gradient import BIM as BIM
    from flatlens.attacks.gradient import FGSM as FGSM
    from flatlens.attacks.gradient import PGD as PGD
    from flatlens.attacks.points import along as along
    from flatlens.attacks.recording import recorded as recorded


class Entry(NamedTuple):
    """Where an attack or control lives, and one line about it with its source."""

    module: str
    name: str
    summary: str


ATTACKS = {
    "fgsm": Entry("gradient", "FGSM", "one step along the gradient's sign (Goodfellow et al. 2015)"),
    "bim": Entry("gradient", "BIM", "iterated FGSM, steps of eps/steps (Kurakin et al. 2017)"),
    "pgd": Entry("gradient", "PGD", "projected gradient, steps of 2.5·eps/steps (Madry et al. 2018)"),
}
CONTROLS = {
    "line-to-other-class": Entry("controls", "LineToOtherClass", "the straight line to a clean image of another class"),
    "gaussian-noise": Entry("controls", "GaussianNoise", "a ray of Gaussian noise, as long as the attack's eps"),
}
"""What is walked beside an attack, so that a valley can be told from the mere crossing of a boundary."""

SCHEMES = {
    "torchattacks": "an attack of torchattacks by its name: torchattacks:NAME?eps=8/255&steps=10",
    "foolbox": "an attack of foolbox by its name: foolbox:NAME?eps=8/255",
    "autoattack": "AutoAttack, by pyautoattack: autoattack:standard?eps=8/255",
    "path": "points of one's own, an NPZ file with an array iterates [step, n, …]: path:FILE.npz",
}
"""Attacks that are not flatlens' own: scheme -> one line; recorded as they run, and replayed."""

_FUNCTIONS = {"along": "points", "recorded": "recording"}

NORMS = ("linf", "l2")


def entry(name: str) -> Entry:
    """The attack or control called ``name``.

    Raises:
        AttackError: there is none.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    if name in CONTROLS:
        return CONTROLS[name]
    raise AttackError(unknown("attack", name, ATTACKS, where="there are"))


def find(name: str) -> Any:
    """The class of the attack or control called ``name``."""
    found = entry(name)
    return getattr(import_module(f"flatlens.attacks.{found.module}"), found.name)


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module(f"flatlens.attacks.{_FUNCTIONS[name]}"), name)
    for found in (*ATTACKS.values(), *CONTROLS.values()):
        if found.name == name:
            return getattr(import_module(f"flatlens.attacks.{found.module}"), name)
    raise AttributeError(f"module 'flatlens.attacks' has no attribute '{name}'")
