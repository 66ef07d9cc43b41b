"""All ordered pairs of tasks: each is the immunization of these two; on MNIST all 90 of them can be immunized."""

from __future__ import annotations

import time

import numpy as np
import pyarrow.compute as pc
import pytest

import flatlens as fl
from flatlens.immunity.pairs import SCHEMA, by_class, halved, pairs
from tests.assets import mnist
from tests.immunity.made import pair

(X, Y), (Z, _) = pair()
TASKS = {"a": X, "b": Z, "c": pair(seed=5)[0][0]}


@pytest.mark.parametrize("method", ["ceiling", "alg1"])
@pytest.mark.parametrize("holdout", [0.0, 0.3])
def test_a_row_is_the_immunization_of_its_pair(method, holdout):
    settings = {"ridge": 0.01, "steps": 12, "holdout": holdout}
    seen = []
    table = pairs(TASKS, method, **settings, progress=seen.append)
    assert table.schema == SCHEMA
    rows = table.to_pylist()
    assert [(row["primary"], row["harmful"]) for row in rows] == [
        tuple(two) for two in ["ab", "ac", "ba", "bc", "ca", "cb"]
    ]
    assert [(one.done, one.total) for one in seen] == [(k, 6) for k in range(1, 7)]
    alone = fl.immunize(Z, X, method, **settings)
    told = {name: rows[2][name] for name in ("i", "ii", "rir", "bound", "steps", "stop")}
    assert told == {name: getattr(alone, name) for name in told}
    held = [rows[2][f"heldout_{name}"] for name in ("i", "ii", "rir")]
    assert np.isnan(held).all() if not holdout else held == list(alone.heldout)


def test_targets_are_taken_and_not_learnt(monkeypatch):
    monkeypatch.setattr("flatlens.immunity.attackers.table", None)
    assert pairs({"a": (X, Y), "b": Z}).num_rows == 2


def test_images_are_halved_by_means_of_four_pixels_and_split_by_class():
    x = np.arange(2 * 2 * 4 * 6, dtype=np.float32).reshape(2, 2, 4, 6)
    small = halved(x)
    assert small.shape == (2, 12) and small.dtype == np.float64
    assert small[1].reshape(2, 2, 3)[1, 0, 2] == x[1, 1, :2, 4:].mean()
    classes = by_class(X, np.arange(120) % 3)
    assert list(classes) == ["0", "1", "2"] and np.array_equal(classes["1"], X[1::3])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pairs({"a": X}), "1 task makes no pair"),
        (lambda: pairs(TASKS, "alg2"), "no method 'alg2'.*Did you mean 'alg1'"),
        (lambda: pairs({"a": X, "b": X[:, :2]}), "6 features and the harmful one 2"),
        (lambda: by_class(X, np.zeros(120)), "all 120 samples are of class 0.0; pairs need"),
        (lambda: by_class(X, [1, 2]), "120 samples and 2 labels"),
        (lambda: halved(np.zeros((1, 1, 3, 4))), r"images of shape \[1, 1, 3, 4\]; give .* even"),
    ],
)
def test_what_cannot_be_is_one_line(call, says):
    with pytest.raises(fl.FlatlensError, match=says):
        call()


def digits(split, *, only=range(10)):
    data = fl.datasets.load(f"idx:{mnist()}?split={split}")
    return {name: x for name, x in by_class(halved(data.x), data.y).items() if int(name) in only}


def fulfilled(table):
    """i > 1, ii < 1, log RIR ≥ 2 in every pair and ≥ 3.5 on average."""
    ratio = np.log(table["rir"].to_numpy())
    assert pc.min(table["i"]).as_py() > 1 > pc.max(table["ii"]).as_py()
    assert ratio.min() >= 2 and ratio.mean() >= 3.5


@pytest.mark.parametrize("method", ["ceiling", "alg1"])
def test_two_digits_of_mnist_can_be_immunized_against_each_other(method):
    fulfilled(pairs(digits("test", only=(1, 7)), method))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ceiling", "alg1"])
def test_all_90_pairs_of_mnist_can_be_immunized(method):
    tasks, begun = digits("train"), time.perf_counter()
    table = pairs(tasks, method)
    assert table.num_rows == 90
    fulfilled(table)
    print(f"{time.perf_counter() - begun:.0f} s")
