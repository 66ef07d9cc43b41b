"""What is said to people who call flatlens from Python: cautions as warnings, and settings as keywords, not flags."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flatlens.errors import FlatlensError

if TYPE_CHECKING:
    from flatlens.records.schema import Caution


class CautionWarning(UserWarning):
    """Something that makes an evaluation misleading; its text begins with the caution's code."""


_YES = (
    "only-correct",
    "dead-units",
    "surface",
    "worst-case",
    "random-start",
    "force",
    "download",
    "trust-code",
    "trust-pickle",
    "trust-remote-code",
)
_WORDS = ("attack", "device", "dtype", "images", "layer", "norm", "objective")


def in_python(text: str) -> str:
    """A message in Python's words: ``--batch-size 16`` is ``batch_size=16``, ``--only-correct`` is a keyword, too."""
    text = re.sub(r"--set ([a-z_.]+)=\[([^\]]*)\]", r"\1=(\2)", text)
    text = re.sub(r"--set ([a-z_.]+)=", r"\1=", text)
    text = re.sub(rf"(?<![\w-])--({'|'.join(_WORDS)}) (\w+)", r'\1="\2"', text)
    # Whatever stands between a flag and ": needs" is its value.
    value = r" -?[\d.]+(?:/\d+)?(?![\w/])| \[\]| '[^']*'| [^\s:-][^:]*(?=: needs )"
    return re.sub(rf"(?<![\w-])--([a-z]\w*(?:-[a-z]\w*)*)({value})?", _keyword, text)


def _keyword(found: re.Match[str]) -> str:
    value = (found[2] or "").strip()
    # A flag that takes no value, unless it is told of one that it cannot have.
    return f"{found[1].replace('-', '_')}={value or ('True' if found[1] in _YES else '')}"


def told(caution: Caution) -> str:
    """A caution as one line."""
    return f"{caution.code}: {in_python(caution.message)}"


def warn(cautions: Iterable[Caution], *, stacklevel: int = 3) -> None:
    """Let each caution reach whoever called the function that calls this."""
    for caution in cautions:
        warnings.warn(told(caution), CautionWarning, stacklevel=stacklevel)


@contextlib.contextmanager
def python_words() -> Iterator[None]:
    """Errors that pass through here are in Python's words."""
    try:
        yield
    except FlatlensError as error:
        error.args = tuple(in_python(arg) if isinstance(arg, str) else arg for arg in error.args)
        raise
