"""The bound of the loss along a path: analytic cases, and no violation on real paths of real models."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.attacks import CONTROLS
from flatlens.probes.certificate import Certificate, bound, psi
from flatlens.victims.images import ImageVictim
from tests.expected import cautioned
from tests.records.test_cautions import codes, row
from tests.records.test_cautions import trace as made

COLUMNS = ("certificate_bound_kappa", "certificate_bound_eigenvalue")


def test_psi_against_mpmath() -> None:
    r = [0.0, 1e-300, 1e-12, 1e-6, 1e-3, 0.1, 0.4999999, 0.5, 0.51, 1.0, 5.0, 30.0, 300.0, 709.0, 715.0]
    with mpmath.workdps(700):
        true = [float((mpmath.e**v - v - 1) / mpmath.mpf(v) ** 2) if v else 0.5 for v in map(mpmath.mpf, r)]
    np.testing.assert_allclose(psi(torch.tensor(r, dtype=torch.float64)), true, rtol=1e-12)
    assert psi(torch.tensor([1e4], dtype=torch.float64)).item() == np.inf


def test_the_bound_is_never_undefined() -> None:
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert bound(zero, zero, one, torch.tensor([torch.inf, 0.0], dtype=torch.float64)).tolist() == [torch.inf, 0]


def head(classes: int, features: int, scale: float, seed: int) -> nn.Linear:
    g = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features, classes).double()
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(classes, features, generator=g, dtype=torch.float64))
        layer.bias.copy_(torch.randn(classes, generator=g, dtype=torch.float64))
    return layer.eval()


def anchored(layer: nn.Linear, x: Tensor, y: Tensor) -> tuple[ImageVictim, Certificate, object]:
    victim = ImageVictim(layer, x, bounds=(-1e9, 1e9))
    certificate = Certificate.of(victim)
    assert certificate is not None
    return victim, certificate, certificate.anchor(victim(x, y, final=True))


@pytest.mark.parametrize(("classes", "features"), [(2, 1), (2, 5), (10, 4), (10, 48), (40, 30)])
@pytest.mark.parametrize("scale", [0.1, 1, 30])
def test_anchor_against_dense_matrices(classes: int, features: int, scale: float) -> None:
    layer = head(classes, features, scale, seed=classes)
    x = torch.randn(12, features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % classes
    _, certificate, anchor = anchored(layer, x, y)
    for i in range(12):
        phi = x[i].clone().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(layer(phi), y[i]), phi)
        p = torch.softmax(layer(x[i]), 0).detach()
        w = layer.weight.detach()
        dense = w.T @ (p.diag() - p.outer(p)) @ w
        size = float(w.square().sum())
        assert float(anchor.slope[i]) == pytest.approx(float(slope.norm()), rel=1e-9, abs=1e-13 * size**0.5)
        assert float(anchor.variance[i]) == pytest.approx(float(dense.trace()), rel=1e-9, abs=1e-13 * size)
        assert float(anchor.eigenvalue[i]) == pytest.approx(
            float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-9, abs=1e-13 * size
        )
    kappa = fl.curvature(layer, x, y).relative_flatness
    torch.testing.assert_close(anchor.variance * x.square().sum(1), kappa, rtol=1e-9, atol=0)
    wide = max(float((a - b).norm()) for a in layer.weight.detach() for b in layer.weight.detach())
    assert certificate.diameter == pytest.approx(wide)


def test_two_classes_in_one_dimension_are_the_scalar_formula() -> None:
    """ℓ(φ) = log(1 + e^{−wφ}): slope w·q, curvature w²·p·q, R = ρ·w; all by hand."""
    layer = nn.Linear(1, 2, bias=False).double().eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0], [0.0]]))
    x, y = torch.tensor([[0.2]], dtype=torch.float64), torch.tensor([0])
    victim, certificate, anchor = anchored(layer, x, y)
    q = 1 / (1 + np.exp(0.6))
    for move in (0.3, -0.7):
        here = certificate(victim(x + move, y, final=True), anchor)
        rho, r = abs(move), 3 * abs(move)
        expected = rho * 3 * q + rho**2 * 9 * q * (1 - q) * (np.exp(r) - r - 1) / r**2
        for column in COLUMNS:
            assert float(here[column]) == pytest.approx(expected, rel=1e-12)
        change = np.log1p(np.exp(-3 * (0.2 + move))) - np.log1p(np.exp(-0.6))
        assert float(here["loss_change"]) == pytest.approx(change, rel=1e-12)
        assert float(here["feature_distance"]) == pytest.approx(rho)


@pytest.mark.parametrize("scale", [0.01, 1, 20])
def test_holds_at_random_points_saturated_ones_included(scale: float) -> None:
    g = torch.Generator().manual_seed(7)
    n = 2000
    layer = head(10, 6, scale, seed=1)
    x = torch.randn(n, 6, generator=g, dtype=torch.float64)
    y = torch.randint(10, (n,), generator=g)
    victim, certificate, anchor = anchored(layer, x, y)
    for length in (1e-9, 1e-4, 0.1, 1, 30):
        # Along the gradient, where the bound is tightest, and at random.
        p = torch.softmax(layer(x), 1).detach()
        up = (p - nn.functional.one_hot(y, 10)) @ layer.weight.detach()
        for direction in (up, torch.randn(x.shape, generator=g, dtype=torch.float64)):
            move = length * direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-300)
            holds(certificate(victim(x + move, y, final=True), anchor))
    at_home = certificate(victim(x, y, final=True), anchor)
    for column in (*COLUMNS, "loss_change", "feature_distance"):
        assert not at_home[column].any()


def holds(columns: dict[str, Tensor]) -> None:
    change = columns["loss_change"]
    kappa, eigenvalue = (columns[name] for name in COLUMNS)
    assert not torch.isnan(torch.stack([change, kappa, eigenvalue])).any()
    assert bool((eigenvalue <= kappa * (1 + 1e-12)).all())
    assert bool((change <= eigenvalue + 1e-9 * (1 + change.abs())).all())


@cautioned("low-accuracy")
def test_many_classes_have_the_bound_by_kappa_alone() -> None:
    layer, x, y = head(200, 20, 0.3, seed=3), torch.rand(6, 20).double(), torch.arange(6)
    trace = fl.trace(layer, x, y, attack=fl.attacks.PGD(eps=0.5, steps=5))
    assert trace.layers["certificate_bound_eigenvalue"].null_count == trace.layers.num_rows
    change, kappa = (trace.matrix(name).values for name in ("loss_change", "certificate_bound_kappa"))
    assert (change <= kappa + 1e-9).all() and np.isfinite(kappa).all()


@cautioned("flat-because-confident", "low-accuracy", "not-converged")
@pytest.mark.parametrize(
    ("samples", "least"), [(60, 20_000), pytest.param(450, 100_000, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_no_violation_along_real_paths(samples: int, least: int) -> None:
    """Points of the built-in models, under attacks and controls."""
    digits = datasets.load("flatlens:digits")
    x, y = torch.from_numpy(digits.x)[:samples], torch.from_numpy(digits.y)[:samples]
    points = 0
    for uri in ("flatlens:digits-cnn", "flatlens:digits-cnn-robust", "flatlens:mlp?act=gelu", "flatlens:cnn?act=silu"):
        model = models.load(uri, shape=(1, 8, 8), classes=10).model
        for attack in (fl.attacks.PGD(eps=0.3, steps=20), fl.attacks.PGD(eps=3, norm="l2", steps=20)):
            trace = fl.trace(model, x, y, attack=attack, controls=list(CONTROLS), images="none")
            change = trace.layers["loss_change"].to_numpy()
            for column in COLUMNS:
                values = trace.layers[column].to_numpy()
                assert not np.isnan(values).any()
                assert (change <= values + 1e-9 * (1 + np.abs(change))).all()
            points += len(change)
            assert "certificate-violated" not in [c.code for c in trace.cautions]
    assert points >= least


def test_a_violation_is_a_caution() -> None:
    assert "certificate-violated" not in codes(made(loss_change=1.0, certificate_bound_kappa=1.0))
    said = codes(made(loss_change=row([0, 1, 2, 3, 4, 5], 0.0), certificate_bound_kappa=2.5))
    assert said["certificate-violated"].startswith(
        "the loss exceeds certificate_bound_kappa at 3 of 24 points, by 2.5 nats at most"
    )
