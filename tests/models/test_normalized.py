"""Normalisation by name and by argument: the same function, in the units of the data, and never done twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flatlens_cli import app
from safetensors.torch import save_file
from torch import Tensor, nn

import flatlens as fl
from flatlens import models
from flatlens.errors import ModelError, SpecError
from flatlens.models.normalized import Normalized
from flatlens.models.zoo import Normalize
from tests.expected import cautioned

pytestmark = cautioned("low-accuracy", "not-converged", "out-of-bounds", "too-large", "unnormalised", "zero-gradient")

N = 6


class By(nn.Module):
    """A model that normalises by itself, as its author would write it."""

    def __init__(self, model: nn.Module, mean: Any, std: Any, dims: int) -> None:
        super().__init__()
        self.net = model
        shape = (-1, *[1] * dims)
        self.mean, self.std = (torch.tensor(v, dtype=torch.float64).reshape(shape) for v in (mean, std))

    def forward(self, x: Tensor) -> Any:
        return self.net((x - self.mean.to(x.dtype)) / self.std.to(x.dtype))


def net(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 4, 3)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double().eval()


def data(shape: tuple[int, ...] = (3, 6, 6)) -> tuple[Tensor, Tensor]:
    return torch.rand(N, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(N) % 5


M3, S3 = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FORMS: dict[str, tuple[Any, list[float], list[float]]] = {
    "numbers": ((0.3, 0.25), [0.3], [0.25]),
    "whole numbers": ((0, 1), [0.0], [1.0]),
    "lists": ((M3, S3), M3, S3),
    "tuples": ((tuple(M3), tuple(S3)), M3, S3),
    "mixed": ((M3, 0.25), M3, [0.25]),
    "one in a list": (([0.3], [0.25]), [0.3], [0.25]),
    "tensors": ((torch.tensor(M3, dtype=torch.float64), torch.tensor(S3, dtype=torch.float64)), M3, S3),
    "shaped tensors": ((torch.tensor(M3).double().view(1, 3, 1, 1), torch.ones(3, 1, 1)), torch.tensor(M3).tolist(),
                       [1.0]),
    "arrays": ((np.array(M3), np.array(S3)), M3, S3),
    "scalars of NumPy": ((np.float64(0.3), np.float64(0.25)), [0.3], [0.25]),
    "fractions": (("8/255", "1/4"), [8 / 255], [0.25]),
    "text": (("0.485,0.456,0.406", "0.229, 0.224, 0.225"), M3, S3),
    "a list": ([0.3, 0.25], [0.3], [0.25]),
    "a dictionary": ({"mean": 0.3, "std": 0.25}, [0.3], [0.25]),
    "negative mean": ((-1.5, 3.0), [-1.5], [3.0]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_it_is_what_one_would_write_oneself(form: str) -> None:
    given, mean, std = FORMS[form]
    model, (x, y) = net(), data()
    own = By(net(), mean, std, 2).eval()
    attack = fl.attacks.PGD(eps=0.1, steps=3)
    mine = fl.trace(model, x, y, attack=attack, layers=["0", "head"], normalize=given, images="all")
    theirs = fl.trace(own, x, y, attack=attack, layers=["net.0", "head"], images="all")
    assert mine.layer_names == ("0", "head") and isinstance(model[0], nn.Conv2d) and len(model) == 5
    np.testing.assert_allclose(mine.x_adv, theirs.x_adv, rtol=0, atol=1e-7)
    for column in ("loss", "linf", "input_grad_norm"):
        np.testing.assert_allclose(mine.matrix(column).values, theirs.matrix(column).values, rtol=1e-9)
    for a, b in (("0", "net.0"), ("head", "head")):
        one = mine.matrix("relative_flatness", layer=a).values
        np.testing.assert_allclose(one, theirs.matrix("relative_flatness", layer=b).values, rtol=1e-9)
    point = fl.curvature(model, x, y, layer="0", normalize=given)
    np.testing.assert_allclose(point.trace, fl.curvature(own, x, y, layer="net.0").trace, rtol=1e-9)  # type: ignore[union-attr]
    assert mine.matrix("linf").values.max() <= 0.1 * (1 + 1e-12)


SHAPES = [(7,), (2, 9), (1, 5, 5), (3, 5, 5), (2, 3, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("one", [True, False])
def test_a_model_is_wrapped_before_the_shape_is_known(shape: tuple[int, ...], one: bool) -> None:
    x, _ = data(shape)
    model = nn.Identity().eval()
    mean, std = (0.3, 0.25) if one else ([0.1 * i for i in range(shape[0])], [0.5 + i for i in range(shape[0])])
    expected = By(model, [mean] if one else mean, [std] if one else std, len(shape) - 1)(x)
    found = fl.normalized(model, mean, std)(x)
    assert found.shape == x.shape
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_what_is_no_model_cannot_be_wrapped() -> None:
    with pytest.raises(ModelError, match="the model is a NoneType; give a torch.nn.Module"):
        fl.normalized(None, 0.5, 0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_inputs_of_other_shapes(shape: tuple[int, ...]) -> None:
    x, y = data(shape)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 5)).double().eval()
    mean, std = [0.1 * i for i in range(shape[0])], [0.5 + i for i in range(shape[0])]
    found = fl.curvature(model, x, y, normalize=(mean, std))
    plain = fl.curvature(By(model, mean, std, len(shape) - 1).eval(), x, y)
    np.testing.assert_allclose(found.trace, plain.trace, rtol=1e-12)  # type: ignore[union-attr]


def test_it_is_in_the_models_own_precision() -> None:
    x, y = data()
    model = net()
    found = fl.curvature(model, x, y, normalize=(0.1307, 0.3081)).trace  # type: ignore[union-attr]
    np.testing.assert_allclose(found, fl.curvature(model, (x - 0.1307) / 0.3081, y).trace, rtol=1e-12)  # type: ignore[union-attr]


WRONG: dict[str, tuple[Any, str]] = {
    "a number": (0.5, "normalize=0.5: needs a pair (mean, std)"),
    "a text": ("0.5", "needs a pair"),
    "three": ((0.5, 0.5, 0.5), "needs a pair"),
    "a table": ({"mean": 0.5}, "needs a pair"),
    "zero deviation": ((0.5, 0), "std=0: each needs to be a number above 0"),
    "negative deviation": ((0.5, -1), "std=-1"),
    "one of them zero": ((0.5, [1, 0, 1]), "std=1,0,1"),
    "nan": ((float("nan"), 1), "mean=nan: each needs to be a finite number"),
    "inf": ((0.5, float("inf")), "std=inf"),
    "two of three": (([0.1, 0.2], 1), "mean=0.1,0.2 has 2 values, the inputs of shape (3, 6, 6) have 3 channels"),
    "four of three": ((0.5, [1, 2, 3, 4]), "std=1,2,3,4 has 4 values"),
    "no number": (("half", 1), "'half' is no number"),
    "no fraction": (("1/0", 1), "'1/0' is no number"),
    "None": ((None, 1), "None is no number"),
    "true": ((True, 1), "True is no number"),
    "empty": (([], 1), "mean is empty"),
    "nested": (([[0.1, 0.2, 0.3], [1, 2, 3]], 1), "is no number"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_is_refused_in_one_line(kind: str) -> None:
    given, message = WRONG[kind]
    with pytest.raises(ModelError) as caught:
        fl.trace(net(), *data(), normalize=given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ---- by name ------------------------------------------------------------------------------------

SHAPE = (1, 8, 8)
CODE = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    tmp_path = tmp_path_factory.mktemp("models")
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "own_module.py").write_text(CODE)
    sys.path.insert(0, str(tmp_path))
    torch.save(load(f"{tmp_path}/own.py:make").state_dict(), tmp_path / "own.pt")
    save_file(load("flatlens:cnn?width=3&seed=1").state_dict(), tmp_path / "cnn.safetensors")
    program = torch.export.export(
        load(f"{tmp_path}/own.py:make"), (torch.rand(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, tmp_path / "own.pt2")
    yield tmp_path
    sys.path.remove(str(tmp_path))


def load(uri: str, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    return models.load(uri, shape=shape, classes=10, trust_pickle=True).model


URIS = {
    "built in": ("flatlens:cnn?width=3&{}", "flatlens:cnn?width=3"),
    "shipped": ("flatlens:digits-cnn?{}", "flatlens:digits-cnn"),
    "features": ("flatlens:mlp?{}&width=4", "flatlens:mlp?width=4"),
    "a transformer": ("flatlens:vit-tiny?{}&width=8&depth=1&heads=1", "flatlens:vit-tiny?width=8&depth=1&heads=1"),
    "a file": ("{place}/own.py:make?{}", "{place}/own.py:make"),
    "a module": ("own_module:make?{}", "own_module:make"),
    "a program": ("export:{place}/own.pt2?{}", "export:{place}/own.pt2"),
    "a checkpoint": ("ckpt:{place}/own.pt?{}&arch={place}/own.py:make", "ckpt:{place}/own.pt?arch={place}/own.py:make"),
    "after its architecture": ("ckpt:{place}/own.pt?arch={place}/own.py:make&{}",
                               "ckpt:{place}/own.pt?arch={place}/own.py:make"),
    "of its architecture": ("ckpt:{place}/own.pt?arch={place}/own.py:make?{}",
                            "ckpt:{place}/own.pt?arch={place}/own.py:make"),
    "of a built-in architecture": ("ckpt:{place}/cnn.safetensors?arch=flatlens:cnn?width=3&{}",
                                   "ckpt:{place}/cnn.safetensors?arch=flatlens:cnn?width=3"),
    "before a built-in architecture": ("ckpt:{place}/cnn.safetensors?{}&arch=flatlens:cnn?width=3",
                                       "ckpt:{place}/cnn.safetensors?arch=flatlens:cnn?width=3"),
}  # fmt: skip


@pytest.mark.parametrize("values", ["mean=0.3&std=0.25", "std=1/4&mean=8/255"])
@pytest.mark.parametrize("kind", URIS)
def test_every_scheme_takes_it(kind: str, values: str, place: Path) -> None:
    with_, without = (uri.format(values, place=place) if "{}" in uri else uri.format(place=place) for uri in URIS[kind])
    mean, std = (0.3, 0.25) if values.startswith("mean") else (8 / 255, 0.25)
    x = torch.rand(3, *SHAPE)
    with torch.no_grad():
        expected = load(without)((x - mean) / std)
        torch.testing.assert_close(load(with_)(x), expected, rtol=1e-5, atol=1e-6)


CHANNELS: list[tuple[str, Callable[[nn.Module], bool]]] = [
    ("flatlens:cnn?mean=0.1,0.2,0.3&std=1,2,3", lambda m: isinstance(m.normalize, Normalize)),
    ("flatlens:resnet18?width=2&mean=0.1,0.2,0.3&std=0.5", lambda m: not isinstance(m, Normalized)),
]


@pytest.mark.parametrize(("uri", "holds"), CHANNELS)
def test_a_number_for_each_channel(uri: str, holds: Callable[[nn.Module], bool]) -> None:
    model = load(uri, (3, 8, 8))
    assert holds(model) and model.normalize.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert sum(isinstance(part, Normalize) for part in model.modules()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("mean=0.3", "has mean=0.3 and no std; give both, std=1 for none"),
        ("std=0.3", "has std=0.3 and no mean; give both, mean=0 for none"),
        ("mean=0.3&std=0", "std=0: each needs to be a number above 0"),
        ("mean=a&std=1", "mean=a: 'a' is no number"),
        ("mean=0.1,0.2&std=1", "mean=0.1,0.2 has 2 values, the inputs of shape (1, 8, 8) have 1 channel;"),
        ("mean=&std=1", "is no number"),
    ],
)
def test_a_name_that_cannot_be(options: str, message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for uri in ("flatlens:cnn", f"{place}/own.py:make", f"ckpt:{place}/own.pt?arch={place}/own.py:make"):
        with pytest.raises(ModelError) as caught:
            load(f"{uri}?{options}" if "arch" not in uri else f"{uri}&{options}")
        assert message in str(caught.value) and "\n" not in str(caught.value)
    words = ["trace", "--model", f"flatlens:cnn?{options}", "--data", "flatlens:digits", "--out", str(place / "run")]
    assert app.run(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_saved_model_brings_its_normalisation_along(place: Path) -> None:
    trained = load(f"{place}/own.py:make?mean=0.3&std=0.25")
    save_file(trained.state_dict(), place / "whole.safetensors")
    x = torch.rand(3, *SHAPE)
    uri = f"ckpt:{place}/whole.safetensors?arch={place}/own.py:make"
    with torch.no_grad():
        torch.testing.assert_close(load(uri)(x), trained(x))
        other = load(f"{place}/own.py:make?mean=0.1&std=0.5")(x)
        torch.testing.assert_close(load(f"{uri}&mean=0.1&std=0.5")(x), other)  # over its own, and not behind it
        coloured = load("flatlens:cnn?mean=0.1,0.2,0.3&std=1,2,3", (3, 8, 8))
        save_file(coloured.state_dict(), place / "three.safetensors")
        again = load(f"ckpt:{place}/three.safetensors?arch=flatlens:cnn", (3, 8, 8))
        x3 = torch.rand(3, 3, 8, 8)
        torch.testing.assert_close(again(x3), coloured(x3))


def test_from_python_it_replaces_what_flatlens_gave() -> None:
    model = load("flatlens:cnn?mean=0.9&std=9")
    x, y = torch.rand(N, *SHAPE), torch.arange(N) % 10
    found = fl.curvature(model, x, y, normalize=(0.3, 0.25))
    plain = fl.curvature(load("flatlens:cnn?mean=0.3&std=0.25"), x, y)
    assert torch.equal(found.trace, plain.trace)  # type: ignore[union-attr]
    assert float(model.normalize.mean) == pytest.approx(0.9)  # the user's own is left as it was


def test_a_run_by_name(tmp_path: Path) -> None:
    spec = fl.RunSpec(model="flatlens:digits-cnn?mean=0.3&std=0.25", data="flatlens:digits", limit=4, steps=2)
    assert spec.hash() != fl.RunSpec(model="flatlens:digits-cnn", data="flatlens:digits", limit=4, steps=2).hash()
    by_name = fl.run(spec, tmp_path / "run").trace()
    sample = by_name.matrix("loss").sample
    x, y = (torch.from_numpy(v)[sample] for v in (fl.datasets.load("flatlens:digits").x,
                                                  fl.datasets.load("flatlens:digits").y))  # fmt: skip
    model = load("flatlens:digits-cnn")
    by_hand = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=8 / 255, steps=2), normalize=(0.3, 0.25))
    np.testing.assert_allclose(by_name.matrix("loss").values, by_hand.matrix("loss").values, rtol=1e-4)


# ---- bounds, and either spelling ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("0,1", 0, 1),
        ("-1,1", -1, 1),
        ("0,255", 0, 255),
        (" 0 , 1 ", 0, 1),
        ("[-2.5,2.5]", -2.5, 2.5),
        ("0,8/255", 0, 8 / 255),
    ],
)
def test_bounds_are_one_setting_everywhere(text: str, low: float, high: float, tmp_path: Path) -> None:
    least = {"model": "flatlens:cnn", "data": "flatlens:digits"}
    assert fl.RunSpec(**least, bounds=(low, high)) == fl.specs.run.from_dict(least | {"bounds": text})
    assert fl.specs.run.from_dict(least | {"bounds": [low, high]}).bounds == (low, high)
    words = ["trace", "--model", "flatlens:cnn?width=2", "--data", "flatlens:digits", "--limit", "2", "--steps", "1",
             "--bounds", text, "--quiet", "--out", str(tmp_path / "run")]  # fmt: skip
    assert app.run(words) == 0
    assert fl.open(tmp_path / "run").spec["bounds"] == [low, high]
    x, y = torch.rand(2, *SHAPE), torch.tensor([0, 1])
    trace = fl.trace(load("flatlens:cnn?width=2"), x, y, attack=fl.attacks.PGD(steps=1), bounds=text)
    assert trace.spec["bounds"] == [low, high]


@pytest.mark.parametrize("text", ["1,0", "0", "0,1,2", "", "a,b", "0,0", "nan,1", "0,inf", "٠,١x"])
def test_bounds_that_cannot_be(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trace", "--model", "flatlens:cnn", "--data", "flatlens:digits", "--bounds", text, "--dry-run"]
    assert app.run(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --bounds ") and said.count("\n") == 1
    with pytest.raises(SpecError, match="needs two numbers, the smaller first"):
        fl.trace(net(), *data(), bounds=text)


@pytest.mark.parametrize("key", ["layer", "control"])
def test_either_spelling_is_taken(key: str, tmp_path: Path) -> None:
    value = {"layer": "fc", "control": "gaussian-noise"}[key]
    least = {"model": "flatlens:cnn?width=2", "data": "flatlens:digits"}
    plain = fl.RunSpec(**least, **{key: (value,)})
    for other in (fl.RunSpec(**least, **{f"{key}s": (value,)}), fl.RunSpec(**least, **{f"{key}s": value}),
                  fl.specs.run.from_dict(least | {f"{key}s": [value]}),
                  fl.specs.run.from_dict(least | {f"{key}s": value, key: [value]})):  # fmt: skip
        assert other == plain
    with pytest.raises(SpecError, match="are one setting and differ"):
        fl.specs.run.from_dict(least | {f"{key}s": [value], key: ["random-signs"]})
    x, y = torch.rand(2, *SHAPE), torch.tensor([0, 1])
    model, attack = load(least["model"]), fl.attacks.PGD(steps=1)
    traces = [fl.trace(model, x, y, attack=attack, **{name: form})
              for name in (key, f"{key}s") for form in (value, [value])]  # type: ignore[arg-type]  # fmt: skip
    assert all(trace.steps.equals(traces[0].steps) and trace.spec == traces[0].spec for trace in traces)
    with pytest.raises(SpecError, match="are the same setting and differ"):
        fl.trace(model, x, y, attack=attack, **{key: [value], f"{key}s": ["random-signs"]})  # type: ignore[arg-type]
    for flag in (f"--{key}", f"--{key}s"):
        words = ["trace", "--model", least["model"], "--data", least["data"], "--limit", "2", "--steps", "1",
                 flag, value, "--quiet", "--out", str(tmp_path / flag)]  # fmt: skip
        assert app.run(words) == 0
        assert fl.open(tmp_path / flag).spec[key] == [value]
    (tmp_path / "s.toml").write_text(f'{key}s = ["{value}"]\nsteps = 1\nlimit = 2\n')
    words = ["trace", "--config", str(tmp_path / "s.toml"), "--model", least["model"], "--data", least["data"],
             "--quiet", "--out", str(tmp_path / "toml")]  # fmt: skip
    assert app.run(words) == 0 and fl.open(tmp_path / "toml").spec[key] == [value]


def test_curvature_takes_either_spelling() -> None:
    x, y = data()
    one, other = (fl.curvature(net(), x, y, **{key: "0"}).trace for key in ("layer", "layers"))  # type: ignore[arg-type, union-attr]
    assert torch.equal(one, other)
    assert set(fl.curvature(net(), x, y, layers=["0", "head"])) == {"0", "head"}  # type: ignore[arg-type]
