"""The head's closed form against dense Hessians, many-digit arithmetic, and its invariances."""

from __future__ import annotations

import mpmath as mp
import pytest
import torch
from torch import Tensor, nn
from torch.func import hessian

from flatlens.hessian.head import Head

MEASURES = ("trace", "top_eigenvalue", "relative_flatness", "relative_sharpness", "confidence_term")


def linear(classes: int, features: int = 5, seed: int = 0, gap: float = 0.0) -> tuple[nn.Linear, Tensor]:
    """A float64 head and four inputs; the first class leads by about ``gap``."""
    g = torch.Generator().manual_seed(seed)
    head = nn.Linear(features, classes).double()
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, features, generator=g, dtype=torch.float64))
        head.bias.copy_(0.1 * torch.randn(classes, generator=g, dtype=torch.float64))
        head.bias[0] += gap
    return head, 0.3 * torch.randn(4, features, generator=g, dtype=torch.float64)


def dense(head: nn.Linear, a: Tensor, label: int) -> Tensor:
    """∂²ℓ/∂W∂W of one sample, ``[O, I, O, I]``."""

    def loss(weight: Tensor) -> Tensor:
        return nn.functional.cross_entropy(weight @ a + head.bias.detach(), torch.tensor(label))

    return hessian(loss)(head.weight.detach())


@pytest.mark.parametrize("classes", [2, 3, 10, 50])
def test_equals_the_dense_hessian(classes: int) -> None:
    head, a = linear(classes)
    found = Head(head)(a, spectrum=True)
    w = head.weight.detach()
    for i in range(len(a)):
        h = dense(head, a[i], label=i % classes)
        flat = h.reshape(w.numel(), w.numel())
        values = torch.linalg.eigvalsh(flat)
        expected = {
            "trace": flat.trace(),
            "top_eigenvalue": values[-1],
            "relative_flatness": torch.einsum("si,ti,sjtj->", w, w, h),
            "relative_sharpness": w.square().sum() * flat.trace(),
        }
        for name, value in expected.items():
            assert getattr(found, name)[i].item() == pytest.approx(value.item(), rel=1e-10), name
        assert found.spectrum is not None
        torch.testing.assert_close(found.spectrum[i], values.flip(0)[: classes - 1], rtol=1e-10, atol=1e-12)


def test_many_classes_equal_the_dense_hessian() -> None:
    head, a = linear(200, features=3)
    found = Head(head)(a[:1])
    flat = dense(head, a[0], 0).reshape(600, 600)
    assert found.top_eigenvalue.item() == pytest.approx(torch.linalg.eigvalsh(flat)[-1].item(), rel=1e-10)
    assert found.trace.item() == pytest.approx(flat.trace().item(), rel=1e-10)


def exact(head: nn.Linear, a: Tensor) -> dict[str, mp.mpf]:
    """The formulas of the head in arithmetic with more digits than a gap of 600 cancels."""
    weight = [[mp.mpf(v) for v in row] for row in head.weight.tolist()]
    x = [mp.mpf(v) for v in a.tolist()]
    z = [mp.fdot(row, x) + mp.mpf(b) for row, b in zip(weight, head.bias.tolist(), strict=True)]
    top = max(z)
    e = [mp.exp(v - top) for v in z]
    p = [v / mp.fsum(e) for v in e]
    norm = mp.fdot(x, x)
    mean = [mp.fdot(p, column) for column in zip(*weight, strict=True)]
    spread = [mp.fsum((w - m) ** 2 for w, m in zip(row, mean, strict=True)) for row in weight]
    c = mp.fsum(q * (1 - q) for q in p)
    # λ_max of A is the root of the secular equation between the two largest p.
    order = sorted(p, reverse=True)
    low, high = order[1], order[0]
    for _ in range(int(3.4 * mp.mp.dps)):
        mid = (low + high) / 2
        if mp.fsum(q * q / (q - mid) for q in p if q != mid) > 1:
            high = mid
        else:
            low = mid
    return {
        "confidence_term": c,
        "trace": norm * c,
        "relative_flatness": norm * mp.fdot(p, spread),
        "top_eigenvalue": norm * high,
    }


@pytest.mark.parametrize("gap", [0, 5, 17, 37, 100, 600])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_stays_right_in_saturation(classes: int, gap: float) -> None:
    head, a = linear(classes, gap=gap)
    found = Head(head)(a[:1])
    with mp.workdps(50 + gap):
        expected = exact(head, a[0])
        names = [n for n in expected if n != "top_eigenvalue" or classes <= 10]
        for name in names:
            value = mp.mpf(getattr(found, name).item())
            assert abs(value / expected[name] - 1) < 1e-9, (name, value, expected[name])


@pytest.mark.parametrize("gap", [0, 17, 600])
def test_thousand_classes(gap: float) -> None:
    head, a = linear(1000, gap=gap)
    found = Head(head)(a[:1])
    with mp.workdps(320):
        weight = head.weight.tolist()
        z = [mp.fdot(row, a[0].tolist()) + b for row, b in zip(weight, head.bias.tolist(), strict=True)]
        e = [mp.exp(v - max(z)) for v in z]
        p = [v / mp.fsum(e) for v in e]
        c = mp.fsum(q * (1 - q) for q in p)
        assert abs(mp.mpf(found.confidence_term.item()) / c - 1) < 1e-9
        mean = [mp.fdot(p, column) for column in zip(*weight, strict=True)]
        kappa = mp.fdot(a[0].tolist(), a[0].tolist()) * mp.fsum(
            q * mp.fsum((w - m) ** 2 for w, m in zip(row, mean, strict=True)) for q, row in zip(p, weight, strict=True)
        )
        assert abs(mp.mpf(found.relative_flatness.item()) / kappa - 1) < 1e-9


def test_centred_form_for_more_classes_than_distances_are_kept_for(monkeypatch: pytest.MonkeyPatch) -> None:
    head, a = linear(30, gap=200)
    kept = Head(head)(a).relative_flatness
    monkeypatch.setattr("flatlens.hessian.head.PAIRWISE_CLASSES", 10)
    torch.testing.assert_close(Head(head)(a).relative_flatness, kept, rtol=1e-12, atol=0)


def test_kappa_is_invariant_to_layer_scaling_and_trace_is_not() -> None:
    head, a = linear(10)
    scaled = nn.Linear(5, 10).double()
    with torch.no_grad():
        scaled.weight.copy_(3 * head.weight)
        scaled.bias.copy_(head.bias)
    one, other = Head(head)(a), Head(scaled)(a / 3)
    torch.testing.assert_close(other.relative_flatness, one.relative_flatness, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.relative_sharpness, one.relative_sharpness, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.trace, one.trace / 9, rtol=1e-12, atol=0)


def test_kappa_is_not_invariant_to_scaling_input_channels() -> None:
    head, a = linear(10)
    d = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)
    scaled = nn.Linear(5, 10).double()
    with torch.no_grad():
        scaled.weight.copy_(head.weight * d)
        scaled.bias.copy_(head.bias)
    one, other = Head(head)(a), Head(scaled)(a / d)
    assert not torch.allclose(one.relative_flatness, other.relative_flatness, rtol=1e-2)


def test_a_sample_that_is_not_finite_harms_no_other() -> None:
    head, a = linear(10)
    alone = Head(head)(a)
    a[1, 0] = torch.nan
    found = Head(head)(a, spectrum=True)
    for name in MEASURES:
        values = getattr(found, name)
        assert torch.isnan(values[1])
        torch.testing.assert_close(values[[0, 2, 3]], getattr(alone, name)[[0, 2, 3]])
    assert found.finite.tolist() == [True, False, True, True]


def test_float32_features_lose_nothing_more_than_their_rounding() -> None:
    head, a = linear(10, gap=40)
    single = nn.Linear(5, 10)
    single.load_state_dict(head.state_dict())
    found = Head(single)(a.float())
    again, _ = linear(10)
    again.load_state_dict(single.state_dict())
    expected = Head(again)(a.float().double())
    torch.testing.assert_close(found.relative_flatness, expected.relative_flatness, rtol=1e-12, atol=0)
