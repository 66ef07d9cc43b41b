"""C4's noise image: a straight line, of the law that the paper's code draws from, a sample's own in every batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from flatlens.claims.c04_attacks_and_noise import to_noise_image


def inputs(n: int = 200) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [1, 10])
def test_it_is_a_straight_line_in_equal_steps(steps: int) -> None:
    x = inputs()
    points = torch.cat([x[None], to_noise_image(x, 3, (0.0, 1.0), steps)]).double()
    assert points.shape == (steps + 1, 200, 1, 8, 8)
    np.testing.assert_allclose(points.diff(dim=0), ((points[-1] - points[0]) / steps).expand_as(points[1:]), atol=1e-6)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0)])
def test_the_image_has_the_law_of_clipped_noise(bounds: tuple[float, float]) -> None:
    low, high = bounds
    image = to_noise_image(inputs(), 3, bounds, 1)[-1].double().numpy().ravel()
    unit = (image - low) / (high - low)
    inside = unit[(unit > 0) & (unit < 1)]
    # Beyond two standard deviations of 0.25 it is clipped: 2.3 % at each end.
    for end, share in ((0, np.mean(unit <= 0)), (1, np.mean(unit >= 1))):
        assert share == pytest.approx(stats.norm.cdf(-2), abs=0.005), end
    truncated = stats.truncnorm(-2, 2, loc=0.5, scale=0.25)
    assert stats.kstest(inside, truncated.cdf).pvalue > 0.01


def test_a_samples_noise_is_its_own() -> None:
    x = inputs(6)
    whole, some = to_noise_image(x, 3, (0.0, 1.0)), to_noise_image(x[:2], 3, (0.0, 1.0))
    torch.testing.assert_close(whole[:, :2], some, rtol=0, atol=0)
    assert not torch.equal(to_noise_image(x, 4, (0.0, 1.0))[-1], whole[-1])
