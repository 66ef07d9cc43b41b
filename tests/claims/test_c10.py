"""C10's rows on tasks whose condition numbers are known, and pairs that share no class."""

from __future__ import annotations

import numpy as np
import pytest

from flatlens.claims import c10_immunization as c10
from flatlens.errors import DataError
from flatlens.immunity.tasks import Task, both


def made(scales: tuple[float, ...], seed: int = 0, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Features whose second moments are about diag(scales²), and targets that are linear in them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, len(scales))) * scales
    return x, x @ np.linspace(1, 2, len(scales))


def hessian(task: Task, theta: np.ndarray | None = None) -> np.ndarray:
    """Of the samples that are seen, with the ridge, by its definition."""
    seen = task.parts(c10.HOLDOUT, 0)[0].x
    k = seen.T @ seen / len(seen)
    k = k + c10.RIDGE * np.trace(k) / len(k) * np.eye(len(k))
    return k if theta is None else theta.T @ k @ theta


def test_the_ceiling_of_a_row_is_the_one_of_the_two_hessians() -> None:
    useful, harmful = both(made((4.0, 1.0, 2.0)), made((1.4, 1.0, 0.3), seed=1))
    row = c10.pair(useful, harmful)
    k_useful, k_harmful = hessian(useful), hessian(harmful)
    pencil = np.linalg.eigvals(np.linalg.solve(k_useful, k_harmful)).real
    bound = pencil.max() / pencil.min() * np.linalg.cond(k_useful) / np.linalg.cond(k_harmful)
    assert row["rir_ceiling"] == pytest.approx(bound, rel=1e-9)
    assert 1 < row["rir"] <= bound * (1 + 1e-9)
    assert row["missing"] == pytest.approx(np.log10(bound / row["rir"]), abs=1e-9)


def test_a_task_against_itself_cannot_be_immunized() -> None:
    task = made((3.0, 1.0, 0.2))
    row = c10.pair(*both(task, task))
    assert row["rir"] == row["rir_ceiling"] == pytest.approx(1)
    assert not (row["immunized"] or row["ten"] or row["slows"]) and row["spares"] and row["left"] == 0


def test_preconditioners_are_as_fast_as_before() -> None:
    row = c10.pair(*both(made((4.0, 1.0, 2.0)), made((2.0, 1.0, 0.01), seed=1)))
    # Three features: conjugate gradients end after three iterations, one step ends on whitened ones.
    assert row["learnt_cg"] and row["learnt_white"] and row["rir"] > 1


@pytest.mark.parametrize(("dead", "rounding"), [(0, False), (1, True)])
def test_the_released_condition_number_is_rounding_where_a_feature_is_dead(dead: int, rounding: bool) -> None:
    scales = (4.0, 1.0, *[0.0] * dead)
    useful, harmful = both(made(scales), made((1.4, 1.0, *[0.0] * dead), seed=1))
    assert c10.pair(useful, harmful)["rounding"] is rounding


@pytest.mark.parametrize(("classes", "count"), [(4, 6), (5, 30), (10, 1260)])
def test_all_pairs_are_two_tasks_without_a_class_in_common(classes: int, count: int) -> None:
    found = c10.drawn(list(range(classes)), 10_000)
    assert len(set(found)) == len(found) == count
    assert all(len({*useful, *harmful}) == 4 for useful, harmful in found)
    assert c10.drawn(list(range(classes)), 5) == found[:5]


def test_three_classes_are_too_few() -> None:
    with pytest.raises(DataError, match="data of 3 classes have no two tasks without a class in common; give at least"):
        c10.drawn([0, 1, 2], 20)


def test_a_task_tells_its_two_classes_apart() -> None:
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
    features, targets = c10.telling(x, y, (2, 1))
    assert features.tolist() == x[[1, 2, 4, 5]].tolist() and targets.tolist() == [-1, 1, -1, 1]
