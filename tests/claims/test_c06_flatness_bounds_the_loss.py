"""C6's bounds: the formula in other arithmetic, the Lipschitz constant where it is known, what counts as kept."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import flatlens as fl
from flatlens.claims import c06_flatness_bounds_the_loss as c06
from flatlens.wording import CautionWarning


@pytest.mark.parametrize(("length", "slope", "kappa", "square"), [(0.5, 2, 0.25, 4), (3, 0.5, 8, 0.25)])
def test_the_papers_terms(length: float, slope: float, kappa: float, square: float) -> None:
    classes, width = 10, 32
    found = c06.theorem(*(np.array([v], dtype=float) for v in (length, slope, kappa, square)), classes, width)
    d, big, k, r2 = (Fraction(v) for v in (length, slope, kappa, square))
    r = Fraction(square**0.5)
    assert found[0][0] == pytest.approx(float((d * big) ** 2 * k / (2 * r2)), rel=1e-14)
    assert found[1][0] == pytest.approx(float(d**3 * classes * width * big**6 / (24 * r**3)), rel=1e-14)


@pytest.fixture(scope="module")
def isometric() -> fl.Trace:
    """A network whose features are the inputs turned and made 3 times as long: L = 3 everywhere."""
    torch.manual_seed(0)
    first, head = nn.Linear(6, 6), nn.Linear(6, 3)
    with torch.no_grad():
        first.weight.copy_(3 * torch.linalg.qr(torch.randn(6, 6))[0])
    model = nn.Sequential(first, head).double().eval()
    x = torch.rand(20, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    y[:2] = torch.tensor([0, 1])  # the line to another class needs another class
    attack = fl.attacks.PGD(eps=0.3, steps=10, step_size=0.03)
    controls = list(c06.PATHS[1:])
    with warnings.catch_warnings():  # some do not flip; it is the path that is looked at
        warnings.simplefilter("ignore", CautionWarning)
        return fl.trace(model, x, y, attack=attack, controls=controls, images="none", seed=0)


def test_the_lipschitz_constant_of_a_linear_map(isometric: fl.Trace) -> None:
    np.testing.assert_allclose(c06.lipschitz(isometric), 3, rtol=1e-6)  # lengths of inputs are float32's


@pytest.mark.parametrize("path", c06.PATHS)
def test_bounds_along_a_path(isometric: fl.Trace, path: str) -> None:
    found = c06.bounds(isometric, path, np.full(20, 3.0), classes=3, width=6)
    loss = isometric.matrix("loss", path=path).values
    np.testing.assert_allclose(found.rise, loss[:, 1:] - loss[:, :1], atol=1e-12)
    assert c06.all_within(found.rise, found.eigenvalue).all() and c06.all_within(found.rise, found.kappa).all()
    assert (found.eigenvalue <= found.kappa * (1 + 1e-12)).all()
    # With L the true constant, δL is exactly how far the features move: both have the same κ-term at small moves.
    moved = isometric.matrix("feature_distance", path=path).values[:, 1:]
    kappa = isometric.matrix("relative_flatness", path=path).values[:, :1]
    square = isometric.matrix("feature_norm_sq", path=path).values[:, :1]
    np.testing.assert_allclose(found.flatness, moved**2 * kappa / square / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("rise", "limit", "expected"),
    [
        ([0.1, 0.2], [0.1, 0.2], 1),
        ([0.1, 0.2 + 1e-15], [0.1, 0.2], 1),
        ([0.1, 0.2 + 1e-6], [0.1, 0.2], 0),
        ([1e-10, 0.0], [1e-11, 0.0], 0),
        ([-5.0, 0.1], [0.0, np.inf], 1),
    ],
)
def test_one_point_beyond_is_enough(rise: list[float], limit: list[float], expected: int) -> None:
    assert c06.all_within(np.array([rise]), np.array([limit])) == [expected]


def test_without_a_bound_nothing_is_said() -> None:
    assert np.isnan(c06.all_within(np.array([[0.1, 0.2]]), np.array([[np.nan, np.nan]])))[0]
