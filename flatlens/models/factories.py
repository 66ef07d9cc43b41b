"""Models made by the user's own code: ``file.py:factory`` and ``pkg.module:factory``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from flatlens.errors import ModelError, one_line, unknown
from flatlens.models import SCHEMES
from flatlens.specs import uris
from flatlens.specs.uris import Uri


def make(uri: Uri, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The model of ``file.py:NAME`` or ``pkg.module:NAME``: what that function returns, or itself if it is a model.

    Args:
        uri: its scheme is the file or the module, its path the name in there.
        shape: handed to the factory if it has a keyword of that name.
        classes: the same.

    Raises:
        ModelError: nothing there, or code that raises or returns something else than a model.
        KeyboardInterrupt: the user's, while the code runs.
    """
    is_file = uri.scheme.endswith(".py")
    file = uris.location(uri.scheme)
    with _import_path(file.parent if is_file else None):
        try:
            module = _import_file(file) if is_file else importlib.import_module(uri.scheme)
        except ModelError:
            raise
        except ModuleNotFoundError as error:
            if not is_file and error.name and uri.scheme.split(".")[0] == error.name.split(".")[0]:
                raise ModelError(
                    unknown("model scheme or Python module", uri.scheme, SCHEMES, where="schemes are")
                ) from error
            raise ModelError(f"'{uri.scheme}' needs the module '{error.name}'; install it") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # code of somebody's raises whatever it likes
            raise ModelError(
                f"importing '{uri.scheme}' failed with {one_line(error, kind=True)}; mend it and try again"
            ) from error
        uri.only([])
        if (made := getattr(module, uri.path, None)) is None:
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise ModelError(unknown("function", uri.path, public, where=f"'{uri.scheme}' has"))
        return made if isinstance(made, nn.Module) else call(made, uri, {"shape": shape, "classes": classes})


def call(
    factory: Callable[..., Any], uri: Uri, offered: Mapping[str, Any], wanted: Mapping[str, Any] | None = None
) -> nn.Module:
    """What a factory returns.

    Args:
        factory: a function or class.
        uri: what names it, for messages.
        offered: handed over where it has keywords for them.
        wanted: handed over in any case.

    Raises:
        ModelError: it is none, has no such keyword, raises, or returns something else than a model.
        KeyboardInterrupt: the user's, while the code runs.
    """
    if not callable(factory):
        raise ModelError(f"'{uri.text}' is a {type(factory).__name__}; name a function that returns a torch.nn.Module")
    try:
        takes = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # some callables written in C have none
        takes = []
    everything = any(p.kind is p.VAR_KEYWORD for p in takes)
    named = {p.name for p in takes if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for key in wanted or {}:
        if key not in named and not everything:
            raise ModelError(unknown("option", key, sorted(named - {*offered}), where=f"'{uri.scheme}:' has"))
    given = {key: value for key, value in offered.items() if everything or key in named} | dict(wanted or {})
    try:
        made = factory(**given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ModelError(
            f"'{uri.text}' failed with {one_line(error, kind=True)}; "
            f"it is called with {', '.join(given) or 'no arguments'}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"'{uri.text}' gave a {type(made).__name__}; it must return a torch.nn.Module")
    return made


def _import_file(file: Path) -> Any:
    if not file.is_file():
        raise ModelError(f"file '{file}' is not there; file.py:factory needs a Python file")
    name = f"flatlens_model_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # a file whose name ends in .py always has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their classes' module up
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _import_path(folder: Path | None) -> Iterator[None]:
    """``folder`` first among the places to import from, as if a file in it had been run."""
    before = list(sys.path)
    if folder is not None:
        sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before
