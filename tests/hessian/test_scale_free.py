"""κ/(c·gap²): against mpmath, the same for logits of any scale, and nowhere a made-up number."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

import flatlens as fl
from flatlens.hessian.head import Head
from flatlens.probes.prediction import gap
from tests.expected import cautioned


def head(classes=5, inputs=4, scale=1.0, seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, classes, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.mul_(scale)
        linear.bias.mul_(scale)
    return linear


def oracle(linear, a):
    """κ/(c·gap²) from sums of terms of one sign, with 60 digits: mpmath's exponents have no end."""
    with mpmath.workdps(60):
        w, a = ([[mpmath.mpf(v) for v in row] for row in rows.tolist()] for rows in (linear.weight, a[None]))
        z = [
            mpmath.fsum(map(mpmath.fmul, row, a[0])) + mpmath.mpf(b)
            for row, b in zip(w, linear.bias.tolist(), strict=True)
        ]
        e = [mpmath.exp(v - max(z)) for v in z]
        p = [v / mpmath.fsum(e) for v in e]
        pairs = [(j, k) for j in range(len(p)) for k in range(len(p)) if j != k]
        c = mpmath.fsum(p[j] * p[k] for j, k in pairs)
        spread = (
            mpmath.fsum(
                p[j] * p[k] * mpmath.fsum((x - y) ** 2 for x, y in zip(w[j], w[k], strict=True)) for j, k in pairs
            )
            / 2
        )
        first, second = sorted(z, reverse=True)[:2]
        return float(mpmath.fsum(v * v for v in a[0]) * spread / c / (first - second) ** 2)


@pytest.mark.parametrize("classes", [2, 5, 12])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 300.0, 600.0, 750.0, 1e3, 1e5])
def test_head_is_right_at_any_confidence_and_of_logits_at_any_scale(classes, scale):
    linear = head(classes, scale=scale)
    a = torch.randn(6, 4, dtype=torch.float64)
    found = Head(linear)(a).scale_free
    expected = [oracle(linear, row) for row in a]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    if scale >= 1e5:  # what it tends to does not depend on the scale
        np.testing.assert_allclose(found, Head(head(classes, scale=1e7))(a).scale_free, rtol=1e-9)


def test_many_classes_take_the_other_form_of_the_limit(monkeypatch):
    linear, a = head(9, scale=1e4), torch.randn(5, 4, dtype=torch.float64)
    expected = Head(linear)(a).scale_free
    monkeypatch.setattr("flatlens.hessian.head.PAIRWISE_CLASSES", 3)
    np.testing.assert_allclose(Head(linear)(a).scale_free, expected, rtol=1e-12)


def net(scale=1.0):
    torch.manual_seed(1)
    made = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval()
    with torch.no_grad():
        made[2].weight.mul_(scale)
        made[2].bias.mul_(scale)
    return made


def points(n=5):
    torch.manual_seed(2)
    return torch.rand(n, 6, dtype=torch.float64), torch.zeros(n, dtype=torch.long)


@pytest.mark.parametrize("layer", ["head", "0"])
@pytest.mark.parametrize("scale", [1.0, 20.0, 400.0])
def test_every_layer_has_it_from_its_own_columns(layer, scale):
    x, y = points()
    found = fl.curvature(net(scale), x, y, layer=layer)
    z = net(scale)(x).detach()
    expected = found.relative_flatness / found.confidence_term / gap(z) ** 2
    np.testing.assert_allclose(found.scale_free, expected, rtol=1e-9)


def test_a_tie_has_none_and_neither_has_a_lost_confidence_term():
    tied = nn.Sequential(nn.Flatten(), nn.Linear(3, 4)).double().eval()
    with torch.no_grad():
        tied[1].weight[1] = tied[1].weight[0]
        tied[1].bias.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))
    x, y = torch.rand(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    assert fl.curvature(tied, x, y).scale_free.isnan().all()
    x, y = points()
    assert (fl.curvature(net(1e6), x, y).confidence_term == 0).all()
    assert fl.curvature(net(1e6), x, y).scale_free.isfinite().all()
    assert fl.curvature(net(1e6), x, y, layer="0").scale_free.isnan().all()
    assert fl.curvature(net(), x, y, layer="0", loss="mse").scale_free.isnan().all()


@cautioned("low-accuracy")
def test_a_trace_has_both_columns():
    x, y = points()
    trace = fl.trace(net(), x.float(), y, attack=fl.attacks.PGD(eps=0.3, steps=3), layers=["head", "0"])
    gaps = trace.matrix("gap").values
    assert (gaps >= 0).all() and np.isfinite(gaps).all()
    right = trace.matrix("prediction").values == 0
    np.testing.assert_allclose(gaps[right], trace.matrix("margin").values[right])
    for layer in ("head", "0"):
        kappa, c, free = (
            trace.matrix(name, layer=layer).values for name in ("relative_flatness", "confidence_term", "scale_free")
        )
        np.testing.assert_allclose(free, kappa / c / gaps**2, rtol=1e-4)
