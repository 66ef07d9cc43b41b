"""C9 on linear networks, whose lengths are known, and what counts as the first time."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from flatlens.claims import c09_wider_basin as c09
from flatlens.wording import CautionWarning
from tests.claims import made

SLOPE = 16.0


def test_a_boundary_so_many_times_as_far_is_a_basin_so_many_times_as_wide() -> None:
    factor = 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        table = c09.measure(made.twins(SLOPE, SLOPE / factor, n=12))
    found = {part.name: part.statistic.of(table).value for part in c09.CLAIM.parts}
    for name in ("size", "direction", "flip", "peak", "distance", "free", "free_flip"):
        assert found[name] == pytest.approx(factor, rel=0.02), name
    # Of two classes, log K is met a hair behind the boundary: at the step that meets it, or the next.
    assert found["log_k"] == pytest.approx(factor, rel=0.12)
    # The loss is log(1 + e^−m) at a margin m; the first step beyond is at most a step later.
    start = np.log1p(np.exp(-made.MARGIN))
    margin = -np.log(np.expm1(start + c09.RISE))
    exact, step = (made.MARGIN - margin) / SLOPE, made.MARGIN / SLOPE / c09.PER_DISTANCE
    assert exact - 0.01 * step <= found["rise_standard"] <= exact + 1.02 * step
    assert found["met_standard"] == found["met_robust"] == 1


@pytest.mark.parametrize(
    ("met", "far", "came"),
    [
        ([False, True, False, True], 1.0, True),
        ([False, False, False, False], 3.0, False),
        ([True, True, True, True], 0.0, True),
        ([False, False, False, True], 2.5, True),
    ],
)
def test_the_first_time_and_the_furthest_point(met: list[bool], far: float, came: bool) -> None:
    found = c09.first(np.array([[0.0, 1.0, 3.0, 2.5]]), np.array([met]))
    assert found[0].tolist() == [far] and found[1].tolist() == [came]
