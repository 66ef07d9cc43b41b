"""Training: it learns, it is deterministic, and its attack stays where it must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatlens import datasets, models
from flatlens.errors import ModelError
from flatlens.training.fit import accuracy, train
from flatlens.training.inner import PGD, perturb


def data(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    digits = datasets.load(f"flatlens:digits?split={split}")
    return torch.from_numpy(digits.x), torch.from_numpy(digits.y)


def fresh(uri: str = "flatlens:cnn") -> nn.Module:
    return models.load(uri, shape=(1, 8, 8), classes=10).model


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_learns_and_says_how():
    model = fresh()
    history = train(model, *data("train"), rng=rng(), epochs=5, lr=0.01)
    assert len(history.loss) == len(history.accuracy) == 5
    assert history.loss[-1] < 0.3 * history.loss[0]
    assert history.accuracy[-1] > 0.95 and accuracy(model, *data("test")) > 0.93
    assert not model.training


@pytest.mark.parametrize("inner", [None, PGD(2)])
def test_the_seed_alone_decides(inner):
    x, y = (t[:100] for t in data("train"))
    before = torch.random.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        model = fresh()
        train(model, x, y, rng=rng(seed), epochs=2, inner=inner)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_adversarial_training_makes_robust():
    x, y = data("train")
    robust = []
    for inner in (None, PGD(5)):
        model = fresh()
        train(model, x, y, rng=rng(), epochs=12, lr=0.01, inner=inner)
        attacked = perturb(model, x[:300], y[:300], eps=0.1, steps=10, rng=rng())
        robust.append(accuracy(model, attacked, y[:300]))
    assert robust[1] > robust[0] + 0.15


def test_perturb_stays_in_the_ball_and_raises_the_loss():
    model = fresh("flatlens:digits-cnn")
    x, y = data("test")
    attacked = perturb(model, x, y, eps=0.15, steps=10, rng=rng())
    assert (attacked - x).abs().max() <= 0.15 + 1e-6
    assert attacked.min() >= 0 and attacked.max() <= 1 and not attacked.requires_grad
    assert accuracy(model, attacked, y) < accuracy(model, x, y) - 0.3
    assert all(p.grad is None for p in model.parameters())
    start = perturb(model, x, y, eps=0.15, steps=0, step_size=1.0, rng=rng())
    assert 0 < (start - x).abs().max() <= 0.15 + 1e-6


def test_batch_norm_sees_only_what_is_trained_on():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    x, y = (t[:128] for t in data("train"))
    train(model, x, y, rng=rng(), epochs=1, batch_size=64, inner=PGD(3))
    assert int(model[1].num_batches_tracked) == 2


def test_accuracy_weighs_by_samples():
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x

    x = torch.eye(3)[[0, 1, 2, 2, 2]]
    assert accuracy(First(), x, torch.tensor([0, 1, 2, 2, 0]), batch_size=4) == 0.8


def test_a_loss_that_explodes():
    model = fresh()
    x, y = data("test")
    with pytest.raises(ModelError, match=r"^the loss is (nan|inf) in epoch \d; lower lr 1e\+30$"):
        train(model, x, y, rng=rng(), epochs=3, lr=1e30)
