"""The gradients that a run keeps: of the attack's objective where it took one, of the loss where it took none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from flatlens.records.schema import Gradients
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        yield


class Net(nn.Module):
    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.inner, self.fc = nn.Linear(int(np.prod(shape)), 8), nn.Linear(8, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g)
        self.to(dtype).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.inner(x.flatten(1) - 0.5)))


class Blind(Net):
    """Nothing can be differentiated by its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Stopping:
    """The even samples stop after two steps."""

    steps = 4

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        x = batch.x
        for step in range(self.steps + 1):
            rows = torch.arange(1, len(x), 2) if step > 2 else None
            here = victim(x if rows is None else x[rows], batch.y if rows is None else batch.y[rows])
            here.rows = rows
            yield here
            if step < self.steps:
                move = 0.05 * here.grad(lambda at: at.loss).sign()
                x = x + move if rows is None else x.index_add(0, rows, move)


KINDS: dict[str, dict[str, Any]] = {
    "pgd": {},
    "all images": {"images": "all"},
    "float64": {"dtype": torch.float64},
    "rgb": {"shape": (3, 2, 2)},
    "vectors": {"shape": (6,)},
    "one step": {"steps": 1},
    "many batches": {"batch_size": 2},
    "no flips": {"eps": 1e-7},
    "targeted": {"attack": "targeted"},
    "margin": {"attack": "margin"},
    "stops early": {"attack": "stopping"},
    "replayed": {"attack": "along"},
    "an inner layer": {"layers": "inner"},
    "best points": {"attack": "apgd-ce"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_objective(kind: str, tmp_path: Path) -> None:
    how = dict(KINDS[kind])
    shape, dtype = how.pop("shape", (1, 3, 3)), how.pop("dtype", torch.float32)
    eps, steps = how.pop("eps", 0.5), how.pop("steps", 5)
    net = Net(shape, dtype)
    x = torch.rand(7, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    y = net(x).argmax(1)
    name = how.pop("attack", "pgd")
    attack: Any = {
        "pgd": fl.attacks.PGD(eps=eps, steps=steps),
        "targeted": fl.attacks.PGD(eps=eps, steps=steps, target="next"),
        "margin": fl.attacks.PGD(eps=eps, steps=steps, objective="margin"),
        "stopping": Stopping(),
        "along": fl.attacks.along(torch.stack([x, 1 - x, x.flip(0)])),
        "apgd-ce": fl.attacks.find("apgd-ce")(eps=eps, steps=steps),
    }[name]
    trace = fl.trace(net, x, y, attack=attack, out=tmp_path / "run", **how)
    found, images = trace.gradients, trace.images
    assert isinstance(found, Gradients) and images is not None
    assert found.values.dtype == np.float32 and found.values.shape[1:] == shape
    assert (np.diff(found.sample) >= 0).all() and set(found.sample) == set(range(7))
    keys = list(zip(found.sample.tolist(), found.step.tolist(), strict=True))
    assert keys == sorted(set(keys))

    valley, last = trace.valley(), trace.last_steps()
    wanted = {(i, 0) for i in range(7)} | {(i, int(last[i])) for i in range(7)}
    wanted |= {(i, int(step)) for i, step in enumerate(valley.peak_step)}
    wanted |= {(i, int(step)) for i, step in enumerate(valley.flip_step) if step >= 0}
    assert set(keys) == wanted

    # At its last step a path's own point comes before the best one.
    where = {
        key: i for i, key in reversed(list(enumerate(zip(images.sample.tolist(), images.step.tolist(), strict=True))))
    }
    points = torch.from_numpy(images.x[[where[key] for key in keys]]).to(dtype).requires_grad_(True)
    labels = y[torch.from_numpy(found.sample)]
    logits = net(points)
    loss = F.cross_entropy(logits, labels, reduction="none")
    objective = loss
    if name == "targeted":
        objective = -F.cross_entropy(logits, (labels + 1) % 3, reduction="none")
    if name == "margin":
        own = logits.gather(1, labels[:, None])[:, 0]
        objective = logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own
    by_attack = torch.from_numpy(found.own == 1)
    (truth,) = torch.autograd.grad(torch.where(by_attack, objective, loss).sum(), points)
    np.testing.assert_allclose(found.values, truth.numpy(), rtol=2e-4, atol=2e-5)
    # No gradient is taken at the end, nor at all where the path is replayed; APGD takes none at the clean input.
    # Samples that stop early were in the pass of those that go on.
    none = found.step == last[found.sample]
    if name == "stopping":
        none &= found.step == 4
    if name == "apgd-ce":
        none |= found.step == 0
    assert not found.own[none].any()
    assert (found.own[~none] == (name != "along")).all()
    again = fl.open(tmp_path / "run").gradients
    assert again is not None and all(np.array_equal(a, b) for a, b in zip(again, found, strict=True))


def test_there_are_none_without_inputs_or_without_a_gradient(tmp_path: Path) -> None:
    net = Net((4,), torch.float32)
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 2])
    assert fl.trace(net, x, y, images="none", attack=fl.attacks.PGD(steps=2)).gradients is None
    blind = Blind((4,), torch.float32)
    trace = fl.trace(blind, x, y, attack=fl.attacks.along(torch.stack([x, 1 - x])), out=tmp_path / "run")
    assert trace.gradients is None and trace.images is not None
    assert fl.open(tmp_path / "run").gradients is None
