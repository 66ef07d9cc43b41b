"""What must hold of a model before anything is measured: each sample is classified by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import ModelError
from tests.expected import cautioned
from tests.oracles import truth

Call = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Layers for a sequence ``[n, 4, 4]``, which ``call`` puts together."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.one, self.fc = nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm, self.batch_norm = nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4)
        self.wrong, self.right = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, batch_first=True)
        self.steps, self.sequence = nn.GRU(4, 4), nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def net(call: Call) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(call).double().eval()


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.arange(6) % 3


def sorted_by_experts(m: nn.Module, x: Tensor) -> Tensor:
    h, first = torch.zeros_like(x), x.mean((1, 2)) > 0.5
    for rows, weight in ((first, 1.0), (~first, -2.0)):
        h[rows] = F.relu(weight * m.one(x[rows]))
    return m.fc(h.mean(1))


MIXED: dict[str, Call] = {
    "a mean over the batch": lambda m, x: m.fc((h := F.relu(m.one(x)).mean(1)) - h.mean(0)),
    "a mean without a gradient": lambda m, x: m.fc((h := F.relu(m.one(x)).mean(1)) - h.mean(0).detach()),
    "a softmax over the batch": lambda m, x: m.fc(F.softmax(m.one(x).mean(1), 0)),
    "batch norm without statistics": lambda m, x: m.fc(F.relu(m.norm(m.one(x).mean(1)))),
    "attention over samples": lambda m, x: m.fc(m.wrong(x, x, x, need_weights=False)[0].mean(1)),
    "samples as steps in time": lambda m, x: m.fc(m.steps(x)[0][:, -1]),
    "samples as steps, backwards": lambda m, x: m.fc(m.steps(x.flip(0))[0].flip(0)[:, -1]),
    "logits that are centred": lambda m, x: (z := m.fc(x.mean(1))) - z.mean(0),
}
APART: dict[str, Call] = {
    "a mean over tokens": lambda m, x: m.fc(F.relu(m.one(x)).mean(1)),
    "batch norm with statistics": lambda m, x: m.fc(F.relu(m.batch_norm(m.one(x).mean(1)))),
    "attention over tokens": lambda m, x: m.fc(m.right(x, x, x, need_weights=False)[0].mean(1)),
    "steps in time": lambda m, x: m.fc(m.sequence(x)[0][:, -1]),
    "one by one": lambda m, x: m.fc(torch.cat([F.relu(m.one(part)).mean(1) for part in x.split(1)])),
    "a mixture of experts": sorted_by_experts,
}


@pytest.mark.parametrize("kind", MIXED)
def test_a_model_that_mixes_samples_is_refused(kind: str) -> None:
    model, (x, y) = net(MIXED[kind]), data()
    works = (
        lambda: fl.trace(model, x, y), lambda: fl.curvature(model, x, y), lambda: fl.robustness(model, x, y, eps=0.1),
        lambda: fl.autopsy(model, x, y, eps=0.1), lambda: fl.detect(model, x, y, eps=0.1),
    )  # fmt: skip
    for work in works:
        with pytest.raises(ModelError, match="the model mixes samples: the logits of one input change by") as caught:
            work()
        assert "\n" not in str(caught.value) and "batch_first=True" in str(caught.value)


@cautioned("low-accuracy")
@pytest.mark.parametrize("kind", APART)
def test_a_model_that_does_not_is_measured(kind: str) -> None:
    model, (x, y) = net(APART[kind]), data()
    expected = truth(model, "fc", x, y)  # of each sample alone
    found = fl.curvature(model, x, y)
    torch.testing.assert_close(found.trace, expected.trace, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.relative_flatness, expected.relative_flatness, rtol=1e-9, atol=1e-15)
    in_float = fl.trace(net(APART[kind]).float(), x.float(), y, attack=fl.attacks.PGD(steps=1))
    assert in_float.matrix("trace").values[:, 0] == pytest.approx(expected.trace.numpy(), rel=1e-4)


class Enlarged(nn.Module):
    """A model that enlarges a rounding which the other inputs of the batch decide on, as an order of summing does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.fc = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        s = self.one(x.flatten(1))
        noise = torch.finfo(s.dtype).eps * x.sum() if len(x) > 1 else 0.0
        return self.fc((s + noise) * 1e-3 + 2000 * noise)


def test_rounding_that_is_enlarged_is_no_mixture() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Enlarged().eval()
    x, y = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(4) % 3
    assert torch.isfinite(fl.curvature(model, x, y).trace).all()


def test_one_sample_mixes_with_none() -> None:
    model, (x, y) = net(MIXED["attention over samples"]), data()
    alone = fl.curvature(model, x[:1], y[:1])
    torch.testing.assert_close(alone.trace, truth(model, "fc", x[:1], y[:1]).trace, rtol=1e-9, atol=1e-15)
