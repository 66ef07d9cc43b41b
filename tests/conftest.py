"""What must be there before any test imports anything."""

from __future__ import annotations

import random

import pytest
import torch

from tests import checked

checked.install()

# torchvision's wheel is a CUDA build; beside a CPU's torch its import needs these operators to have a name, and timm
# and transformers fail with it. Declared before anything imports it, and kept alive.
_operators = None
if not torch.cuda.is_available() and not hasattr(torch.ops.torchvision, "nms"):
    _operators = torch.library.Library("torchvision", "DEF")
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


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
