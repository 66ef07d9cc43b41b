"""Catastrophic overfitting is told of where it happens, and nowhere else: minutes, so `pytest -m slow` runs it."""

from __future__ import annotations

import pytest
import torch

from flatlens import datasets, models
from flatlens.training.defences import FGSM, PGD, fit
from flatlens.training.inner import Inner
from flatlens.training.watch import Row, Watch

CODE = "catastrophic-overfitting"


def trained(uri: str, inner: Inner, eps: float, epochs: int, seed: int) -> tuple[list[str], list[Row]]:
    """The alarms of a training on digits, and what was watched."""
    digits = datasets.load("flatlens:digits?split=train")
    x, y = torch.from_numpy(digits.x), torch.from_numpy(digits.y)
    watch = Watch(x[:128], y[:128], eps=eps, every=1, seed=seed)
    model = models.load(uri, shape=(1, 8, 8), classes=10).model
    fit(model, x, y, rng=torch.Generator().manual_seed(seed), epochs=epochs, eps=eps, inner=inner, watch=watch)
    return [alarm.code for alarm in watch.alarms()], watch.rows


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_one_step_from_the_clean_input_at_a_large_radius(seed: int) -> None:
    told, rows = trained("flatlens:resnet18?width=4", FGSM(start="clean"), 0.2, 12, seed)
    assert CODE in told, [(row.epoch, row.fgsm_accuracy, row.pgd_accuracy) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("inner", "eps"), [(PGD(7), 0.2), (PGD(7), 0.1), (FGSM(), 0.1)], ids=str)
def test_not_where_it_does_not_happen(inner: Inner, eps: float, seed: int) -> None:
    uri = "flatlens:resnet18?width=4" if eps == 0.2 else "flatlens:cnn"
    told, rows = trained(uri, inner, eps, 12, seed)
    assert CODE not in told, [(row.epoch, row.fgsm_accuracy, row.pgd_accuracy) for row in rows]
