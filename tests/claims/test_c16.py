"""C16 on linear networks, of which the third derivative along an attack is known in closed form."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flatlens.claims import c16_what_robustness_takes as c16
from flatlens.claims.nets import Case, Net
from flatlens.claims.statistics import Table
from flatlens.specs.train import TrainSpec
from flatlens.wording import CautionWarning

N, FEATURES = 60, 12
KINDS = ("none", "pgd", "fam 0.1")


def linear(scale: float) -> torch.nn.Module:
    rng = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(FEATURES, 2).requires_grad_(False)
    model.weight.copy_(scale * torch.randn(2, FEATURES, generator=rng))
    model.bias.copy_(-model.weight.sum(1) / 2)
    return model.eval()


def reached(worst: float, lipschitz: float | None) -> dict[str, Any]:
    values = {"clean": 1 - worst / 2, "worst": worst, "kappa": 10 * worst, "slope": 100.0}
    return {"robustness": {**{key: {"value": value} for key, value in values.items()}, "lipschitz": lipschitz}}


@pytest.fixture(scope="module")
def case() -> Case:
    rng = np.random.default_rng(0)
    x = (0.5 + 0.3 * rng.uniform(-1, 1, (N, FEATURES))).astype(np.float32)
    with torch.no_grad():
        y = linear(1.0)(torch.from_numpy(x)).argmax(1).numpy()
    made = Case(Net("toy", dict.fromkeys(KINDS, ""), "made", 0.3), N)
    made.__dict__["data"] = SimpleNamespace(x=x, y=y, ids=np.arange(N), bounds=(0.0, 1.0), classes=2)
    for scale, kind in enumerate(KINDS, start=1):
        known = reached(0.1 * scale, None if scale == 2 else 10.0**scale)
        made._loaded[kind] = SimpleNamespace(model=linear(scale), reached=known)  # type: ignore[assignment]
    return made


@pytest.fixture(scope="module")
def table(case: Case) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)  # of few samples
        return c16.measure(case)


def test_a_row_is_a_way_of_training(table: Table) -> None:
    assert table["name"].tolist() == list(KINDS) and table["way"].tolist() == [0, 1, 2]
    assert table["learnt"].tolist() == [True, True, False]  # 95, 90 and 85 %
    assert table["robust"] == pytest.approx([0.1, 0.2, 0.3])
    assert table["flat"] == pytest.approx(-np.log10([1, 2, 3]))
    assert table["low_slope"] == pytest.approx([-2, -2, -2])
    assert table["low_lipschitz"][[0, 2]] == pytest.approx([-1, -3]) and np.isnan(table["low_lipschitz"][1])


@pytest.mark.parametrize("index", range(len(KINDS)))
def test_the_third_derivative_is_that_of_two_classes(case: Case, table: Table, index: int) -> None:
    """Of two classes with logits' difference z it is p(1 − p)(1 − 2p) v³, v the change of z in a step."""
    model = case.model(KINDS[index])
    w = (model.weight[1] - model.weight[0]).double().numpy()
    z = case.data.x.astype(float) @ w + float(model.bias[1] - model.bias[0])
    lead = np.abs(z)
    v = c16.EPS / 10 * np.abs(w).sum()
    p = 1 / (1 + np.exp(-(lead[:, None] - v * np.arange(1, 11))))  # after ten steps the corner is reached
    third = np.abs(p * (1 - p) * (1 - 2 * p) * v**3).max(1)
    assert table["low_third"][index] == pytest.approx(-np.log10(np.median(third)), abs=1e-4)
    assert table["gap"][index] == pytest.approx(np.median(lead), rel=1e-5)


@pytest.mark.parametrize("way", c16.WAYS)
def test_every_way_of_training_is_one(way: str) -> None:
    TrainSpec("flatlens:digits", seed=0, **c16.CLAIM.trainings[way])
