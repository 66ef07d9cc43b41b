"""What may run code, or be fetched, while models load: nothing, unless whoever starts the work says so (no torch).

A model, a sweep file, a ``--config``, a results folder may come from somebody else, and are read without running
anything of theirs. What the user types himself, ``--model my.py:make``, is his own.

===================  ==============================================================================================
``trust_pickle``     pickled weights given by ``ckpt:``, and files of ``torch.export``, may run code; of any model
``trust_remote_code``  Python files that lie beside the weights of an ``hf:`` model; of any model
``trust_code``       a file that was handed over may name code: ``file.py:factory``, ``pkg.module:factory``, plug-ins
``download``         weights that are missing may be fetched by network; of any model by a hub's name
===================  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flatlens.errors import AttackError, ModelError, SpecError
from flatlens.specs.attack_names import base
from flatlens.specs.catalogue import ATTACK_SCHEMES, ATTACKS, TEXT_ATTACKS
from flatlens.specs.known_models import CODE, OBJECT, SCHEMES
from flatlens.specs.uris import parse
from flatlens.specs.values import flag

DOWNLOAD = "download"
TRUST = ("trust_pickle", "trust_remote_code", DOWNLOAD)
"""Settings that let a model's files run code, or be fetched. Only the user gives them: a file cannot to itself."""
TRUST_CODE = "trust_code"
"""The same for code that a file names. A model that the user types needs no such permission."""


class Trust(NamedTuple):
    """What may run code, or be fetched, while a model is loaded: see the table above."""

    pickle: bool = False
    remote_code: bool = False
    download: bool = False


NOTHING = Trust()


def runs_code(uri: str) -> bool:
    """Whether loading a model runs code that its name points to: a factory, or a plug-in."""
    parsed = parse(uri, ModelError)
    while parsed.scheme == "ckpt":
        parsed = parse(parsed.options.get("arch", "flatlens:"), ModelError)
    return parsed.scheme not in {OBJECT, *SCHEMES} - {*CODE}


def attack_runs_code(name: str) -> bool:
    """Whether an attack is a function that its name points to."""
    return base(name) not in ATTACKS | TEXT_ATTACKS and parse(name, AttackError).scheme not in ATTACK_SCHEMES


NAMES_CODE: dict[str, Callable[[str], bool]] = {"model": runs_code, "attack": attack_runs_code}
"""Setting that may name code -> whether a value of it does."""


def without_trust(values: Mapping[str, Any], flags: Mapping[str, Any], file: object) -> dict[str, Any]:
    """The settings of a file, which may not say by itself that code shall run, or files be fetched.

    Raises:
        SpecError: it does, and the flags do not say it too.
    """
    for key in TRUST:
        if values.get(key) and not flags.get(key):
            if key == DOWNLOAD:
                raise SpecError(
                    f"'{file}' asks for {key}, by which files are fetched; if they may, give {flag(key)} too"
                )
            raise SpecError(
                f"'{file}' asks for {key}, which lets code run; if you trust its model, give {flag(key)} too"
            )
    return {key: value for key, value in values.items() if key not in TRUST}


def demand_code(named: Iterable[tuple[str, str]], flags: Mapping[str, Any], file: object) -> None:
    """Refuse the code that a file names, unless the flags allow it.

    Args:
        named: (setting, value) pairs that stand in the file, of the settings in `NAMES_CODE`.
        flags: what the user has given.
        file: its name, for the message.

    Raises:
        SpecError: a model or an attack is code.
    """
    if flags.get(TRUST_CODE):
        return
    for kind, name in dict.fromkeys(named):
        if NAMES_CODE[kind](name):
            raise SpecError(
                f"'{file}' names the {kind} '{name}', which is code that would run; if you trust it, give "
                f"{flag(TRUST_CODE)}"
            )
