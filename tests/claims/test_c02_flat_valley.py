"""C2 reads shorter attacks off a longer one: each is what an attack of that length is."""

from __future__ import annotations

import warnings
from dataclasses import fields

import numpy as np
import pytest

import flatlens as fl
from flatlens import datasets, models
from flatlens.claims import c02_flat_valley as c02
from flatlens.records.valley import Valley
from flatlens.wording import CautionWarning


def walked(steps: int) -> fl.Trace:
    """PGD of so many steps of one length, on the shipped network."""
    data = datasets.load("flatlens:digits?split=test")
    model = models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    attack = fl.attacks.PGD(eps=0.3, steps=steps, step_size=0.03)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)
        return fl.trace(model, data.x[:24], data.y[:24], attack=attack, images="none")


@pytest.fixture(scope="module")
def long() -> fl.Trace:
    return walked(40)


@pytest.mark.parametrize("length", [1, 4, 10])
def test_a_cut_path_is_the_shorter_attack(long: fl.Trace, length: int) -> None:
    found, expected = c02.cut(long, length), walked(length).valley()
    for field in fields(Valley):
        if field.name != "cautions":
            np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), field.name)


def test_cut_nowhere_it_is_the_whole(long: fl.Trace) -> None:
    np.testing.assert_array_equal(c02.cut(long, 40).is_valley, long.valley().is_valley)
    # What it was after one step is no valley: a path of one step has no inside.
    assert not c02.cut(long, 1).is_valley.any() and long.valley().is_valley.any()
