"""The attacks and controls that there are: names and where they live. Imports no torch by itself.

An attack is a frozen object with ``attack(victim, batch, rng) -> Iterator[Forward]``: it yields its iterates,
the clean input first, the final one last, and lets the caller decide what to do with each. An attack whose result is
not its last iterate yields that result once more, as a pass of kind ``best``.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flatlens.errors import AttackError, unknown
from flatlens.specs import attack_names
from flatlens.specs.catalogue import ATTACK_SCHEMES as SCHEMES
from flatlens.specs.catalogue import ATTACKS, CONTROLS, NORMS, OBJECTIVES, TEXT_ATTACKS, TEXT_CONTROLS, Entry

if TYPE_CHECKING:
    from flatlens.attacks.advgan import AdvGAN as AdvGAN
    from flatlens.attacks.apgd import APGD as APGD
    from flatlens.attacks.apgd import APGDCE as APGDCE
    from flatlens.attacks.apgd import APGDDLR as APGDDLR
    from flatlens.attacks.apgd import APGDT as APGDT
    from flatlens.attacks.ddn import DDN as DDN
    from flatlens.attacks.gradient import BIM as BIM
    from flatlens.attacks.gradient import FGSM as FGSM
    from flatlens.attacks.gradient import MIFGSM as MIFGSM
    from flatlens.attacks.gradient import PGD as PGD
    from flatlens.attacks.language.embedding import Embedding as Embedding
    from flatlens.attacks.language.gcg import GCG as GCG
    from flatlens.attacks.language.gcg import RandomSwap as RandomSwap
    from flatlens.attacks.language.simplex import Simplex as Simplex
    from flatlens.attacks.points import along as along
    from flatlens.attacks.recording import recorded as recorded
    from flatlens.attacks.square import Square as Square


_FUNCTIONS = {"along": "points", "recorded": "recording"}


# What users need; `entry` and `find` are for those who build attacks by name.
__all__ = [
    "APGD",
    "APGDCE",
    "APGDDLR",
    "APGDT",
    "ATTACKS",
    "BIM",
    "CONTROLS",
    "DDN",
    "FGSM",
    "GCG",
    "MIFGSM",
    "NORMS",
    "OBJECTIVES",
    "PGD",
    "SCHEMES",
    "AdvGAN",
    "Embedding",
    "RandomSwap",
    "Simplex",
    "Square",
    "along",
    "recorded",
]


def entry(name: str, *, of_language: bool = False) -> Entry:
    """The attack or control called ``name``, which may bear options.

    Args:
        name: as on the command line.
        of_language: look among those of language models only: a control of images may have the same name.

    Raises:
        AttackError: there is none.
    """
    if of_language:
        known = TEXT_ATTACKS | TEXT_CONTROLS
        if name not in known:
            raise AttackError(unknown("attack", name, known, where="language models have"))
        return known[name]
    if attack_names.base(name) in ATTACKS:
        return attack_names.entry(name)
    for table in (CONTROLS, TEXT_ATTACKS, TEXT_CONTROLS):
        if name in table:
            return table[name]
    raise AttackError(unknown("attack", name, ATTACKS, where="there are"))


def find(name: str, *, of_language: bool = False) -> Any:
    """What makes the attack or control called ``name``, with the options that the name bears."""
    found = entry(name, of_language=of_language)
    made = getattr(import_module(f"flatlens.attacks.{found.module}"), found.name)
    return partial(made, **given) if found.options and (given := attack_names.arguments(name)) else made


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module(f"flatlens.attacks.{_FUNCTIONS[name]}"), name)
    for found in (*ATTACKS.values(), *CONTROLS.values(), *TEXT_ATTACKS.values(), Entry("apgd", "APGD", "")):
        if found.name == name:
            return getattr(import_module(f"flatlens.attacks.{found.module}"), name)
    raise AttributeError(f"module 'flatlens.attacks' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
