"""Training against a generator: one that has collapsed is told of, one that learns is not."""

from __future__ import annotations

import math

import pytest
import torch

from flatlens import datasets, models
from flatlens.attacks.generator import Adversary
from flatlens.training import inner
from flatlens.training.defences import Gan, Mix, fit
from flatlens.training.watch import Row, Watch


class Still(Adversary):
    """A generator that learns nothing: its perturbations stay 0."""

    def step(self, *_: object, **__: object) -> float:
        return 0.0


class OnePattern(Adversary):
    """A generator that gives all inputs the same perturbation."""

    def __call__(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        signs = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).sign()
        return (x + self.aim.eps * signs).clamp(0, 1)


@pytest.mark.parametrize(("made", "told"), [(Still, True), (OnePattern, True), (Adversary, False)])
def test_a_generator_that_has_collapsed(made: type[Adversary], told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inner, "Adversary", made)
    digits = datasets.load("flatlens:digits?split=train").take(range(320))
    x, y = torch.from_numpy(digits.x), torch.from_numpy(digits.y)
    watch = Watch(x[:128], y[:128], eps=0.3, every=2)
    model = models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    fit(
        model, x, y, rng=torch.Generator().manual_seed(0), epochs=4, lr=1e-4, eps=0.3, inner=Gan(lr=0.01),
        loss=Mix(), watch=watch,
    )  # fmt: skip
    assert [row.collapsed for row in watch.rows[1::2]] == [float(told)] * 2
    assert ("collapsed" in [alarm.code for alarm in watch.alarms()]) is told


@pytest.mark.parametrize(
    ("looks", "told"),
    [([1.0, 1.0], True), ([1.0, 0.0, 1.0], False), ([1.0], False), ([0.0, 1.0, 1.0], True), ([math.nan] * 3, False)],
)
def test_one_look_is_not_enough(looks: list[float], told: bool) -> None:
    watch = Watch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), eps=0.1)
    watch.rows = [
        Row(i + 1, 1.0, 0.5, fgsm_accuracy=0.5, pgd_accuracy=0.5, zero_gradients=0.0, collapsed=look)
        for i, look in enumerate(looks)
    ]
    assert ("collapsed" in [alarm.code for alarm in watch.alarms()]) is told
