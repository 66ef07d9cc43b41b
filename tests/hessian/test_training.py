"""Relative flatness as a loss: equal to the probe and to dense Hessians, and differentiable in every weight."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from flatlens.errors import LayerError
from flatlens.hessian.head import Head
from flatlens.hessian.training import MOST_CLASSES, head_flatness
from tests.oracles import truth

unchecked = inspect.unwrap(head_flatness)
"""As a user has it: the tests' check of shapes would come before its own."""


def head(classes: int, features: int = 5, seed: int = 0, gap: float = 0.0) -> tuple[nn.Linear, Tensor]:
    """A float64 head and eight inputs; the first class leads by about ``gap``."""
    g = torch.Generator().manual_seed(seed)
    linear = nn.Linear(features, classes).double()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(classes, features, generator=g, dtype=torch.float64))
        linear.bias.zero_()
        linear.bias[0] += gap
    return linear, 0.3 * torch.randn(8, features, generator=g, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, rtol: float) -> None:
    torch.testing.assert_close(found.detach().double(), expected.detach(), rtol=rtol, atol=0)


@pytest.mark.parametrize("gap", [0, 5, 30])
@pytest.mark.parametrize("classes", [2, 3, 10, 200])
def test_equals_the_probe(classes: int, gap: float) -> None:
    linear, a = head(classes, gap=gap)
    close(head_flatness(linear(a), a, linear.weight), Head(linear)(a).relative_flatness, 1e-12)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_equals_the_definition(classes: int) -> None:
    linear, a = head(classes)
    y = torch.arange(len(a)) % classes
    close(head_flatness(linear(a), a, linear.weight), truth(nn.Sequential(linear), "0", a, y).relative_flatness, 1e-9)


@pytest.mark.parametrize("gap", [0, 5, 15, 30])
@pytest.mark.parametrize("classes", [2, 10, 200])
def test_single_precision(classes: int, gap: float) -> None:
    """Logits computed in float64 and then rounded: at 30 a rounding is 1e-6, and κ goes as exp(−gap)."""
    linear, a = head(classes, gap=gap)
    found = head_flatness(linear(a).float(), a.float(), linear.weight.float())
    assert found.dtype == torch.float32
    close(found, Head(linear)(a).relative_flatness, 1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
def test_classes_whose_weights_are_alike(spread: float) -> None:
    """All weights lie within ``spread`` of one that is far from 0: only their differences count."""
    linear, a = head(6)
    with torch.no_grad():
        linear.weight.copy_(10 + spread * linear.weight)
    # What is lost is what the weights themselves cannot hold: 1e-16 · 10 / spread.
    close(head_flatness(linear(a), a, linear.weight), Head(linear)(a).relative_flatness, 1e-13 + 1e-14 / spread)


def test_classes_whose_weights_are_equal() -> None:
    linear, a = head(4)
    with torch.no_grad():
        linear.weight[2] = linear.weight[1]
    weight = linear.weight
    found = head_flatness(linear(a), a, weight)
    close(found, Head(linear)(a).relative_flatness, 1e-12)
    (slope,) = torch.autograd.grad(found.sum(), weight)
    assert torch.isfinite(slope).all() and slope.abs().max() > 0
    with torch.no_grad():
        weight.copy_(weight[:1].expand_as(weight))
    assert head_flatness(linear(a), a, weight).abs().max() < 1e-28


class Smooth(nn.Module):
    """A small net without kinks; what the head takes in is given as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = nn.functional.gelu(self.second(nn.functional.gelu(self.first(x))))
        return self.fc(features), features


def test_the_gradient_by_every_weight_is_that_of_central_differences() -> None:
    net = Smooth().double()
    x = torch.randn(6, 4, dtype=torch.float64)

    def mean() -> Tensor:
        logits, features = net(x)
        return head_flatness(logits, features, net.fc.weight).mean()

    slopes = torch.autograd.grad(mean(), list(net.parameters()))
    h = 1e-5
    for (name, weight), slope in zip(net.named_parameters(), slopes, strict=True):
        measured = torch.zeros_like(slope)
        with torch.no_grad():
            for i in range(weight.numel()):
                flat, old = weight.view(-1), weight.view(-1)[i].item()
                ends = []
                for at in (old + h, old - h):
                    flat[i] = at
                    ends.append(mean())
                flat[i] = old
                measured.view(-1)[i] = (ends[0] - ends[1]) / (2 * h)
        size = slope.abs().max().item()
        assert size > 1e-4, f"{name}: the gradient does not reach it"
        torch.testing.assert_close(
            slope, measured, rtol=1e-6, atol=1e-6 * size, msg=lambda said, n=name: f"{n}: {said}"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e2, 1e3, 1e4, 1e30])
def test_a_certain_answer_is_flat_and_its_gradient_finite(gap: float, dtype: torch.dtype) -> None:
    linear, a = head(5)
    logits = (linear(a).detach() + gap * torch.eye(5, dtype=torch.float64)[0]).to(dtype).requires_grad_(True)
    features, weight = (t.detach().to(dtype).requires_grad_(True) for t in (a, linear.weight))
    found = head_flatness(logits, features, weight)
    assert torch.isfinite(found).all() and (found >= 0).all() and found.max() < 1e-30
    slopes = torch.autograd.grad(found.sum(), (logits, features, weight))
    assert all(torch.isfinite(slope).all() for slope in slopes)


WRONG = {
    "one class": ((3, 1), (3, 5), (1, 5), "a head of 1 classes"),
    "too many classes": ((1, MOST_CLASSES + 1), (1, 2), (MOST_CLASSES + 1, 2), "a head of 4,097 classes.*2 to 4,096"),
    "samples": ((3, 4), (2, 5), (4, 5), r"logits \[3, 4\], features \[2, 5\] and weight \[4, 5\]: needs \[n, K\]"),
    "features": ((3, 4), (3, 5), (4, 6), r"features \[3, 5\] and weight \[4, 6\]"),
    "turned weight": ((3, 4), (3, 5), (5, 4), r"weight \[5, 4\]"),
    "one sample without its axis": ((4,), (5,), (4, 5), r"logits \[4\], features \[5\]"),
    "an image": ((3, 4), (3, 5, 2, 2), (4, 5), r"features \[3, 5, 2, 2\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_head(name: str) -> None:
    logits, features, weight, said = WRONG[name]
    with pytest.raises(LayerError, match=said):
        unchecked(torch.zeros(logits), torch.zeros(features), torch.zeros(weight))


def test_as_many_classes_as_are_held() -> None:
    logits = torch.zeros(1, MOST_CLASSES, dtype=torch.float64)
    weight = torch.eye(MOST_CLASSES, 1, dtype=torch.float64)  # one class apart from all others, which are alike
    found = head_flatness(logits, torch.ones(1, 1, dtype=torch.float64), weight)
    assert found.item() == pytest.approx((MOST_CLASSES - 1) / MOST_CLASSES**2, rel=1e-9)


def test_its_gradient_in_closed_form_can_be_derived_again() -> None:
    rng = torch.Generator().manual_seed(3)
    shapes = ((3, 5), (3, 7), (5, 7))
    given = [torch.randn(*s, generator=rng, dtype=torch.float64).requires_grad_(True) for s in shapes]
    assert torch.autograd.gradcheck(head_flatness, given)
    assert torch.autograd.gradgradcheck(head_flatness, given)
