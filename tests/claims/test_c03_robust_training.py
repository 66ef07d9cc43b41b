"""C3 on two networks that differ in nothing but how far the boundary is: what is left at the own radius is nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from flatlens.claims import c03_robust_training as c03
from flatlens.claims.statistics import Table
from flatlens.wording import CautionWarning
from tests.claims import made

FACTOR = 2.0
"""How many times as far the robust network's boundary is."""


@pytest.fixture(scope="module")
def table() -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return c03.measure(made.twins(16.0, 16.0 / FACTOR))


def parts(table: Table) -> dict[str, float]:
    return {part.name: part.statistic.of(table).value for part in c03.CLAIM.parts}


def test_the_boundary_is_where_it_was_put(table: Table) -> None:
    np.testing.assert_allclose(table["distance_standard"], made.MARGIN / 16, rtol=0.01)
    np.testing.assert_allclose(table["distance_robust"], FACTOR * made.MARGIN / 16, rtol=0.01)


def test_at_one_radius_the_further_boundary_is_later_and_its_valley_cut_short(table: Table) -> None:
    found = parts(table)
    assert found["distance"] == pytest.approx(FACTOR, rel=0.01)
    # The peak is at the boundary, met in steps of 1/16 of three distances.
    assert found["later_l2"] == pytest.approx(FACTOR, rel=0.1)
    # The standard network ends 2 margins behind the boundary, the other at 3/2 of its distance, ½ margin behind it.
    p = [1 / (1 + np.exp(lead * made.MARGIN)) for lead in (2, 0.5)]
    expected = np.log10(p[1] * (1 - p[1])) - np.log10(p[0] * (1 - p[0]))
    assert found["shallower_l2"] == pytest.approx(expected, abs=0.2)
    # In linf a step is 0.24 long in l2: the peaks are at the second step and the third.
    assert found["later"] == pytest.approx(1.5) and found["shallower"] > 0.5


def test_at_the_own_radius_nothing_is_left(table: Table) -> None:
    found = parts(table)
    assert found["later_own"] == pytest.approx(1, abs=0.02)
    assert found["shallower_own"] == pytest.approx(0, abs=0.1) and found["fewer_own"] == 0
