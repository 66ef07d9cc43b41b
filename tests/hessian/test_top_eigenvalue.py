"""The largest eigenvalue of A = diag(p) − p pᵀ, held against LAPACK and against the secular equation in mpmath."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from torch import Tensor

from flatlens.hessian.softmax import eigenvalues, others, softmax, top_eigenvalue

Draw = Callable[[int, torch.Generator], Tensor]
N = 24


def normal(classes: int, g: torch.Generator) -> Tensor:
    return torch.randn(N, classes, generator=g, dtype=torch.float64)


def with_first(logits: Tensor, above: float | Tensor) -> Tensor:
    """The first class above the largest of the others."""
    logits[:, 0] = logits[:, 1:].amax(1) + above
    return logits


KINDS: dict[str, Draw] = {
    "all equal": lambda k, g: 0 * normal(k, g),
    "nearly equal": lambda k, g: 1e-9 * normal(k, g),
    "spread": normal,
    "far apart": lambda k, g: 100 * normal(k, g),
    "in groups": lambda k, g: (2 * normal(k, g)).round(),
    "two tie": lambda k, g: with_first(normal(k, g), 0.0),
    "two nearly tie": lambda k, g: with_first(normal(k, g), 1e-12),
    "two close": lambda k, g: with_first(normal(k, g), 1e-4),
    "alike but the first": lambda k, g: with_first(0 * normal(k, g), torch.linspace(0, 600, N, dtype=torch.float64)),
    "one rival": lambda k, g: with_first(
        normal(k, g) - 30 * (torch.arange(k) > 1), torch.rand(N, generator=g).double()
    ),
    "few rivals": lambda k, g: with_first(0.1 * normal(k, g) - 3.0 * (torch.arange(k) > 4), 0.03),
    "saturated": lambda k, g: with_first(normal(k, g), 40.0),
    "all but certain": lambda k, g: with_first(3 * normal(k, g), 600.0),
}


FAR = ("alike but the first", "all but certain", "far apart")
"""Kinds in which what the first class leaves is as small as 1e-260."""


def drawn(kind: str, classes: int) -> Tensor:
    return KINDS[kind](classes, torch.Generator().manual_seed(classes))


def by_mpmath(logits: list[float]) -> mp.mpf:
    """The root of λ − p₁(1 − p₁) = (p₁ − λ) Σ p_k² / (λ − p_k) above p₂, by halving, in many digits."""
    e = [mp.exp(mp.mpf(z) - max(logits)) for z in logits]
    total = mp.fsum(e)
    first, *rest = sorted((x / total for x in e), reverse=True)
    if first == rest[0]:
        return first
    largest = max(p * (1 - p) for p in (first, rest[0]))
    # It is at least any diagonal entry and p₂ (interlacing), at most p₁ and twice the largest entry (Gershgorin).
    low, high = max(largest, rest[0]), min(first, 2 * largest)
    for _ in range(60):
        middle = (low + high) / 2
        right = (first - middle) * mp.fsum(p * p / (middle - p) for p in rest)
        low, high = (low, middle) if middle - first * (1 - first) > right else (middle, high)
    return high


@pytest.mark.parametrize("classes", [2, 3, 10, 64, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_is_lapacks(kind: str, classes: int) -> None:
    logits = drawn(kind, classes)[: 8 if classes > 64 else N]
    torch.testing.assert_close(
        top_eigenvalue(others(logits)), eigenvalues(softmax(logits))[:, 0], rtol=1e-12, atol=1e-300
    )


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_secular_equations_root(kind: str, classes: int) -> None:
    logits = drawn(kind, classes)[:: N // 3]
    with mp.workdps(320 if kind in FAR else 60):
        for row, value in zip(logits.tolist(), top_eigenvalue(others(logits)).tolist(), strict=True):
            assert abs(mp.mpf(value) / by_mpmath(row) - 1) < 1e-13


@pytest.mark.parametrize("classes", [3, 10, 300, 50_000])
@pytest.mark.parametrize("kind", KINDS)
def test_its_steps_are_enough(kind: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = others(drawn(kind, classes)[: 4 if classes > 300 else N])
    found = top_eigenvalue(seen)
    monkeypatch.setattr("flatlens.hessian.softmax.SECULAR_STEPS", 12)
    torch.testing.assert_close(found, top_eigenvalue(seen), rtol=2e-15, atol=0)


def test_equal_classes_have_a_known_one() -> None:
    equal = top_eigenvalue(others(torch.zeros(1, 100, dtype=torch.float64)))
    torch.testing.assert_close(equal, torch.tensor([0.01], dtype=torch.float64), rtol=1e-14, atol=0)


def test_what_is_not_finite_harms_no_other() -> None:
    logits = drawn("spread", 5)
    alone = top_eigenvalue(others(logits))
    logits[1, 2] = torch.nan
    found = top_eigenvalue(others(logits))
    assert torch.isnan(found[1])
    torch.testing.assert_close(found[2:], alone[2:], rtol=0, atol=0)


def test_impossible_classes_do_not_count() -> None:
    logits = drawn("spread", 6)
    banned = torch.cat([logits, torch.full((N, 3), -torch.inf)], 1)
    torch.testing.assert_close(top_eigenvalue(others(banned)), top_eigenvalue(others(logits)), rtol=1e-14, atol=0)
