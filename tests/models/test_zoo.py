"""The built-in architectures: what they are, how they fit the data, that they train, and that they are measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.attacks import PGD
from flatlens.errors import ModelError
from flatlens.models import zoo
from flatlens.models.architectures import ARCHITECTURES
from flatlens.training import fit as training
from flatlens.victims.images import ImageVictim
from tests.assets import fashion_mnist
from tests.expected import cautioned
from tests.oracles import truth

pytestmark = cautioned("silent-success", "wide-error")

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
TINY = {
    "cnn": "width=2",
    "mlp": "width=8",
    "resnet18": "width=2",
    "wide-resnet-28-4": "width=1&depth=10",
    "densenet121": "growth=1",
    "vgg11-bn": "width=2",
    "vit-tiny": "width=6&depth=2",
}
NEW = list(TINY)[2:]
CONVOLUTIONAL = NEW[:-1]


def load(uri: str, shape: tuple[int, ...] = (1, 8, 8), classes: int = 10) -> nn.Sequential:
    model = models.load(f"flatlens:{uri}", shape=shape, classes=classes).model
    assert isinstance(model, nn.Sequential)
    return model


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def digits(split: str = "test") -> tuple[Tensor, Tensor]:
    data = datasets.load(f"flatlens:digits?split={split}")
    return torch.from_numpy(data.x), torch.from_numpy(data.y)


def settled(model: nn.Sequential, x: Tensor) -> nn.Sequential:
    """The model with batch norms that have seen data, and weights of their own."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
        model.train()
        for _ in range(10):
            model(x)
    return model.eval()


def test_the_tables_agree():
    assert {f"flatlens:{name}" for name in ARCHITECTURES} == {u for u in models.BUILT_IN if "digits-" not in u}
    for name, kind in ARCHITECTURES.items():
        for option in [*kind.options, "seed"]:
            assert option in models.BUILT_IN[f"flatlens:{name}"].rpartition("options ")[2]


def test_the_cnn_is_what_it_was():
    loaded = models.load("flatlens:cnn", shape=(1, 8, 8), classes=10)
    assert loaded.sha256 == "f876f5101b951c4020a38c61ceaf78828524fa75f97e6c312b87725d2a37dc93"


# ---- shapes and sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TINY)
def test_every_architecture_fits_the_data(name, shape):
    model = load(f"{name}?{TINY[name]}", shape, 7)
    assert isinstance(model.normalize, zoo.Normalize) and model[0] is model.normalize and model[-1] is model.fc
    assert isinstance(model.fc, nn.Linear)
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("shape", [(2, 9, 7), (1, 1, 1), (3, 2, 33)])
def test_odd_images_fit_too(name, shape):
    assert load(f"{name}?{TINY[name]}", shape, 3)(torch.rand(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("name", TINY)
def test_every_layer_is_a_module_used_once(name):
    model = load(f"{name}?{TINY[name]}")
    calls = dict.fromkeys((n for n, m in model.named_modules() if not list(m.children())), 0)
    for used in calls:
        if not isinstance(model.get_submodule(used), nn.Sequential):  # an empty one is an identity shortcut

            def note(_: nn.Module, __: object, ___: object, used: str = used) -> None:
                calls[used] += 1

            model.get_submodule(used).register_forward_hook(note)
        else:
            calls[used] = 1
    model(torch.rand(2, 1, 8, 8))
    assert set(calls.values()) == {1}


def test_parameters_as_published():
    cifar = ((3, 32, 32), 10)
    # ResNet-18, DenseNet-121, VGG-11: the counts commonly given for the CIFAR stems; 28-10 and 40-4: those of the wide
    # ResNets' reference implementations; ViT-Tiny/16 at 224 pixels: as in timm.
    assert count(zoo.resnet18(*cifar)) == 11_173_962
    assert count(zoo.densenet121(*cifar)) == 6_956_298
    assert count(zoo.vgg11(*cifar)) == 9_231_114
    assert count(zoo.wide_resnet(*cifar, widen=10)) == 36_479_194
    assert count(zoo.wide_resnet(*cifar, depth=40)) == 8_949_210
    assert count(zoo.wide_resnet(*cifar)) == wide_resnet_parameters(16, 28, 4) == 5_849_050
    assert count(zoo.vit((3, 224, 224), 1000, patch=16)) == 5_717_416


def wide_resnet_parameters(width: int, depth: int, widen: int, classes: int = 10) -> int:
    """By hand: 9·i·o for a 3×3 convolution, i·o for a shortcut, 2·c for a norm, which stands before its convolution."""
    total, channels = 3 * 9 * width, width
    for group in range(3):
        out = widen * width * 2**group
        total += channels * out
        for _ in range((depth - 4) // 6):
            total += 2 * channels + 9 * channels * out + 2 * out + 9 * out * out
            channels = out
    return total + 2 * channels + channels * classes + classes


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEW)
def test_options_change_the_net(name):
    tiny = TINY[name]
    plain = models.load(f"flatlens:{name}?{tiny}", shape=(1, 8, 8), classes=10)
    others = [f"{tiny}&seed=1", tiny.replace("width=1", "width=2").replace("width=6", "width=9")]
    if name == "resnet18" or name == "vgg11-bn":
        others[1] = "width=3"
    if name == "densenet121":
        others[1] = "growth=2"
    if name == "wide-resnet-28-4":
        others.append("width=1&depth=16")
    if name == "vit-tiny":
        others += ["width=6&depth=3", f"{tiny}&patch=4"]
    hashes = {models.load(f"flatlens:{name}?{o}", shape=(1, 8, 8), classes=10).sha256 for o in others}
    assert len(hashes | {plain.sha256}) == len(others) + 1
    again = models.load(f"flatlens:{name}?{tiny}&seed=0", shape=(1, 8, 8), classes=10)
    assert again.sha256 == plain.sha256


@pytest.mark.parametrize("act", zoo.ACTIVATIONS)
@pytest.mark.parametrize("name", NEW)
def test_every_activation(name, act):
    model, default = load(f"{name}?{TINY[name]}&act={act}"), load(f"{name}?{TINY[name]}")
    own = [m for m in model.modules() if isinstance(m, zoo.ACTIVATIONS[act])]
    assert own and not any(isinstance(m, tuple(zoo.ACTIVATIONS.values())) for m in model.modules() if m not in own)
    x, _ = digits()
    assert model(x[:8]).isfinite().all()
    assert (count(model) > count(default)) == (act == "swiglu")


def test_the_gates_of_a_transformer_are_on_its_last_axis():
    x = torch.rand(2, 3, 8)
    value, gate = x[..., :4], x[..., 4:]
    torch.testing.assert_close(zoo.SwiGLU(dim=2)(x), value * gate * torch.sigmoid(gate))
    model = load("vit-tiny?width=6&depth=1&act=swiglu")
    assert (model.blocks[0].up.out_features, model.blocks[0].down.in_features) == (48, 24)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_norm(name):
    kinds = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm, "none": nn.Identity}
    for norm, kind in kinds.items():
        model = load(f"{name}?{TINY[name]}&norm={norm}")
        found = {type(m) for m in model.modules()} & set(kinds.values())
        assert found == {kind}
        assert model(torch.rand(2, 1, 8, 8)).isfinite().all()
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert all((m.bias is not None) == (norm == "none" or name == "vgg11-bn") for m in convolutions)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 1), (16, 1), (32, 2), (40, 2), (52, 2), (64, 4)])
def test_groups_divide_the_channels(channels, groups):
    assert zoo.NORMS["group"](channels).num_groups == groups


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "resnet18?act=rleu",
            "no act 'rleu'; there are: relu, gelu, silu, swiglu. Did you mean 'relu'? (in 'flatlens:resnet18?act",
        ),
        ("resnet18?norm=bach", "no norm 'bach'; there are: batch, group, none. Did you mean 'batch'? (in "),
        ("resnet18?depth=3", "no option 'depth'; 'flatlens:resnet18' has: act, norm, width, seed."),
        ("vit-tiny?norm=batch", "no option 'norm'; 'flatlens:vit-tiny' has: act, width, depth, heads, patch, seed."),
        ("densenet121?grwth=4", "no option 'grwth'; 'flatlens:densenet121' has: act, norm, growth, seed. Did you mean"),
        ("vgg11-bn?width=0", "width=0 in 'flatlens:vgg11-bn?width=0': needs a whole number from 1 to 512"),
        ("vgg11?width=4", "no model 'flatlens:vgg11'; flatlens comes with: "),
        (
            "wide-resnet-28-4?depth=20",
            "depth=20: a wide ResNet has a depth of 6·n + 4; use 16 or 22 (in 'flatlens:wide-resnet-28-4?depth=20')",
        ),
        ("wide-resnet-28-4?depth=4", "depth=4 in 'flatlens:wide-resnet-28-4?depth=4': needs a whole number from 10 to"),
        (
            "resnet18?act=swiglu&norm=none",
            "norm=none lets act=swiglu overflow; use norm=batch or norm=group, or act=silu (in 'flatlens:resnet18?act",
        ),
        (
            "vit-tiny?patch=3",
            "patch=3 does not divide images of 8×8; use patch=1, 2, 4 or 8 (in 'flatlens:vit-tiny?patch=3')",
        ),
        (
            "vit-tiny?width=16",
            "heads=3 does not divide width=16; use heads=1, 2, 4, 8 or 16, or width=15 (in 'flatlens:vit-tiny?",
        ),
        ("resnet18?seed=-1", "seed=-1 in 'flatlens:resnet18?seed=-1': needs a whole number from 0 to 4294967295"),
    ],
)
def test_an_option_that_cannot_be(uri, message):
    with pytest.raises(ModelError) as caught:
        load(uri)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NEW)
def test_data_that_are_no_images(name):
    with pytest.raises(ModelError, match=r"needs images \[C, H, W\] of 1×1 or more, not \(64,\); use flatlens:mlp"):
        load(name, (64,))


def test_images_that_no_patch_of_two_divides():
    message = r"patch=2 does not divide images of 9×7; use patch=1 \(in 'flatlens:vit-tiny'\)"
    with pytest.raises(ModelError, match=message):
        load("vit-tiny", (1, 9, 7))
    model = load("vit-tiny?width=6&depth=1&patch=1", (1, 9, 7))
    assert model.embed.place.shape == (1, 64, 6)
    for shape, tokens in (((1, 8, 8), 17), ((1, 28, 28), 50), ((3, 32, 32), 65)):
        assert load("vit-tiny?width=6&depth=1", shape).embed.place.shape[1] == tokens


# ---- folding and curvature ----------------------------------------------------------------------

FOLDED = {
    "resnet18": lambda name: "fc" not in name,
    # The norm before each block's first convolution follows a sum; that before the second, the first convolution.
    "wide-resnet-28-4": lambda name: name.endswith("conv1"),
    "densenet121": lambda name: name.startswith("block") and name.endswith("conv1"),
    "vgg11-bn": lambda name: name.startswith("conv"),
}


@pytest.mark.parametrize("name", TINY)
def test_batch_norm_is_folded(name):
    x, _ = digits()
    model = settled(load(f"{name}?{TINY[name]}"), x)
    victim = ImageVictim(model, x, layers=["all"])
    assert victim.folded == (name in FOLDED)
    folded = {layer.target for layer in victim.layers.values() if layer.scale is not None}
    expected = FOLDED.get(name, lambda _: False)
    assert folded == {layer.target for layer in victim.layers.values() if expected(layer.target)}
    assert not ImageVictim(load(f"resnet18?{TINY['resnet18']}&norm=group"), x).folded


PROBED = {"mlp": "hidden2", "vit-tiny": "fc"}
"""The layer that is compared with its dense Hessian; the first convolution of the others."""


@pytest.mark.parametrize("name", TINY)
def test_curvature_of_all_layers(name):
    x, y = digits()
    model = settled(load(f"{name}?{TINY[name]}"), x).double()
    x, y = x[:3].double(), y[:3]
    found = fl.curvature(model, x, y, layer="all")
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert {"head" if n == "fc" else n for n in layers} == set(found)
    assert all(c.trace.isfinite().all() and c.trace.shape == (3,) for c in found.values())
    if name != "vit-tiny":
        assert all(c.exact for c in found.values())
    layer = PROBED.get(name, "conv1")
    measured, expected = found["head" if layer == "fc" else layer], truth(model, layer, x, y)
    assert measured.exact and (expected.trace > 0).all()
    torch.testing.assert_close(measured.trace, expected.trace, rtol=1e-8, atol=1e-300)
    torch.testing.assert_close(measured.relative_flatness, expected.relative_flatness, rtol=1e-8, atol=1e-300)


# ---- training -----------------------------------------------------------------------------------

TRAINED = [
    ("cnn", 10, 3e-3),
    ("mlp", 15, 3e-3),
    ("resnet18?width=8", 4, 3e-3),
    pytest.param("resnet18?width=4&act=swiglu", 4, 3e-3, marks=pytest.mark.slow),
    ("wide-resnet-28-4?width=2", 4, 3e-3),
    pytest.param("densenet121?growth=2", 4, 1e-2, marks=pytest.mark.slow),
    ("vgg11-bn?width=8", 8, 3e-3),
    pytest.param("vit-tiny?width=24&depth=3", 20, 3e-3, marks=pytest.mark.slow),
]
"""Model, epochs and learning rate with which it gets more than nine in ten of the digits right: 92 to 95 % as seen."""


@pytest.mark.parametrize(("uri", "epochs", "lr"), TRAINED)
def test_every_architecture_learns_and_is_traced(uri, epochs, lr):
    check_learning(load(uri), digits("train"), digits(), epochs, lr, least=0.9)


@pytest.mark.slow
@pytest.mark.parametrize(("uri", "epochs", "lr"), TRAINED)
def test_every_architecture_learns_clothes(uri, epochs, lr):
    """Trained on 2,000 of Fashion-MNIST's images: at least seven in ten right on 500 others."""
    folder = fashion_mnist()
    train, test = (datasets.load(f"idx:{folder}?split={split}") for split in ("train", "test"))
    few = train.take(datasets.balanced(train.y, 2000, 0))
    held_out = test.take(datasets.balanced(test.y, 500, 0))
    pairs = [(torch.from_numpy(part.x), torch.from_numpy(part.y)) for part in (few, held_out)]
    check_learning(load(uri, (1, 28, 28)), *pairs, epochs, lr, least=0.7)


def check_learning(model, train, test, epochs, lr, *, least):
    training.train(model, *train, rng=torch.Generator().manual_seed(0), epochs=epochs, lr=lr)
    x, y = test
    assert training.accuracy(model, x, y) >= least
    attack = PGD(eps=0.2, steps=3)
    head = fl.trace(model, x[:8], y[:8], attack=attack, layers=["head"])
    assert head.layers.num_rows == 8 * 4 and (head.layers["trace"].to_numpy() >= 0).all()
    every = fl.trace(model, x[:2], y[:2], attack=attack, layers=["all"])
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert every.layers.num_rows == 2 * 4 * len(layers)
    assert torch.from_numpy(every.layers["trace"].to_numpy().copy()).isfinite().all()
