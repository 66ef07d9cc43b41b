"""Distances to the boundary: of a linear network they are known, and no scale of its logits changes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flatlens.claims import distances
from flatlens.claims.nets import Case, Net
from flatlens.models.scaled import scaled


@pytest.fixture(scope="module")
def linear() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A linear network on points that are so far from the bounds that these do not matter."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4, bias=False)).eval()
    x = 0.5 + 0.02 * torch.randn(24, 1, 4, 4)
    return model, x, model(x).argmax(1)


def case() -> Case:
    return Case(Net("made", {}, "flatlens:digits", 0.3), 24)


def exact(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """The least over the other classes of z_y − z_k over ‖w_y − w_k‖."""
    weight = model[1].weight.detach().double().numpy()
    points, label = x.flatten(1).double().numpy(), y.numpy()
    ahead = (weight[label][:, None] - weight[None]) @ points[:, :, None]
    apart = np.linalg.norm(weight[label][:, None] - weight[None], axis=2)
    return np.nanmin(np.where(apart > 0, ahead[..., 0] / np.where(apart > 0, apart, 1), np.inf), axis=1)


def test_ddn_finds_the_distance_to_the_nearest_hyperplane(linear: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, x, y = linear
    found = distances.nearest(case(), model, x, y)
    true = exact(model, x, y)
    assert (found.distance >= true * (1 - 1e-5)).all()  # an upper bound
    assert np.median(found.distance / true) < 1.02 and (found.distance / true).max() < 1.1
    np.testing.assert_allclose(found.distance, np.linalg.norm((found.x - x.numpy()).reshape(24, -1), axis=1), rtol=1e-5)


@pytest.mark.parametrize(("scale", "tolerance"), [(0.25, 0), (4, 0), (2.0**20, 0), (5, 1e-5), (50, 1e-5)])
def test_no_scale_changes_a_distance(
    linear: tuple[nn.Module, torch.Tensor, torch.Tensor], scale: float, tolerance: float
) -> None:
    """Powers of two to the last bit; others but for the rounding of the weights."""
    model, x, y = linear
    plain = distances.nearest(case(), model, x, y)
    found = distances.nearest(case(), scaled(model, scale, x), x, y)
    np.testing.assert_allclose(found.distance, plain.distance, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("distance", "expected"), [([1.0, 2, 4], 2), ([1.0, np.nan, 3], 2), ([np.nan, np.nan], 1)]
)  # fmt: skip
def test_the_radius_is_the_median_of_those_that_turn(distance: list[float], expected: float) -> None:
    assert distances.radius(np.array(distance)) == expected
