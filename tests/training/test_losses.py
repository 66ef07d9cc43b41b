"""The losses against their published formulas, where these can be computed, and finite where they cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flatlens.specs.defences import LOSSES, chosen
from flatlens.training.losses import MART, TRADES, Adversarial, Mix, cross_entropy, divergence, named


def logits(gap: float = 3.0, classes: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and attacked logits of eight samples, about ``gap`` wide, and labels."""
    g = torch.Generator().manual_seed(1)
    clean, attacked = (torch.randn(8, classes, generator=g, dtype=torch.float64) for _ in range(2))
    widest = [t / (t.amax(1, keepdim=True) - t.amin(1, keepdim=True)) for t in (clean, attacked)]
    made = [(gap * t).to(dtype).requires_grad_(True) for t in widest]
    return made[0], made[1], torch.arange(8) % classes


def kl(clean: Tensor, attacked: Tensor) -> Tensor:
    p, q = clean.softmax(1), attacked.softmax(1)
    return (p * (p.log() - q.log())).sum(1)


def picked(values: Tensor, y: Tensor) -> Tensor:
    return values.gather(1, y.unsqueeze(1)).squeeze(1)


def boosted(attacked: Tensor, y: Tensor) -> Tensor:
    """Wang et al. 2020, eq. 8: −log p_y − log(1 − max over k ≠ y of p_k)."""
    p = attacked.softmax(1)
    others = torch.stack([torch.cat([row[:k], row[k + 1 :]]).max() for row, k in zip(p, y.tolist(), strict=True)])
    return -picked(p, y).log() - (1 - others).log()


PUBLISHED = {
    "adversarial": (Adversarial(), lambda c, a, y: -picked(a.softmax(1), y).log()),
    "mix": (Mix(0.5), lambda c, a, y: (-picked(c.softmax(1), y).log() - 0.5 * picked(a.softmax(1), y).log()) / 1.5),
    "trades": (TRADES(6.0), lambda c, a, y: -picked(c.softmax(1), y).log() + 6 * kl(c, a)),
    "mart": (MART(5.0), lambda c, a, y: boosted(a, y) + 5 * kl(c, a) * (1 - picked(c.softmax(1), y))),
}


def test_every_loss_is_in_the_table() -> None:
    assert set(PUBLISHED) == set(LOSSES)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", PUBLISHED)
def test_value_and_gradient_are_those_of_the_formula(name: str, classes: int) -> None:
    loss, formula = PUBLISHED[name]
    clean, attacked, y = logits(gap=8, classes=classes)
    assert min(clean.softmax(1).min(), attacked.softmax(1).min()) > 1e-6
    values = [f(clean, attacked, y) for f in (loss, formula)]
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    wanted = [attacked] if loss.passes == 1 else [clean, attacked]
    slopes = [torch.autograd.grad(v.sum(), wanted) for v in values]
    for one, other in zip(*slopes, strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1.0, 50.0, 200.0, 1e4])
@pytest.mark.parametrize("name", PUBLISHED)
def test_values_and_gradients_are_finite(name: str, gap: float, dtype: torch.dtype) -> None:
    clean, attacked, y = logits(gap, dtype=dtype)
    for one, other in ((clean, attacked), (attacked, clean), (clean, clean)):
        value = PUBLISHED[name][0](one, other, y)
        assert value.shape == (8,) and torch.isfinite(value).all()
        slopes = torch.autograd.grad(value.sum(), [clean, attacked], allow_unused=True)
        assert all(torch.isfinite(slope).all() for slope in slopes if slope is not None)


def test_the_published_divergence_is_not_finite_there() -> None:
    """Else the test above would show nothing."""
    clean, attacked, _ = logits(1e4)
    assert not torch.isfinite(kl(clean, attacked)).all() and torch.isfinite(divergence(clean, attacked)).all()


def test_log_of_one_minus_p_is_exact_where_p_is_one() -> None:
    """An attack that has won: 1 − p rounds to 0, and its logarithm is −gap."""
    attacked = torch.tensor([[0.0, 100.0]], dtype=torch.float64)
    found = MART(5.0)(attacked, attacked, torch.tensor([0]))
    assert found.item() == pytest.approx(200, rel=1e-12)


def test_mix_of_equal_weights_is_the_mean() -> None:
    clean, attacked, y = logits()
    expected = (cross_entropy(clean, y) + cross_entropy(attacked, y)) / 2
    torch.testing.assert_close(Mix(1.0)(clean, attacked, y), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("weight", [0.3, 1.0, 4.0])
def test_mix_is_the_hinge_of_tutorials(weight: float) -> None:
    """They add λ max(ℓ(x'), −ℓ(x)): as ℓ is never negative, the maximum is ℓ(x')."""
    clean, attacked, y = logits()
    one, other = cross_entropy(clean, y), cross_entropy(attacked, y)
    hinge = (one + weight * torch.maximum(other, -one)) / (1 + weight)
    torch.testing.assert_close(Mix(weight)(clean, attacked, y), hinge, rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_the_attack_climbs(name: str) -> None:
    """The divergence from the clean answer for TRADES, and no gradient by that; else the cross-entropy."""
    loss = PUBLISHED[name][0]
    clean, attacked, y = logits()
    assert loss.answers == (name == "trades")
    climbed = loss.ascends(clean if loss.answers else None, y)(attacked)
    expected = kl(clean, attacked) if name == "trades" else cross_entropy(attacked, y)
    torch.testing.assert_close(climbed, expected, rtol=1e-10, atol=0)
    assert torch.autograd.grad(climbed.sum(), [clean], allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("text", "made"),
    [("adversarial", Adversarial()), ("mix?weight=0.5", Mix(0.5)), ("mix", Mix()), ("trades", TRADES()),
     ("trades?beta=1/2", TRADES(0.5)), ("mart", MART()), ("mart?beta=2", MART(2.0))],
)  # fmt: skip
def test_names(text: str, made: object) -> None:
    assert named(chosen("loss", text)[0]) == made
