"""Checkpoints as people have them: found, fitted, or refused in one line that says what is missing."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flatlens_cli import app
from safetensors.torch import save_file
from torch import Tensor, nn

from flatlens import models
from flatlens.errors import ModelError

SHAPE = (1, 8, 8)
Weights = dict[str, Tensor]


class Net(nn.Module):
    """What the checkpoints are of; the same as in `CODE`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(72, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))


CODE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(72, 10)
    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))
class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Net()
    def forward(self, x):
        return self.backbone(x)
def parallel():
    return nn.DataParallel(Net())
"""


def made(seed: int) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net()
        nn.init.uniform_(net.bn.running_var, 0.5, 2.0)
    return net


W: Weights = made(1).state_dict()
EMA: Weights = made(2).state_dict()
FILLED = {"epoch": 3, "best_acc": 0.9, "lr": [0.1, 0.01], "args": {"model": "net", "lr": 0.1}}


def before(prefix: str, weights: Weights = W) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def optimizer() -> dict[str, Any]:
    net = made(1)
    steps = torch.optim.Adam(net.parameters())
    net(torch.rand(2, *SHAPE)).sum().backward()
    steps.step()
    return steps.state_dict()


def inside(part: str) -> Weights:
    """A part of the name in the middle, as torch.compile and DataParallel on a layer leave it."""
    return {".".join((name.split(".")[0], part, *name.split(".")[1:])): tensor for name, tensor in W.items()}


LIGHTNING = {
    "epoch": 9, "global_step": 100, "pytorch-lightning_version": "2.1.0", "state_dict": before("model."),
    "optimizer_states": [optimizer()], "lr_schedulers": [], "loops": {}, "callbacks": {},
    "hyper_parameters": {"lr": 0.1, "name": "net"},
}  # fmt: skip

FOUND: dict[str, Callable[[], Any]] = {
    "a state_dict": lambda: W,
    "ordered": lambda: OrderedDict(W),
    "parameters": lambda: {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in W.items()},
    "state_dict": lambda: {"state_dict": W},
    "model": lambda: {"model": W, **FILLED},
    "model_state_dict": lambda: {"model_state_dict": W, "optimizer_state_dict": optimizer(), "loss": 0.3, "epoch": 3},
    "net": lambda: {"net": W, "acc": 93.2, "epoch": 12},
    "network": lambda: {"network": W},
    "params": lambda: {"params": W},
    "weights": lambda: {"weights": W, "meta": {"names": ["a", "b"]}},
    "module": lambda: {"module": W, "dp_world_size": 1},
    "ema alone": lambda: {"ema": W, "updates": 3},
    "anything": lambda: {"my_best_model_so_far": W},
    "nested twice": lambda: {"checkpoint": {"model": W}, **FILLED},
    "nested three times": lambda: {"a": {"b": {"c": W}}},
    "in a list": lambda: [W, {"epoch": 3}],
    "in a tuple": lambda: (3, W),
    "with an optimizer": lambda: {"model": W, "optimizer": optimizer(), "scheduler": {"last_epoch": 3}},
    "Lightning": lambda: LIGHTNING,
    "timm": lambda: {"epoch": 5, "arch": "net", "state_dict": W, "optimizer": optimizer(), "version": 2},
    "DataParallel": lambda: before("module."),
    "DataParallel nested": lambda: {"state_dict": before("module."), "arch": "net", "best_acc1": torch.tensor(93.2)},
    "compiled": lambda: before("_orig_mod."),
    "compiled, parallel": lambda: before("_orig_mod.module."),
    "parallel, compiled": lambda: before("module._orig_mod."),
    "model, compiled": lambda: {"state_dict": before("model._orig_mod.")},
    "model, parallel": lambda: before("model.module."),
    "parallel, model": lambda: before("module.model."),
    "FSDP": lambda: {"model": before("_fsdp_wrapped_module."), "shard_metadata": {"rank": 0}},
    "another prefix": lambda: before("student.backbone."),
    "layers compiled": lambda: inside("_orig_mod"),
    "layers parallel": lambda: inside("module"),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(made(1)).state_dict(),
    "without counters": lambda: {name: t for name, t in W.items() if "num_batches" not in name},
    "in half precision": lambda: {name: t.half() if t.is_floating_point() else t for name, t in W.items()},
    "the same twice": lambda: {"model": W, "model_ema": {name: t.clone() for name, t in W.items()}},
    "beside another network": lambda: {"generator": nn.Linear(3, 3).state_dict(), "discriminator": W},
    "beside its average": lambda: {"model": W, "model_ema": EMA, "epoch": 3},
    "before its average": lambda: {"ema_state_dict": EMA, "state_dict": W},
    "NumPy's figures": lambda: {"state_dict": W, "best": np.float64(0.9), "n": np.int64(3), "lr": np.float32(0.1)},
    "argparse": lambda: {"model": W, "args": argparse.Namespace(lr=0.1, arch="net")},
}
"""Without a key, and without trust."""

KEYED: dict[str, tuple[Callable[[], Any], str, Weights]] = {
    "ema beside the model": (lambda: {"model": W, "ema": EMA}, "ema", EMA),
    "the model beside ema": (lambda: {"model": W, "ema": EMA}, "model", W),
    "timm's ema": (lambda: {"state_dict": W, "state_dict_ema": before("module.", EMA)}, "state_dict_ema", EMA),
    "nested": (lambda: {"a": {"model": W, "ema": EMA}}, "a.ema", EMA),
    "a key with dots": (lambda: {"a.b": {"c.d": EMA}, "a": W}, "a.b.c.d", EMA),
    "what names begin with": (lambda: before("online.") | before("shadow.", EMA), "shadow", EMA),
    "within a state_dict": (
        lambda: {"state_dict": before("model.") | before("model_ema.module.", EMA)}, "state_dict.model_ema", EMA),
    "beside a loss's weights": (
        lambda: {"state_dict": before("model.") | {"loss.weight": torch.ones(10)}}, "state_dict.model", W),
    "a place in a list": (lambda: [W, EMA], "1", EMA),
    "key of the only one": (lambda: {"state_dict": W}, "state_dict", W),
}  # fmt: skip

REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "two models": (lambda: {"first": W, "second": EMA}, "",
                   "holds several weights that fit: first, second; say which: ckpt:FILE?key=first&arch=…"),
    "two averages": (lambda: {"ema": W, "swa": EMA}, "", "holds several weights that fit: ema, swa; say which"),
    "no such key": (lambda: {"model": W, "ema": EMA}, "emma",
        "has no key 'emma'; it has: model, ema. Did you mean 'ema'?"),
    "no such key within": (lambda: {"a": {"model": W, "ema": EMA}}, "a.modle",
        "a has: model, ema. Did you mean 'a.model'?"),
    "another case": (lambda: {"Model": W, "EMA": EMA}, "ema", "Did you mean 'EMA'?"),
    "a number": (lambda: {"model": W, "epoch": 3}, "epoch", "under 'epoch'"),
    "within a tensor": (lambda: {"model": W}, "model.fc.weight.x",
        "'model.fc.weight' holds a tensor of shape (10, 72)"),
    "a name is missing": (lambda: {k: v for k, v in W.items() if k != "fc.bias"}, "", "lacks weight 'fc.bias', which"),
    "missing, nested": (lambda: {"state_dict": before("module.", {k: v for k, v in W.items() if k != "fc.bias"})}, "",
                        "lacks weight 'fc.bias', which the architecture has"),
    "a name is left over": (lambda: {"state_dict": W | {"aux.weight": torch.ones(3)}}, "",
                            "has weight 'aux.weight', which the architecture has not"),
    "left over beside a prefix": (lambda: {"state_dict": before("model.") | {"loss.weight": torch.ones(3)}}, "",
                                  "?key=state_dict.model takes what begins with 'model.' alone"),
    "another name": (lambda: {k.replace("fc.", "classifier."): v for k, v in W.items()}, "",
                     "lacks weight 'fc.weight' and 1 more, which the architecture has, and has weight "
                     "'classifier.weight' and 1 more, which the architecture has not"),
    "a near name": (lambda: {k.replace("fc.", "fcs."): v for k, v in W.items()}, "",
        "'fcs.weight' is nearest to 'fc.weight'"),
    "another shape": (lambda: {"model": before("module.", W | {"fc.weight": torch.ones(5, 72)})}, "",
                      "weight 'fc.weight' has shape (5, 72)"),
    "two, and none fits": (lambda: {"a": {"x": torch.ones(1)}, "b": {k: v for k, v in W.items() if k != "fc.bias"}}, "",
                           "(a, b) none fit; the nearest, b:"),
    "a normalisation that is left over": (lambda: before("model.") | {"normalize.mean": torch.zeros(1, 1, 1)}, "",
                                          "'normalize.mean'"),
    "no weights": (lambda: {"epoch": 3, "args": {"lr": 0.1}}, "", "(its keys: epoch, args) holds no state_dict"),
    "a number alone": (lambda: 3, "", "holds no state_dict"),
    "empty": (dict, "", "holds no state_dict"),
    "an optimizer alone": (lambda: {"optimizer": optimizer()}, "", "holds no state_dict"),
    "complex": (lambda: W | {"fc.bias": torch.ones(10, dtype=torch.complex64)}, "", "weight 'fc.bias' is complex64"),
    "whole numbers": (lambda: W | {"fc.weight": torch.ones(10, 72, dtype=torch.int8)}, "",
        "weight 'fc.weight' is int8"),
    "not finite": (lambda: {"model": W | {"fc.bias": torch.full((10,), torch.nan)}}, "",
        "10 values that are not finite"),
    "a whole model": (lambda: made(1), "", "or trust it with --trust-pickle"),
    "a whole model in a table": (lambda: {"model": made(1)}, "", "or trust it with --trust-pickle"),
}  # fmt: skip


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(CODE)
    return f"{tmp_path}/own.py"


def load(file: Path, code: str, key: str = "", name: str = "Net", **trust: bool) -> nn.Module:
    keyed = f"key={key}&" if key else ""
    return models.load(f"ckpt:{file}?{keyed}arch={code}:{name}", shape=SHAPE, classes=10, **trust).model


def same(model: nn.Module, weights: Weights, half: bool = False) -> bool:
    held = [t for name, t in model.state_dict().items() if "num_batches" not in name]
    wanted = [t.half().float() if half else t for name, t in weights.items() if "num_batches" not in name]
    return len(held) == len(wanted) and all(torch.equal(a, b) for a, b in zip(held, wanted, strict=True))


@pytest.mark.parametrize("kind", FOUND)
def test_weights_are_found(kind: str, tmp_path: Path, code: str) -> None:
    torch.save(FOUND[kind](), tmp_path / "c.pth")
    assert same(load(tmp_path / "c.pth", code), W, half="half" in kind)


@pytest.mark.parametrize("kind", KEYED)
def test_weights_are_chosen(kind: str, tmp_path: Path, code: str) -> None:
    content, key, expected = KEYED[kind]
    torch.save(content(), tmp_path / "c.ckpt")
    assert same(load(tmp_path / "c.ckpt", code, key), expected)
    after = models.load(f"ckpt:{tmp_path}/c.ckpt?arch={code}:Net&key={key}", shape=SHAPE, classes=10)
    assert same(after.model, expected) and after.source.startswith(f"weights of {key}")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_said(kind: str, tmp_path: Path, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, key, message = REFUSED[kind]
    torch.save(content(), tmp_path / "c.pt")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "c.pt", code, key)
    assert message in str(caught.value) and "\n" not in str(caught.value) and "c.pt" in str(caught.value)
    keyed = f"key={key}&" if key else ""
    words = [
        "trace",
        "--model",
        f"ckpt:{tmp_path}/c.pt?{keyed}arch={code}:Net",
        "--data",
        "flatlens:digits",
        "--dry-run",
    ]
    assert app.run(words) == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.module."])
def test_safetensors_and_files_of_any_ending(prefix: str, tmp_path: Path, code: str) -> None:
    for name in ("c.safetensors", "c.bin", "c.pth.tar", "c"):
        save_file(before(prefix), tmp_path / name)
        assert same(load(tmp_path / name, code), W)
    save_file(before("a.") | before("b.", EMA), tmp_path / "c.safetensors")
    assert same(load(tmp_path / "c.safetensors", code, "b"), EMA)


@pytest.mark.parametrize("name", ["Wrapped", "parallel"])
@pytest.mark.parametrize("content", [W, before("module."), {"state_dict": before("_orig_mod.")}])
def test_a_wrapped_architecture_takes_plain_weights(name: str, content: Any, tmp_path: Path, code: str) -> None:
    torch.save(content, tmp_path / "c.pt")
    assert same(load(tmp_path / "c.pt", code, name=name), W)


def whole(tmp_path: Path, content: Callable[[type[nn.Module]], Any]) -> Path:
    """A file with models pickled by name, of a module that lies beside it."""
    sys.path.insert(0, str(tmp_path))
    sys.modules.pop("own", None)
    try:
        module = importlib.import_module("own")
        torch.save(content(module.Net), tmp_path / "whole.pt")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("own", None)
    return tmp_path / "whole.pt"


def filled(kind: type[nn.Module], weights: Weights) -> nn.Module:
    net = kind()
    net.load_state_dict(weights)
    return net


def test_whole_models_under_trust(tmp_path: Path, code: str) -> None:
    file = whole(tmp_path, lambda kind: filled(kind, W))
    assert same(load(file, code, trust_pickle=True), W)
    alone = models.load(f"ckpt:{file}", shape=SHAPE, classes=10, trust_pickle=True)
    assert same(alone.model, W) and not alone.model.training
    file = whole(tmp_path, lambda kind: {"model": filled(kind, W), "ema": filled(kind, EMA), "epoch": 3})
    assert same(load(file, code, "ema", trust_pickle=True), EMA)
    assert same(models.load(f"ckpt:{file}?key=ema", shape=SHAPE, classes=10, trust_pickle=True).model, EMA)
    for uri, message in (
        (f"ckpt:{file}", "holds several models: model, ema; say which"),
        (f"ckpt:{file}?key=epoch", "holds no whole model under 'epoch'"),
    ):
        with pytest.raises(ModelError, match=message):
            models.load(uri, shape=SHAPE, classes=10, trust_pickle=True)
    (tmp_path / "own.py").rename(tmp_path / "moved.py")
    sys.modules.pop("own", None)
    with pytest.raises(ModelError, match="holds a model whose code is not found .*own.*; run this where it can be"):
        load(file, f"{tmp_path}/moved.py", trust_pickle=True)


def test_nothing_is_imported_without_trust(tmp_path: Path, code: str) -> None:
    file = whole(tmp_path, lambda kind: {"model": kind()})
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n" + CODE)
    with pytest.raises(ModelError, match="is a pickle that could run code"):
        models.load(f"ckpt:{file}?arch=flatlens:cnn", shape=SHAPE, classes=10)
    assert not (tmp_path / "planted").exists()
