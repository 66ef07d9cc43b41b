"""C12 on networks whose answer is known: of a linear one the worst point in a ball is where one step leads."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flatlens.claims import c12_adversarial_training as c12
from flatlens.claims.nets import Case, Net
from flatlens.claims.statistics import Table
from flatlens.wording import CautionWarning

N, FEATURES = 80, 12


def linear(seed: int, scale: float) -> torch.nn.Module:
    rng = torch.Generator().manual_seed(seed)
    model = torch.nn.Linear(FEATURES, 2).requires_grad_(False)
    model.weight.copy_(scale * torch.randn(2, FEATURES, generator=rng))
    # On the middle of the range both classes are equally likely.
    model.bias.copy_(-model.weight.sum(1) / 2)
    return model.eval()


@pytest.fixture(scope="module")
def case() -> Case:
    rng = np.random.default_rng(0)
    x = (0.5 + 0.15 * rng.uniform(-1, 1, (N, FEATURES))).astype(np.float32)
    teacher = linear(0, 1.0)
    with torch.no_grad():
        y = teacher(torch.from_numpy(x)).argmax(1).numpy()
    y[:8] = 1 - y[:8]  # wrong before any attack
    made = Case(Net("toy", {}, "made", 0.3), 70)
    made.__dict__["data"] = SimpleNamespace(x=x, y=y, ids=100 + np.arange(N), bounds=(0.0, 1.0), classes=2)
    for seed, kind in enumerate(c12.CLAIM.kinds):
        made._loaded[kind] = SimpleNamespace(model=linear(0 if seed < 3 else seed, 1.0 + seed))  # type: ignore[assignment]
    return made


@pytest.fixture(scope="module")
def table(case: Case) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)  # of few samples, and of confidence
        return c12.measure(case)


@pytest.mark.parametrize("kind", c12.CLAIM.kinds)
def test_right_is_who_is_farther_from_the_boundary_than_eps(case: Case, table: Table, kind: str) -> None:
    assert table["sample"].tolist() == list(range(100, 170))
    w = case.model(kind).weight.detach().numpy().astype(float)
    b = case.model(kind).bias.detach().numpy().astype(float)
    x, y = case.data.x[:70].astype(float), case.data.y[:70]
    sign = np.where(y == 1, 1.0, -1.0)
    margin, slope = sign * (x @ (w[1] - w[0]) + b[1] - b[0]), np.abs(w[1] - w[0]).sum()
    eps = c12.WIDE if kind == c12.BROKEN else c12.EPS
    radii = {"clean": 0.0, "fgsm": eps, "pgd": eps}
    radii |= {} if kind == c12.BROKEN else {"near": c12.EPS / 2, "far": c12.WIDE}
    assert {name for name in table if name.startswith(f"{kind}_")} == {f"{kind}_{name}" for name in radii}
    for name, radius in radii.items():
        far = np.abs(margin - radius * slope) > 1e-4 * slope
        assert np.array_equal(table[f"{kind}_{name}"][far], (margin > radius * slope)[far])
    assert not table[f"{kind}_pgd"].all()
