"""Models by name: what is shipped, the user's own code, saved weights, and every way in which they can be wrong."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import flatlens
from flatlens import datasets, models
from flatlens.errors import ModelError
from flatlens.models import zoo

ROOT = Path(flatlens.__file__).parents[1]
SHAPE = (1, 8, 8)


def load(uri: str, shape: tuple[int, ...] = SHAPE, classes: int = 10) -> models.Loaded:
    return models.load(uri, shape=shape, classes=classes)


def refused(uri: str, shape: tuple[int, ...] = SHAPE, classes: int = 10) -> str:
    """The message with which ``uri`` is refused; it is one line."""
    with pytest.raises(ModelError) as caught:
        load(uri, shape, classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def digits(split: str = "test") -> tuple[torch.Tensor, torch.Tensor]:
    data = datasets.load(f"flatlens:digits?split={split}")
    return torch.from_numpy(data.x), torch.from_numpy(data.y)


# ---- built in -----------------------------------------------------------------------------------


def test_the_table_needs_no_torch():
    code = (
        "import sys; from flatlens import models, datasets; print(models.BUILT_IN, datasets.SCHEMES); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("uri", models.BUILT_IN)
def test_every_built_in_model(uri):
    x, _ = digits()
    before = torch.random.get_rng_state()
    loaded, again = load(uri), load(uri)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.sha256 == again.sha256 and loaded.uri == uri and loaded.source
    assert not any(module.training for module in loaded.model.modules())
    assert isinstance(loaded.model[0], zoo.Normalize)
    heads = []
    loaded.model.fc.register_forward_hook(lambda _, __, out: heads.append(out))
    logits = loaded.model(x)
    assert logits.shape == (450, 10) and logits is heads[0] and isinstance(loaded.model.fc, nn.Linear)


def test_seed_and_options_make_other_weights():
    names = ["", "?seed=1", "?act=gelu", "?width=4", "?width=4&seed=1"]
    hashes = {load(f"flatlens:{kind}{name}").sha256 for kind in ("cnn", "mlp") for name in names}
    assert len(hashes) == 8  # the activation has no weights
    assert load("flatlens:cnn?seed=0&width=8&act=relu").sha256 == load("flatlens:cnn").sha256
    assert len([m for m in load("flatlens:mlp?depth=3").model if isinstance(m, nn.Linear)]) == 4


@pytest.mark.parametrize(
    ("uri", "shape"), [("cnn", (3, 9, 7)), ("mlp", (3, 9, 7)), ("mlp", (5,)), ("cnn", (1, 28, 28))]
)
@pytest.mark.parametrize("act", zoo.ACTIVATIONS)
def test_untrained_models_fit_the_data(uri, shape, act):
    model = load(f"flatlens:{uri}?act={act}", shape, 7).model
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_the_cnn_is_small():
    assert sum(p.numel() for p in load("flatlens:cnn").model.parameters()) == 14_074


def test_no_operation_works_in_place():
    for uri in ("flatlens:cnn", "flatlens:mlp"):
        assert not any(getattr(module, "inplace", False) for module in load(uri).model)


def test_normalize():
    normalize = zoo.Normalize((0.5, 0.0), (0.25, 2.0))
    x = torch.rand(3, 2, 4, 4)
    assert torch.equal(normalize(x)[:, 0], (x[:, 0] - 0.5) / 0.25)
    assert torch.equal(normalize(x)[:, 1], x[:, 1] / 2)
    assert torch.equal(zoo.Normalize()(x), x)
    assert torch.equal(zoo.Normalize((0.5,) * 3, dims=0)(torch.ones(2, 3)), torch.full((2, 3), 0.5))


# ---- shipped ------------------------------------------------------------------------------------


def test_shipped_files_are_those_of_the_recipe():
    record = json.loads((ROOT / "data" / "checkpoints.json").read_text())
    shipped = Path(flatlens.__file__).parent / "shipped"
    for name in ("digits-cnn", "digits-cnn-robust"):
        assert record[name]["sha256"] == sha256((shipped / f"{name}.safetensors").read_bytes()).hexdigest()
    assert sum(file.stat().st_size for file in shipped.iterdir()) < 1_000_000


def attack(model: nn.Module, eps: float, steps: int, step_size: float) -> tuple[torch.Tensor, torch.Tensor]:
    """κ of the head and who is wrong, ``[steps + 1, n]``, along PGD from the test split's clean images."""
    x0, y = digits()
    x, kappas, wrong = x0, [], []
    for _ in range(steps + 1):
        x = x.detach().requires_grad_(True)
        a = model[:-1](x)
        logits = model.fc(a)
        features, weight, bias = (t.detach().double() for t in (a, model.fc.weight, model.fc.bias))
        p = F.softmax(features @ weight.T + bias, dim=1)
        spread = (weight - (p @ weight).unsqueeze(1)).square().sum(2)
        kappas.append(features.square().sum(1) * (p * spread).sum(1))
        wrong.append(logits.argmax(1) != y)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
        x = torch.clamp(torch.clamp(x.detach() + step_size * gradient.sign(), x0 - eps, x0 + eps), 0, 1)
    return torch.stack(kappas), torch.stack(wrong)


def test_shipped_models_show_the_valley():
    rise, fall, median = {}, {}, {}
    for name in ("digits-cnn", "digits-cnn-robust"):
        kappa, wrong = attack(load(f"flatlens:{name}").model, eps=0.3, steps=25, step_size=0.03)
        mean = kappa.mean(1)
        flips = wrong[:, ~wrong[0]]
        rise[name], fall[name] = mean.max() / mean[0], mean.max() / mean[-1]
        median[name] = torch.where(flips.any(0), flips.int().argmax(0), len(flips)).median()
        if name == "digits-cnn":
            assert flips[-1].all()
            for clean in (mean, kappa[:, ~wrong[0]].mean(1)):
                assert clean.max() >= 8 * clean[0] and clean[-1] < 0.9 * clean[0]
            assert abs(int(mean.argmax()) - int(median[name])) <= 2
    assert fall["digits-cnn-robust"] < fall["digits-cnn"]
    assert median["digits-cnn-robust"] > median["digits-cnn"]


def test_shipped_models_are_as_good_as_their_recipe_says():
    right, robust = {}, {}
    for name in ("digits-cnn", "digits-cnn-robust"):
        _, wrong = attack(load(f"flatlens:{name}").model, eps=0.1, steps=20, step_size=0.0125)
        right[name], robust[name] = (1 - wrong[i].double().mean() for i in (0, -1))
    assert right["digits-cnn"] >= 0.98 and right["digits-cnn-robust"] >= 0.97
    assert robust["digits-cnn-robust"] > robust["digits-cnn"] + 0.25


# ---- names that name no model -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "cnn",
            "no model 'cnn'; there are: flatlens:digits-cnn, flatlens:digits-cnn-robust, flatlens:cnn, flatlens:mlp",
        ),
        ("", "no model ''; there are: flatlens:digits-cnn"),
        ("os:", "no model 'os:'; there are: flatlens:digits-cnn"),
        (
            "flatlens:digits-cn",
            "no model 'flatlens:digits-cn'; flatlens comes with: flatlens:digits-cnn, flatlens:digits-cnn-robust, "
            "flatlens:cnn, flatlens:mlp, flatlens:resnet18, flatlens:wide-resnet-28-4, flatlens:densenet121, "
            "flatlens:vgg11-bn, flatlens:vit-tiny. Did you mean 'flatlens:digits-cnn'?",
        ),
        (
            "flatlen:cnn",
            "no model scheme or Python module 'flatlen'; schemes are: flatlens, file.py, pkg.module, timm, "
            "torchvision, hf, robustbench, lm, export, ckpt. Did",
        ),
        ("flatlens.nowhere:cnn", "no model scheme or Python module 'flatlens.nowhere'; schemes are: flatlens, "),
        (
            "flatlens:cnn?act=rleu",
            "no act 'rleu'; there are: relu, gelu, silu, swiglu. Did you mean 'relu'? (in 'flatlens:cnn?act=rleu')",
        ),
        (
            "flatlens:cnn?widht=3",
            "no option 'widht'; 'flatlens:cnn' has: act, width, seed. Did you mean 'width'?",
        ),
        ("flatlens:cnn?depth=3", "no option 'depth'; 'flatlens:cnn' has: act, width, seed."),
        ("flatlens:digits-cnn?seed=1", "no option 'seed'; 'flatlens:digits-cnn' has: none."),
        ("flatlens:cnn?width=0", "width=0 in 'flatlens:cnn?width=0': needs a whole number from 1 to 4096"),
        ("flatlens:mlp?depth=two", "depth=two in 'flatlens:mlp?depth=two': needs a whole number from 1 to 1000"),
        (
            "ckpt:w.safetensors",
            "'ckpt:w.safetensors' has no architecture; write ckpt:FILE.safetensors?arch=flatlens:cnn",
        ),
        ("ckpt:w.safetensors?arch=flatlens:cnm", "no model 'flatlens:cnm'; flatlens comes with: "),
        (
            "ckpt:/nowhere.safetensors?arch=flatlens:cnn",
            "file '/nowhere.safetensors' is not there; ckpt:FILE.safetensors?arch=URI needs saved weights",
        ),
        ("ckpt:/?arch=flatlens:cnn", "file '/' is a folder; ckpt:FILE.safetensors?arch=URI needs saved weights"),
    ],
)
def test_a_name_that_names_no_model(uri, message):
    assert refused(uri).startswith(message)


def test_data_that_do_not_fit():
    assert refused("flatlens:digits-cnn", (1, 28, 28), 10) == (
        "'flatlens:digits-cnn' takes inputs of shape (1, 8, 8) and 10 classes, the data have (1, 28, 28) and 10; "
        "use --data flatlens:digits, or --model flatlens:cnn"
    )
    assert refused("flatlens:cnn", (64,)).endswith("needs images [C, H, W] of 2×2 or more, not (64,); use flatlens:mlp")
    assert refused("flatlens:cnn", (1, 1, 9)).endswith("not (1, 1, 9); use flatlens:mlp")
    assert refused("flatlens:mlp", SHAPE, 1) == (
        "'flatlens:mlp' cannot tell 1 class; data of at least 2 classes are needed"
    )


# ---- the user's own code ------------------------------------------------------------------------

CODE = """
import torch
from torch import nn
from helper_beside_it import FEATURES

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 10))

def fitted(*, classes, shape, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes, bias=bias))

def anything(**kwargs):
    assert kwargs == {"shape": (1, 8, 8), "classes": 10}, kwargs
    return plain()

class Model(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(FEATURES, classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

ready = plain()

def broken():
    return 1 / 0

def demanding(path):
    return plain()

def nothing():
    pass

def half_trained():
    model = plain()
    model[1].weight.data[3, 4:6] = float("nan")
    return model

number = 3
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "helper_beside_it.py").write_text("FEATURES = 64\n")
    file = tmp_path / "my_models.py"
    file.write_text(CODE)
    yield file
    sys.modules.pop("helper_beside_it", None)


@pytest.mark.parametrize("name", ["plain", "fitted", "anything", "Model", "ready"])
def test_a_factory_in_a_file(code, name):
    path = list(sys.path)
    loaded = load(f"{code}:{name}")
    assert loaded.model(torch.rand(2, *SHAPE)).shape == (2, 10) and not loaded.model.training
    assert loaded.sha256 == load(f"{code}:{name}").sha256  # random weights, the same each time
    assert loaded.source == f"made by {name} in {code}" and sys.path == path


def test_a_factory_in_a_module(code, monkeypatch):
    monkeypatch.syspath_prepend(code.parent)
    try:
        assert load("my_models:fitted", (3, 5), 4).model(torch.rand(2, 3, 5)).shape == (2, 4)
    finally:
        sys.modules.pop("my_models", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "'{}:broken' failed with ZeroDivisionError: division by zero; it is called with no arguments"),
        (
            "demanding",
            "'{}:demanding' failed with TypeError: demanding() missing 1 required positional argument: 'path'",
        ),
        ("nothing", "'{}:nothing' gave a NoneType; it must return a torch.nn.Module"),
        ("number", "'{}:number' is a int; name a function that returns a torch.nn.Module"),
        ("plane", "no function 'plane'; '{}' has: plain, fitted, anything, Model, ready, broken, "),
        ("plain?width=3", "no option 'width'; '{}:plain' has: none."),
        (
            "half_trained",
            "weight '1.weight' of '{}:half_trained' holds 2 values that are not finite; train or save the model again",
        ),
    ],
)
def test_a_factory_that_fails(code, name, message):
    assert refused(f"{code}:{name}").startswith(message.format(code))


def test_a_file_that_fails(tmp_path):
    file = tmp_path / "m.py"
    assert refused(f"{file}:f") == f"file '{file}' is not there; file.py:factory needs a Python file"
    for text, message in (
        ("import no_such_thing_at_all", f"'{file}' needs the module 'no_such_thing_at_all'; install it"),
        ("def f(:", f"importing '{file}' failed with SyntaxError: invalid syntax"),
        ("raise OSError('no\\ndisk')", f"importing '{file}' failed with OSError: no disk; mend it and try again"),
    ):
        file.write_text(text)
        assert refused(f"{file}:f").startswith(message)


# ---- saved weights ------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A safetensors file of another seed's CNN with GELU and width 4."""
    loaded = load("flatlens:cnn?act=gelu&width=4&seed=5")
    save_file(loaded.model.state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors", loaded


@pytest.mark.parametrize(
    "arch", ["flatlens:cnn?act=gelu&width=4", "flatlens%3Acnn%3Fact%3Dgelu%26width%3D4", "flatlens:cnn?width=4"]
)
def test_a_checkpoint(saved, arch):
    file, expected = saved
    loaded = load(f"ckpt:{file}?arch={arch}")
    assert loaded.sha256 == expected.sha256
    assert loaded.source == f"weights of {file} in {unquote(arch)}"


def test_a_checkpoint_of_the_users_model(code, tmp_path):
    model = load(f"{code}:Model").model
    nn.init.ones_(model.fc.weight)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert load(f"ckpt:{tmp_path}/w.safetensors?arch={code}:Model").model.fc.weight.min() == 1


def test_a_checkpoint_of_torch_save(saved, tmp_path):
    _, expected = saved
    torch.save(expected.model.state_dict(), tmp_path / "w.pt")
    assert load(f"ckpt:{tmp_path}/w.pt?arch=flatlens:cnn?width=4").sha256 == expected.sha256
    torch.save({"model": {}, "epoch": 3}, tmp_path / "w.pt")
    assert refused(f"ckpt:{tmp_path}/w.pt?arch=flatlens:cnn").endswith(
        "holds no state_dict (names and tensors); save model.state_dict()"
    )
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 cut off")
    assert refused(f"ckpt:{tmp_path}/w.pt?arch=flatlens:cnn").startswith(f"'{tmp_path}/w.pt' is ")


def test_weights_that_do_not_fit(saved):
    file, _ = saved
    uri = f"ckpt:{file}?arch=flatlens:cnn"
    asks = "is arch= the model it was saved from"
    assert refused(uri) == (
        f"weight 'conv1.bias' has shape (4,) in '{file}', the architecture expects (8,); {asks}, with its options?"
    )
    weights = load_file(file)
    fewer = {k: v for k, v in weights.items() if not k.startswith("fc.")}
    save_file(fewer, file)
    assert refused(f"{uri}?width=4") == (
        f"'{file}' lacks weight 'fc.weight' and 1 more, which the architecture has; {asks}?"
    )
    save_file(weights | {"extra": torch.zeros(1)}, file)
    assert refused(f"{uri}?width=4") == f"'{file}' has weight 'extra', which the architecture has not; {asks}?"
    weights["hidden.weight"][0, :3] = torch.inf
    save_file(weights, file)
    assert refused(f"{uri}?width=4") == (
        f"weight 'hidden.weight' of '{uri}?width=4' holds 3 values that are not finite; train or save the model again"
    )


def test_tied_weights_may_be_saved_once(tmp_path):
    (tmp_path / "tied.py").write_text(
        "from torch import nn\n"
        "def f():\n"
        "    m = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))\n"
        "    m[3].weight = m[1].weight\n"
        "    return m\n"
    )
    weights = {"1.weight": torch.eye(64), "1.bias": torch.zeros(64), "3.bias": torch.ones(64)}
    save_file(weights, tmp_path / "w.safetensors")
    model = load(f"ckpt:{tmp_path}/w.safetensors?arch={tmp_path}/tied.py:f").model
    assert torch.equal(model[3].weight, torch.eye(64)) and model[3].weight is model[1].weight


def test_a_damaged_checkpoint(saved):
    file, _ = saved
    data = file.read_bytes()
    for wrong in (b"", data[:4], data[:200], data[:-1], b"\xff" * 64, b"not weights at all, but long enough"):
        file.write_bytes(wrong)
        message = refused(f"ckpt:{file}?arch=flatlens:cnn?width=4")
        assert message.startswith(f"'{file}' is no safetensors file, or is damaged or cut off (")
        assert message.endswith("); save or copy it again")


class Planted:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin"])
def test_a_pickle_runs_nothing(tmp_path, name):
    planted, file = tmp_path / "planted", tmp_path / name
    file.write_bytes(pickle.dumps({"fc.weight": Planted(planted)}, protocol=2))
    refused(f"ckpt:{file}?arch=flatlens:cnn")
    torch.save({"fc.weight": Planted(planted)}, file)
    message = refused(f"ckpt:{file}?arch=flatlens:cnn")
    if name != "w.safetensors":
        assert message == (
            f"'{file}' is a pickle that could run code and is not read; save its state_dict as safetensors, "
            "or trust it with --trust-pickle"
        )
    assert not planted.exists()
    with file.open("rb") as stream:
        torch.load(stream, weights_only=False)
    assert planted.exists()  # so the trap does work
