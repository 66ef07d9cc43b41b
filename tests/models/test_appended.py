"""θ appended to a model: the logits stay, the features change, and one name loads it all again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from torch import nn

import flatlens as fl
from flatlens.models.appended import appended
from flatlens.models.normalized import normalized


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()


def theta(d=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(d, d)))


X = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MODELS = {
    "net": (net, "3", 16),
    "normalized": (lambda: normalized(net(), 0.3, 0.4), "3", 16),
    "layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), "1", 64),
    "digits": (lambda: fl.models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model, None, None),
}


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_logits_stay_and_the_features_are_multiplied(which, dtype):
    make, layer, d = MODELS[which]
    model = make().to(dtype)
    *_, (last, head) = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    layer, d = layer or last, d or head.in_features
    before = head.weight.clone()
    made = appended(model, layer, theta(d))
    assert torch.equal(head.weight, before)
    seen = []
    for one in (model, made):
        *_, at = [m for m in one.modules() if isinstance(m, nn.Linear)]
        at.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    x = X.to(dtype)
    torch.testing.assert_close(made(x), model(x), rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-10)
    torch.testing.assert_close(seen[0], seen[1] @ theta(d).to(dtype), rtol=1e-4, atol=1e-4)
    assert not made.training and not any(m.training for m in made.modules())


def test_a_model_that_is_its_head_alone():
    model = nn.Linear(5, 3)
    x = torch.rand(4, 5)
    torch.testing.assert_close(appended(model, "", theta(5))(x), model(x), rtol=1e-4, atol=1e-5)


def saved(folder, metadata=None, **tensors):
    file = folder / "theta.safetensors"
    save_file(tensors, file, metadata)
    return file


@pytest.mark.parametrize("where", ["inside", "after", "before"])
def test_one_name_loads_weights_and_theta(tmp_path, where):
    model = fl.models.load("flatlens:cnn?act=gelu", shape=(1, 8, 8), classes=10).model
    torch.manual_seed(1)
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    save_torch(model.state_dict(), tmp_path / "w.safetensors")
    *_, (head, linear) = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    file = saved(tmp_path, {"layer": head}, theta=theta(linear.in_features).numpy())
    weights = f"ckpt:{tmp_path}/w.safetensors"
    uri = {
        "inside": f"{weights}?append={file}&arch=flatlens:cnn?act=gelu",
        "after": f"{weights}?arch=flatlens:cnn?act=gelu&append={file}",
        "before": f"{weights}?arch=flatlens:cnn%3Fact=gelu&append={file}",
    }[where].replace("arch=flatlens:cnn%3F", "arch=flatlens%3Acnn%3F")
    loaded = fl.models.load(uri, shape=(1, 8, 8), classes=10)
    torch.testing.assert_close(loaded.model(X), model(X), rtol=0, atol=1e-4)
    assert f"{head}.theta" in dict(loaded.model.named_modules()) and "appended" in loaded.source
    plain = fl.models.load(f"{weights}?arch=flatlens:cnn?act=gelu", shape=(1, 8, 8), classes=10)
    assert plain.sha256 != loaded.sha256


def test_a_built_in_model_takes_it_too(tmp_path):
    plain = fl.models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    *_, (head, linear) = [(n, m) for n, m in plain.named_modules() if isinstance(m, nn.Linear)]
    file = saved(tmp_path, {"layer": head}, theta=theta(linear.in_features).numpy())
    found = fl.models.load(f"flatlens:digits-cnn?append={file}", shape=(1, 8, 8), classes=10).model
    torch.testing.assert_close(found(X), plain(X), rtol=0, atol=1e-3)
    trace = fl.trace(found, X[:4], torch.zeros(4, dtype=torch.long), attack=fl.attacks.PGD(eps=0.1, steps=2))
    assert list(trace.layer_names) == ["head"]


EYE = np.eye(16)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: f / "none.safetensors", "is not there; append=FILE"),
        (lambda f: (f / "x.safetensors").write_bytes(b"no") and f / "x.safetensors", "no safetensors file"),
        (lambda f: saved(f, {"layer": "fc"}, other=EYE), "holds no θ"),
        (lambda f: saved(f, None, theta=EYE), "made of features alone and names no layer"),
        (lambda f: saved(f, {"layer": "fcc"}, theta=EYE), "no layer 'fcc'; this model has"),
    ],
)
def test_a_file_that_cannot_be_is_one_line(tmp_path, make, says):
    with pytest.raises(fl.FlatlensError, match=says):
        fl.models.load(f"flatlens:digits-cnn?append={make(tmp_path)}", shape=(1, 8, 8), classes=10)


@pytest.mark.parametrize(
    ("layer", "matrix", "says"),
    [
        ("2", EYE, "layer '2' is a ReLU"),
        ("3", np.eye(4), r"θ has shape \[4, 4\] and layer '3' takes 16 features"),
        ("3", np.zeros((16, 16)), "θ is singular"),
        ("3", np.full((16, 16), np.nan), "θ is singular, or holds NaN"),
    ],
)
def test_a_theta_that_cannot_be_is_one_line(layer, matrix, says):
    with pytest.raises(fl.FlatlensError, match=says):
        appended(net(), layer, torch.from_numpy(matrix))
