"""What is watched: rows against their definitions, alarms by tables of rows, and what watching costs and changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flatlens import datasets, models
from flatlens.hessian.head import Head
from flatlens.training.fit import train
from flatlens.training.inner import PGD, perturb
from flatlens.training.watch import PASSES, SHARE, Alarm, Row, Watch, pace, watched


def digits(n: int) -> tuple[Tensor, Tensor]:
    found = datasets.load("flatlens:digits").take(range(n))
    return torch.from_numpy(found.x), torch.from_numpy(found.y)


def net(classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), nn.GELU(), nn.Linear(12, classes))


def look(watch: Watch, model: nn.Module, epoch: int = 1, *, last: bool = True) -> Row:
    watch.look(model, epoch, 0.5, 0.75, 0.01, 2.0, last=last)
    return watch.rows[-1]


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 31])
def test_a_row_is_what_its_columns_say(n: int) -> None:
    """Computed anew, sample by sample, in the shipped model's own terms."""
    model = models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    (x, y), eps = digits(n), 0.15
    row = look(Watch(x, y, eps=eps, seed=3), model.train())
    model.eval()
    assert (row.epoch, row.loss, row.accuracy, row.lr, row.seconds) == (1, 0.5, 0.75, 0.01, 2.0)

    def right(at: Tensor) -> float:
        return np.mean([int(model(one[None]).argmax()) == int(label) for one, label in zip(at, y, strict=True)])

    features: list[Tensor] = []
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    hook = head.register_forward_hook(lambda module, given, out: features.append(given[0].detach()))
    slopes, weights = [], []
    for one, label in zip(x, y, strict=True):
        at = one[None].clone().requires_grad_(True)
        loss = nn.functional.cross_entropy(model(at), label[None])
        slope, *of_weights = torch.autograd.grad(loss, [at, *model.parameters()])
        slopes.append(slope[0])
        weights.append(torch.cat([g.flatten() for g in of_weights]))
    hook.remove()
    kappa = Head(head)(torch.cat(features)).relative_flatness.numpy()
    sign = torch.stack(slopes).sign()
    pgd = perturb(model, x, y, eps=eps, steps=10, rng=torch.Generator().manual_seed(3))
    expected = {
        "watched_accuracy": right(x),
        "fgsm_accuracy": right((x + eps * sign).clamp(0, 1)),
        "pgd_accuracy": right(pgd),
        "flatness_mean": kappa.mean(),
        "flatness_median": np.median(kappa),
        "weight_gradient": torch.stack(weights).mean(0).norm().item(),
        "input_gradient": np.mean([s.norm().item() for s in slopes]),
        "zero_gradients": np.mean([not s.any() for s in slopes]),
    }
    for name, value in expected.items():
        assert getattr(row, name) == pytest.approx(value, rel=1e-3), name
    assert row.watched_accuracy > row.fgsm_accuracy > row.pgd_accuracy


def test_gradients_of_zero_are_counted() -> None:
    class Flat(nn.Linear):
        """No slope where the first pixel is 0."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * (x[:, :1] > 0))

    x = torch.rand(40, 4)
    x[:10, 0] = 0
    assert look(Watch(x, torch.arange(40) % 3, eps=0.1), Flat(4, 3)).zero_gradients == 0.25


def test_what_is_not_looked_at_is_nan() -> None:
    watch, model = Watch(*digits(20), eps=0.1, every=3), net()
    rows = [look(watch, model, epoch, last=epoch == 7) for epoch in range(1, 8)]
    assert [not math.isnan(row.pgd_accuracy) for row in rows] == [False, False, True, False, False, True, True]
    assert [row.epoch for row in rows] == list(range(1, 8)) and not any(math.isnan(row.loss) for row in rows)


def test_a_model_without_a_head_has_no_flatness() -> None:
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    row = look(Watch(*digits(20), eps=0.1), model)
    assert math.isnan(row.flatness_mean) and math.isnan(row.flatness_median)
    assert not math.isnan(row.pgd_accuracy) and row.weight_gradient > 0


def test_each_look_begins_at_the_same_starts() -> None:
    model, watch = net(), Watch(*digits(20), eps=0.1)
    assert look(watch, model, 1)[3:11] == look(watch, model, 2)[3:11]


# --- alarms ----------------------------------------------------------------------------------------------------------


def alarms(rows: list[Row], **how: Any) -> list[Alarm]:
    watch = Watch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), eps=0.1, **how)
    watch.rows = rows
    return list(watch.alarms())


def rows(*pairs: tuple[float, float] | None, zero: float = 0.0, own: float | None = None) -> list[Row]:
    """One epoch each: accuracy under FGSM and PGD, or None where nobody looked; the training's own is FGSM's."""
    return [
        Row(i, 1.0, 0.5)
        if pair is None
        else Row(
            i,
            1.0,
            pair[0] if own is None else own,
            0.9,
            *pair,
            flatness_mean=1.0,
            flatness_median=1.0,
            zero_gradients=zero,
        )
        for i, pair in enumerate(pairs, 1)
    ]


GOOD = (0.7, 0.65)
FAILED = (0.6, 0.1)
ALARMS: dict[str, tuple[list[Row], dict[str, Any], list[tuple[str, int]]]] = {
    "nothing": ([], {"held_out": True}, []),
    "all well": (rows(*[GOOD] * 5), {"held_out": True}, []),
    "never looked": (rows(None, None), {"held_out": True}, []),
    "failed once": (rows(GOOD, FAILED, GOOD), {}, []),
    "failed in the last epoch": (rows(GOOD, GOOD, FAILED), {}, []),
    "failed twice": (rows(GOOD, FAILED, FAILED, FAILED), {}, [("catastrophic-overfitting", 3)]),
    "failed at two looks": (rows(FAILED, None, FAILED), {}, [("catastrophic-overfitting", 3)]),
    "failed from the first": (rows(FAILED, FAILED, GOOD), {}, [("catastrophic-overfitting", 2)]),
    "not twice running": (rows(FAILED, GOOD, FAILED, GOOD), {}, []),
    "a gap but no half": (rows((0.9, 0.7), (0.9, 0.5)), {}, []),
    "half but no gap": (rows((0.2, 0.08), (0.2, 0.06)), {}, []),
    "still beginning to learn": (rows((0.3, 0.02), (0.3, 0.05), own=0.1), {}, []),
    "hidden from FGSM": (rows((0.1, 0.02), (0.1, 0.02), own=0.6), {}, [("catastrophic-overfitting", 2)]),
    "not seen in the training": (rows((0.3, 0.2), (0.3, 0.2), own=0.9), {"held_out": True}, []),
    "no attack to be fooled by": (rows(FAILED, FAILED), {"attacked": False}, []),
    "stands still": (rows(GOOD, zero=0.58), {}, [("stands-still", 1)]),
    "a few stand still": (rows(GOOD, GOOD, zero=0.05), {}, []),
    "both": (
        [*rows(FAILED, FAILED), *rows(GOOD, zero=0.3)[:1]],
        {},
        [("stands-still", 1), ("catastrophic-overfitting", 2)],
    ),
    "overfitted": (rows((0.8, 0.6), (0.9, 0.75), (0.9, 0.68)), {"held_out": True}, [("robust-overfitting", 3)]),
    "fell and rose again": (rows((0.9, 0.75), (0.8, 0.5), (0.9, 0.72)), {"held_out": True}, []),
    "fell a little": (rows((0.9, 0.75), (0.9, 0.71)), {"held_out": True}, []),
    "fell, of samples trained on": (rows((0.9, 0.75), (0.9, 0.6)), {}, []),
    "fell, but is not trained for it": (rows((0.9, 0.75), (0.9, 0.6)), {"held_out": True, "attacked": False}, []),
    "NaN beside": (rows((0.9, 0.75), None, (0.9, 0.6)), {"held_out": True}, [("robust-overfitting", 3)]),
}


@pytest.mark.parametrize("name", ALARMS)
def test_alarms(name: str) -> None:
    given, how, expected = ALARMS[name]
    found = alarms(given, **how)
    assert [(alarm.code, alarm.epoch) for alarm in found] == expected
    assert all("\n" not in alarm.text for alarm in found)


def test_alarms_in_words() -> None:
    (one,) = alarms(rows(GOOD, (0.3, 0.03), (0.3, 0.03)))
    assert one.text == (
        "catastrophic overfitting in epoch 3: 30 % are right under the training's own attack, and of the watched "
        "samples FGSM 30 %, PGD-10 3 %; use --adversarial pgd"
    )
    (one,) = alarms(rows(GOOD, zero=0.58))
    assert "the gradient is 0 for 58 % of the watched samples" in one.text
    (one,) = alarms(rows((0.9, 0.75), (0.9, 0.68)), held_out=True)
    assert one.text.startswith("robust overfitting: held-out PGD fell from 75 % (epoch 1) to 68 %")


@pytest.mark.parametrize(("attacked", "best"), [(True, 2), (False, 3)])
def test_the_best_epoch(attacked: bool, best: int) -> None:
    """By PGD where there is an attack, the first of equals; else by clean inputs."""
    given = [
        Row(i, 1.0, 0.5, clean, 0.0, pgd)
        for i, (clean, pgd) in enumerate([(0.8, 0.3), (0.8, 0.5), (0.9, 0.5), (0.9, 0.4)], 1)
    ]
    watch = Watch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), eps=0.1, attacked=attacked)
    assert watch.best == 0 and not watch.is_best
    was = []
    for row in given:
        watch.rows.append(row)
        was.append(watch.is_best)
    assert watch.best == best and was == [True, attacked, not attacked, False]
    again = Watch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), eps=0.1, attacked=attacked)
    again.load_state_dict(watch.state_dict())
    assert again.rows == watch.rows and again.best == best


# --- what it costs, and changes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1.0, 4.0, 8.0, 16.0])
@pytest.mark.parametrize("samples", [10, 64, 300, 1347, 60_000])
def test_watching_takes_a_tenth_at_most(samples: int, passes: float) -> None:
    every = pace(samples, passes)
    assert every >= 1 and watched(samples) <= min(samples, 256)
    assert PASSES * watched(samples) / (every * samples * passes) <= SHARE + 1e-12
    # And no less often than that allows.
    assert every == 1 or PASSES * watched(samples) / ((every - 1) * samples * passes) > SHARE


def test_passes_are_counted() -> None:
    """Forward ones; two answers without a gradient make up for the one more."""
    model, seen = net(), []
    model.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    watch = Watch(*digits(20), eps=0.1)
    look(watch, model)
    assert seen.count(20) == PASSES + 1 and sum(seen) <= 20 * (PASSES + 1) + 2  # two samples to find the head by


@pytest.mark.parametrize("inner", [None, PGD(2)], ids=["standard", "pgd"])
def test_watching_does_not_change_the_weights(inner: PGD | None) -> None:
    """Dropout and batch norm: nothing is drawn, and no statistics move."""
    x, y = digits(96)
    weights = []
    for watch in (None, Watch(x[:32], y[:32], eps=0.1)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), *net()[1:])
        train(model, x, y, rng=torch.Generator().manual_seed(1), epochs=3, batch_size=32, inner=inner, watch=watch)
        weights.append(model.state_dict())
    assert watch is not None and len(watch.rows) == 3
    assert all(torch.equal(one, other) for one, other in zip(*(w.values() for w in weights), strict=True))


def test_the_best_epoch_is_the_one_that_is_kept() -> None:
    x, y = digits(96)
    model = net()
    watch = Watch(x[64:], y[64:], eps=0.1, held_out=True, attacked=False)
    history = train(
        model, x[:64], y[:64], rng=torch.Generator().manual_seed(1), epochs=6, lr=0.2, batch_size=16, watch=watch,
        keep_best=True,
    )  # fmt: skip
    accuracies = [row.watched_accuracy for row in watch.rows]
    assert history.epoch == watch.best == accuracies.index(max(accuracies)) + 1 < 6
    assert (model(x[64:]).argmax(1) == y[64:]).float().mean().item() == pytest.approx(max(accuracies))
