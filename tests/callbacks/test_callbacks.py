"""What is told of a model after an epoch is what `fl.robustness` and a plain attack say; the training is left alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets
from flatlens.errors import DataError, FlatlensError, LoggerError, ModelError, SpecError
from tests import assets
from tests.expected import cautioned

N, EPS = 40, 0.1
NAMES = {"flatlens/log10_kappa", "flatlens/slope", "flatlens/clean_accuracy", "flatlens/pgd10_accuracy"}


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    found = datasets.load("flatlens:digits")
    return torch.from_numpy(found.x)[:N], torch.from_numpy(found.y)[:N]


class Net(nn.Module):
    """With layers that behave otherwise in training; called as the Trainer calls a model, too."""

    def __init__(self, x: Tensor, y: Tensor, steps: int = 60) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 32), nn.Tanh(), nn.Dropout(0.2), nn.Linear(32, 10)
        )
        optimiser = torch.optim.Adam(self.parameters(), 0.02)
        for _ in range(steps):
            optimiser.zero_grad()
            F.cross_entropy(self.net(x), y).backward()
            optimiser.step()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


@pytest.fixture
def net(data: tuple[Tensor, Tensor]) -> Net:
    return Net(*data)


def signed(net: nn.Module, x: Tensor, y: Tensor, seed: int, *, by_margin: bool) -> Tensor:
    """PGD-10, written out: which samples withstand it."""
    rng = torch.Generator().manual_seed(seed)
    low, high = (x - EPS).clamp(min=0), (x + EPS).clamp(max=1)
    here = low + (high - low) * torch.rand(x.shape, generator=rng)
    for _ in range(10):
        here = here.detach().requires_grad_()
        logits = net(here)
        own = logits.gather(1, y[:, None])[:, 0]
        other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        loss = other - own if by_margin else F.cross_entropy(logits, y, reduction="none")
        (slope,) = torch.autograd.grad(loss.sum(), here)
        here = torch.minimum(torch.maximum(here + 0.25 * EPS * slope.sign(), low), high)
    return net(here).argmax(1) == y


@cautioned("few-samples", "masked")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_numbers_are_those_of_robustness_and_of_the_attacks_written_out(
    norm: str, net: Net, data: tuple[Tensor, Tensor]
) -> None:
    eps = EPS if norm == "linf" else 0.5
    found = fl.callbacks.Gauge(*data, eps=eps, norm=norm)(net)
    net.eval()
    whole = fl.robustness(net.net, *data, eps=eps, norm=norm, queries=20)
    assert set(found) == NAMES
    assert 10 ** found["flatlens/log10_kappa"] == pytest.approx(whole.kappa.value, rel=1e-4)
    assert found["flatlens/slope"] == pytest.approx(whole.slope.value, rel=1e-4)
    assert found["flatlens/clean_accuracy"] == whole.clean.value
    if norm == "linf":
        right = net.net(data[0]).argmax(1) == data[1]
        for seed, by_margin in ((0, False), (1, True)):
            right &= signed(net.net, *data, seed, by_margin=by_margin)
        assert found["flatlens/pgd10_accuracy"] == float(right.double().mean())
    assert 0 < found["flatlens/pgd10_accuracy"] < found["flatlens/clean_accuracy"]


def state(net: nn.Module) -> list[Any]:
    modes = [m.training for m in net.modules()]
    return [modes, *(v.clone() for v in net.state_dict().values()), *(p.grad.clone() for p in net.parameters())]


def drawn() -> list[float]:
    return [float(torch.rand(1)), random.random(), float(np.random.rand())]  # noqa: NPY002


@pytest.fixture
def training(net: Net, data: tuple[Tensor, Tensor]) -> Net:
    """A model in the midst of a training: gradients are there, and one part is frozen in eval mode."""
    net.train()
    net.net[1].eval()
    net.net[2].weight.requires_grad_(False)
    net.zero_grad()
    F.cross_entropy(net.net(data[0]), data[1]).backward()
    net.net[2].weight.grad = torch.ones_like(net.net[2].weight)
    return net


@pytest.mark.parametrize("how", ["look", "check"])
def test_the_training_is_left_as_it_was(how: str, training: Net, data: tuple[Tensor, Tensor]) -> None:
    gauge = fl.callbacks.Gauge(*data, eps=EPS)
    before, generators = state(training), (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002
    expected = drawn()
    torch.set_rng_state(generators[0]), random.setstate(generators[1]), np.random.set_state(generators[2])  # noqa: NPY002
    with torch.no_grad():  # as a framework may have it around a callback
        gauge(training) if how == "look" else gauge.check(training)
    assert drawn() == expected
    for one, other in zip(before, state(training), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
    assert [p.requires_grad for p in training.parameters()].count(False) == 1
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in training.modules())


def test_a_failure_leaves_it_as_it_was_too(training: Net, data: tuple[Tensor, Tensor]) -> None:
    before = state(training)
    with pytest.raises(ModelError, match=r"does not take inputs \[1, 1, 4, 4\]"):
        fl.callbacks.Gauge(torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long), eps=EPS).check(training)
    for one, other in zip(before, state(training), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def test_the_same_twice_and_of_a_part_and_of_a_head_without_a_closed_form(
    net: Net, data: tuple[Tensor, Tensor]
) -> None:
    gauge = fl.callbacks.Gauge(*data, eps=EPS, samples=20)
    assert gauge(net) == gauge(net) == fl.callbacks.Gauge(*data, eps=EPS, samples=20, part="net")(net)
    assert gauge(net) == fl.callbacks.Gauge(data[0][:20], data[1][:20], eps=EPS)(net)
    scaled = nn.Sequential(net.net, nn.Hardtanh(-3, 3))
    assert set(gauge(scaled)) == NAMES - {"flatlens/log10_kappa"}


BAD: dict[str, tuple[dict[str, Any], type[FlatlensError], str]] = {
    "norm": ({"norm": "l1", "eps": 1.0}, SpecError, "l1"),
    "no radius": ({"norm": "l2"}, SpecError, "eps must be given for l2|eps= must be given for l2"),
    "radius": ({"eps": -1.0}, SpecError, "eps"),
    "bounds": ({"bounds": (1, 0)}, SpecError, "needs two numbers, the smaller first"),
    "samples": ({"samples": 0}, SpecError, "0"),
    "every": ({"every": 0}, SpecError, "0"),
    "labels": ({"y": torch.zeros(3)}, DataError, "needs whole numbers of shape"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_told_at_once(what: str, data: tuple[Tensor, Tensor]) -> None:
    given, error, said = BAD[what]
    with pytest.raises(error, match=said) as raised:
        fl.callbacks.Gauge(**{"x": data[0], "y": data[1]} | given)
    assert "\n" not in str(raised.value)


def test_what_a_model_cannot_be_is_told_before_the_first_epoch(net: Net, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ModelError, match="no part 'nett'; it has: net"):
        fl.callbacks.Gauge(*data, eps=EPS, part="nett").check(net)
    with pytest.raises(DataError, match="label 11 of sample 0 is out of range: the model has 10 classes"):
        fl.callbacks.Gauge(data[0], data[1] + 10, eps=EPS).check(net)
    with pytest.raises(ModelError, match=r"returns \[1, 1, 8, 8\] for one input"):
        fl.callbacks.Gauge(*data, eps=EPS).check(nn.Identity())


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # of the libraries, about machines without an accelerator
@pytest.mark.parametrize("told", [True, False])
def test_a_trainer_is_told_after_each_epoch(told: bool, net: Net, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    assets.package("accelerate", "pip install 'flatlens[trainer]'")
    transformers = assets.package("transformers", "pip install 'flatlens[trainer]'")
    args = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=20, report_to=[], logging_strategy="epoch",
        save_strategy="no", use_cpu=True, disable_tqdm=True, seed=1, data_seed=1,
    )  # fmt: skip
    rows = [{"pixel_values": x, "labels": int(y)} for x, y in zip(*data, strict=True)]

    def trained(*, watched: bool) -> tuple[Any, Net]:
        own = Net(*data, steps=20)
        trainer = transformers.Trainer(own, args, train_dataset=rows)
        if watched:
            found = fl.callbacks.HuggingFace(*data, eps=EPS, trainer=trainer if told else None)
            trainer.add_callback(found)
        trainer.train()
        return trainer, own

    trainer, own = trained(watched=True)
    history = trainer.state.log_history
    looked = [row for row in history if "flatlens/slope" in row]
    assert [row["epoch"] for row in looked] == [1, 2] and [row["step"] for row in looked] == [2, 4]
    assert looked[-1] == fl.callbacks.Gauge(*data, eps=EPS)(own) | {"epoch": 2, "step": 4}
    assert [row["epoch"] for row in history if "loss" in row] == [1, 2], "the trainer's own numbers are there as well"
    _, alone = trained(watched=False)
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), alone.state_dict().values(), strict=True))


# --- Lightning -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library, or, where it is not installed, the part of its protocol that a callback meets."""
    monkeypatch.delitem(sys.modules, "flatlens.callbacks.lightning", raising=False)
    try:
        import lightning.pytorch  # noqa: F401
    except ModuleNotFoundError:
        package, inner = ModuleType("lightning"), ModuleType("lightning.pytorch")
        inner.Callback = type("Callback", (), {})
        package.pytorch = inner
        monkeypatch.setitem(sys.modules, "lightning", package)
        monkeypatch.setitem(sys.modules, "lightning.pytorch", inner)
    yield
    sys.modules.pop("flatlens.callbacks.lightning", None)


class Module(Net):
    """A LightningModule as a callback sees it."""

    def log_dict(self, found: dict[str, float], **how: Any) -> None:
        self.told = (found, how)


@pytest.mark.usefixtures("lightning")
def test_a_lightning_module_is_told_after_each_epoch(data: tuple[Tensor, Tensor]) -> None:
    module = Module(*data).train()
    callback = fl.callbacks.Lightning(*data, eps=EPS, every=2)
    told = []
    for epoch in range(4):
        trainer = SimpleNamespace(current_epoch=epoch, is_global_zero=True)
        callback.on_fit_start(trainer, module)
        module.told = None
        callback.on_train_epoch_end(trainer, module)
        told.append(module.told)
    assert told[0] is told[2] is None and module.training
    expected = fl.callbacks.Gauge(*data, eps=EPS)(module)
    assert told[1] == told[3] == (expected, {"on_step": False, "on_epoch": True, "rank_zero_only": True})
    module.told = None
    callback.on_train_epoch_end(SimpleNamespace(current_epoch=1, is_global_zero=False), module)
    assert module.told is None, "one process looks"
    with pytest.raises(ModelError, match="no part 'nett'"):
        fl.callbacks.Lightning(*data, eps=EPS, part="nett").on_fit_start(trainer, module)


@pytest.mark.parametrize(
    ("name", "module", "what"),
    [("Lightning", "lightning", "callbacks of Lightning"), ("HuggingFace", "transformers", "callbacks of the Trainer")],
)
def test_a_library_that_is_missing_is_told_with_what_installs_it(
    name: str, module: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"flatlens.callbacks.{name.lower()}"
    for gone in (module, "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, gone, None)
    monkeypatch.delitem(sys.modules, own, raising=False)
    monkeypatch.delattr(fl.callbacks, name.lower(), raising=False)
    with pytest.raises(LoggerError) as raised:
        getattr(fl.callbacks, name)
    extra = "trainer" if name == "HuggingFace" else "lightning"
    assert str(raised.value) == f"{what} need the package '{module}': pip install 'flatlens[{extra}]'"
