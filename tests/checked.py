"""Annotations are checked in the tests: types by beartype, shapes by jaxtyping, at every call of what computes.

Only in this process: what a test starts runs as it does for a user. Not where ``FLATLENS_UNCHECKED`` is set.
"""

from __future__ import annotations

import os
import sys

import jaxtyping
from beartype import BeartypeConf, beartype

FOLDERS = ("flatlens.attacks", "flatlens.hessian", "flatlens.victims")
UNCHECKED = "FLATLENS_UNCHECKED"

# An int where a float is asked for, as type checkers have it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install() -> None:
    """Check what is imported from now on."""
    if os.environ.get(UNCHECKED):
        return
    assert not [name for name in sys.modules if name.startswith(FOLDERS)], "what is there already stays unchecked"
    jaxtyping.install_import_hook(FOLDERS, "tests.checked.checked")
