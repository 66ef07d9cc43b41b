"""What must be there before any test imports anything."""

from __future__ import annotations

import random

import pytest
import torch

from tests import checked, cpu_torchvision  # noqa: F401  (declares what torchvision's import needs)

checked.install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test, with all that it sets up, draws the same numbers whatever ran before it: what it warns of is known."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory):
    """The folder of a small real sweep, which no test changes."""
    from tests import small_sweep as making

    return making.make(tmp_path_factory.mktemp("small-sweep"))
