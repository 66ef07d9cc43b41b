"""Whatever mode of torch the caller is in, the numbers are the same, and his mode is as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from tests.expected import cautioned

pytestmark = cautioned(
    "few-classes",
    "few-samples",
    "low-accuracy",
    "masked",
    "not-converged",
    "zero-gradient",
    "flat-because-confident",
    "stopped-early",
)

MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def net() -> nn.Sequential:
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
        model[2].bias.sub_(model(X).mean(0))  # so that each class is predicted of some
    return model.eval()


X = torch.rand(24, 4, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    Y = net()(X).argmax(1)


PGD = fl.attacks.PGD(eps=0.2, steps=3)


def signs(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    return (x + 0.1 * slope.sign()).detach().clamp(0, 1)


def traced(trace: fl.Trace) -> list[Any]:
    return [trace.matrix(column).values for column in ("loss", "relative_flatness")] + [trace.x_adv]


def watched(model: nn.Module) -> list[Any]:
    with fl.watch(model, X, Y) as seen, torch.inference_mode(False), torch.enable_grad():
        seen.returned(signs(model, X, Y))
    return traced(seen.trace)


WORKS: dict[str, Callable[[nn.Module], list[Any]]] = {
    "trace": lambda m: traced(fl.trace(m, X.numpy(), Y.numpy(), layers="all", attack=PGD, controls=["line-to-end"])),
    "recorded": lambda m: traced(fl.trace(m, X, Y, attack=signs)),
    "watch": watched,
    "curvature": lambda m: [fl.curvature(m, X, Y, layer="0").trace],
    "a trace with all": lambda m: traced(
        fl.trace(m, X, Y, surface=True, worst_case=True, condition=0.01, dead_units=True, attack=PGD)
    ),
    "robustness": lambda m: [fl.robustness(m, X, Y, eps=0.2, queries=20).worst.value],
    "autopsy": lambda m: [fl.autopsy(m, X, Y, eps=0.2, steps=3).samples.num_rows],
    "detect": lambda m: [fl.detect(m, X, Y, eps=0.2).samples.num_rows],
}
IN_ALL = ("trace", "recorded", "watch", "curvature")
"""What is tried in each mode; the others, which take longer, in the one that forbids most."""


@functools.cache
def usual(work: str) -> list[Any]:
    return WORKS[work](net())


@pytest.mark.parametrize(
    ("work", "mode"), [(work, mode) for work in WORKS for mode in MODES if work in IN_ALL or mode == "inference_mode"]
)
def test_the_numbers_are_the_same_in_every_mode(work: str, mode: str) -> None:
    model, expected = net(), usual(work)
    with MODES[mode]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        found = WORKS[work](model)
        assert before == (
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        )  # fmt: skip
    assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("work", ["trace", "curvature", "autopsy"])
def test_a_model_that_was_made_in_inference_mode_is_measured(work: str) -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).eval()
        model.load_state_dict(net().state_dict())
    found = WORKS[work](model)
    assert all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, usual(work), strict=True))
