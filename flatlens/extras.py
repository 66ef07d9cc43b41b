"""Optional packages: imported when they are needed; when they are missing, the command that installs them is named."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from packaging.version import Version

from flatlens.errors import UsageError, one_line

ROBUSTBENCH = (
    "pip install 'flatlens[robustbench]' && pip install --no-deps robustbench==1.1.1 pyautoattack==0.2.0 "
    "geotorch==0.4.0 torchdiffeq==0.2.5"
)
"""How to get RobustBench: by itself it asks for versions of timm and gdown that do not fit."""


def need(module: str, extra: str, what: str, error: type[UsageError]) -> Any:
    """An optional package, imported.

    Args:
        module: what to import.
        extra: of flatlens, that brings it.
        what: for which it is needed, for messages: ``"'timm:' models"``.
        error: what to raise.

    Raises:
        error: it is not installed, or does not work with the PyTorch that is.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as gone:
        absent = (gone.name or module).partition(".")[0]
        raise error(f"{what} need the package '{absent}': pip install 'flatlens[{extra}]'") from gone
    except Exception as broken:  # a misfit of two packages raises whatever its libraries provoke
        raise error(trouble(what, module, broken)) from broken


def trouble(what: str, module: str, error: BaseException) -> str:
    """One line for a package that is there and does not work."""
    said = one_line(error, kind=True)
    if error.__cause__ is not None:
        said += f" {one_line(error.__cause__)}"
    return _misfit(what) if "torchvision::" in said else f"{what}: '{module}' fails with {said}"


def _misfit(what: str) -> str:
    """The operators of torchvision belong to another build of PyTorch, for example CUDA's beside a CPU's."""
    version = Version(metadata.version("torch"))
    pair = f"==0.{version.minor + 15}.*" if version.major == 2 else ""
    place = f" --index-url https://download.pytorch.org/whl/{version.local or 'cpu'}"
    return (
        f"{what}: the torchvision that is installed was built for another PyTorch than {version}; install its match: "
        f"pip install --force-reinstall --no-deps 'torchvision{pair}'{place}"
    )
