"""The private copy of the model: folded, frozen, tapped, and checked before anything is computed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import LayerError, ModelError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.immunity.fine_tuning import passed
from flatlens.training import passes
from flatlens.trials import adaptive
from flatlens.victims.images import ImageVictim
from flatlens.victims.precision import exact_arithmetic
from tests.attacks.test_attacks import data, net
from tests.expected import cautioned


def digest(model: nn.Module) -> tuple[object, ...]:
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
    )


@cautioned("low-accuracy")
def test_the_users_model_is_unchanged() -> None:
    model, (x, y) = net(), data()
    model(x).sum().backward()
    model[0].weight.requires_grad_(False)
    model[2].register_forward_hook(lambda *_: None)
    before = digest(model)
    fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.1, steps=3), controls=["gaussian-noise"])
    fl.curvature(model, x, y)
    after = digest(model)
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name
    assert before[1:3] == after[1:3]
    for (required, grad), (required_after, grad_after) in zip(before[3], after[3], strict=True):
        assert required == required_after
        assert (grad is None and grad_after is None) or torch.equal(grad, grad_after)


def test_folding_keeps_the_function_and_the_scale() -> None:
    model, (x, y) = net(), data()
    folded, plain = ImageVictim(model, x, layers=["0"]), ImageVictim(model, x, layers=["0"], fold_norms=False)
    assert folded.folded and not plain.folded
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded._model.modules())
    torch.testing.assert_close(folded(x, y).logits, plain(x, y).logits, rtol=1e-12, atol=1e-12)
    layer = folded.layers["0"]
    assert layer.scale is not None
    torch.testing.assert_close(layer.module.weight, layer.scale.view(-1, 1, 1, 1) * model[0].weight, rtol=1e-14, atol=0)
    assert torch.equal(layer.weight, model[0].weight)


def test_folds_in_float32() -> None:
    model, (x, y) = net(torch.float32), data()
    victim = ImageVictim(model, x.float())
    assert victim.folded
    torch.testing.assert_close(victim(victim.place(x), y).logits, model(x.float()), rtol=1e-5, atol=1e-5)


@cautioned("low-accuracy")
def test_folding_changes_no_reported_number() -> None:
    model, (x, y) = net(), data()
    with_norm = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.1, steps=8))
    untraceable = Untraceable(model)
    assert not ImageVictim(untraceable, x).folded
    without = fl.trace(untraceable, x, y, attack=fl.attacks.PGD(eps=0.1, steps=8))
    for name in ("trace", "top_eigenvalue", "relative_flatness", "relative_sharpness", "feature_norm_sq"):
        a, b = with_norm.matrix(name, layer="head").values, without.matrix(name, layer="head").values
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-10, atol=0)


class Untraceable(nn.Module):
    """Branches on a value, which torch.fx refuses to trace."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > -1e9 else x


class Shared(nn.Module):
    """One convolution used twice, with a norm after one of the uses: must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.norm(self.conv(x)) + self.conv(x)).flatten(1))


def test_a_shared_convolution_is_not_folded() -> None:
    model = Shared().double().eval()
    nn.init.uniform_(model.norm.running_var, 0.5, 2)
    x, y = data()
    victim = ImageVictim(model, x)
    assert not victim.folded
    torch.testing.assert_close(victim(x, y).logits, model(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(LayerError, match="'conv' is called 2 times"):
        ImageVictim(model, x, layers=["conv"])


class Spoiled(nn.Module):
    """Overwrites the head's input in place after the head has used it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = 2 * x
        out = self.fc(hidden)
        hidden.mul_(0)
        return out


def test_an_overwritten_input_is_noticed_or_cloned() -> None:
    model, x, y = Spoiled().eval(), torch.rand(3, 4), torch.tensor([0, 1, 2])
    try:
        found = fl.curvature(model, x, y)
    except LayerError as error:
        assert "overwritten in place" in str(error)
    else:
        torch.testing.assert_close(found.feature_norm_sq, (2 * x).double().square().sum(1))


def test_one_pass_gives_gradient_and_taps() -> None:
    model, (x, y) = net(), data()
    victim = ImageVictim(model, x)
    here = victim(x, y)
    torch.testing.assert_close(
        nn.functional.linear(here.taps["head"].input, model[6].weight, model[6].bias), here.logits
    )
    gradient = here.grad(lambda at: at.loss)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)
    with pytest.raises(ModelError, match="through the graph a second time"):
        here.grad(lambda at: at.loss)  # the graph is gone, and with it its memory


def test_arithmetic_is_exact_inside_and_as_before_outside() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), exact_arithmetic(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


class Named(nn.Module):
    """Returns an object with .logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = False

    def forward(self, x: Tensor) -> object:
        class Output:
            logits = self.inner(x)

        return Output()


def test_logits_in_an_object() -> None:
    model, (x, y) = net(), data()
    found, expected = fl.curvature(Named(model), x, y), fl.curvature(model, x, y)
    torch.testing.assert_close(found.trace, expected.trace, rtol=1e-10, atol=0)


def broken(change: object) -> nn.Module:
    model = copy.deepcopy(net())
    return change(model) or model  # type: ignore[operator]


def nan(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.train(), "is in train mode (''); call model.eval() first|is in train mode"),
        (lambda m: m[1].train() and None, "is in train mode ('1')"),
        (nan, "weight '0.weight' holds 1 values that are not finite"),
        (lambda m: nn.Sequential(m, nn.Linear(10, 1).double()).eval(), "returns one logit; return two"),
        (lambda m: nn.Sequential(m, nn.Unflatten(1, (5, 2))).eval(), "returns shape (2, 5, 2) for 2 inputs"),
        (lambda m: nn.Sequential(m, Random()).eval(), "is random: two passes over the same inputs differ by"),
        (lambda m: nn.Sequential(m, nn.Linear(3, 3).double()).eval(), "fails on inputs of shape (2, 1, 8, 8)"),
        (lambda m: nn.Sequential(m, Tuple()).eval(), "returns a tuple, not logits"),
    ],
)
def test_says_what_is_wrong_with_a_model(change: object, said: str) -> None:
    x, y = data()
    with pytest.raises(ModelError) as error:
        fl.trace(broken(change), x, y)
    assert any(part in str(error.value) for part in said.split("|"))
    assert "\n" not in str(error.value)


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("haed", "no layer 'haed'; this model has: head, 0, 3, 6. Did you mean 'head'?"),
        ("1", "layer '1' is a BatchNorm2d; only Linear, Conv1d and Conv2d can be probed"),
        ("conv*", "no layer matches 'conv*'; this model has: 0, 3, 6"),
        ("last:0", "layer 'last:0': last:N needs a whole number N ≥ 1"),
    ],
)
def test_says_what_is_wrong_with_a_layer(layer: str, said: str) -> None:
    x, y = data()
    with pytest.raises(LayerError) as error:
        fl.trace(net(), x, y, layers=[layer])
    assert str(error.value).startswith(said)


def test_a_model_without_a_head_says_what_else_there_is() -> None:
    model = nn.Sequential(net(), nn.Softplus()).eval()
    x, y = data()
    with pytest.raises(LayerError, match=r"no head: .* name a layer instead: 0.0, 0.3, 0.6"):
        fl.trace(model, x, y)


@cautioned("low-accuracy")
def test_a_head_that_is_given_its_input_by_name() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.head(input=torch.tanh(x))
            return z

    model, x, y = ByName().eval(), torch.rand(5, 4), torch.arange(5) % 3
    features = torch.tanh(x)
    assert torch.equal(ImageVictim(model, x)(x, y).taps["head"].input, features)
    made = passes.forward(model, x, y, model.head)  # of a training, whose penalties are of the head
    assert made.features is not None and torch.equal(made.features, features)
    assert torch.equal(passed(model, model.head, x)[1], features)  # of a fine-tuning
    victim = ImageVictim(model, x)
    with adaptive.features(victim) as kept:  # of a trial of detectors
        victim(x, y)
    assert torch.equal(kept[0], features)


@pytest.mark.parametrize("pattern", ["all", "last:2"])
def test_a_model_without_any_layer_says_so(pattern: str) -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 3)]  # a list's are no modules of the model

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.layers[0](x)
            return z

    for work in (fl.trace, fl.curvature):
        with pytest.raises(LayerError, match="can be probed: the model has no Linear, Conv1d or Conv2d among its mod"):
            work(Hidden().eval(), torch.rand(5, 4), torch.arange(5) % 3, layers=[pattern])


def test_layer_patterns() -> None:
    x, _ = data()
    assert list(ImageVictim(net(), x, layers=["all"]).layers) == ["0", "3", "head"]
    assert list(ImageVictim(net(), x, layers=["last:2"]).layers) == ["3", "head"]
    assert list(ImageVictim(net(), x, layers=["6"]).layers) == ["6"]
    assert list(ImageVictim(net(), x, layers=["head", "?"]).layers) == ["head", "0", "3"]


class Doubled(nn.Linear):
    """A Linear that does something else than W·a + b."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@cautioned("low-accuracy", "not-probed", "zero-gradient")
def test_a_pattern_leaves_out_what_cannot_be_probed_and_says_so() -> None:
    model = nn.Sequential(nn.Flatten(), Doubled(64, 5), nn.ReLU(), nn.Linear(5, 10)).double().eval()
    x, y = data()
    trace = fl.trace(model, x, y, layers=["all"], attack=fl.attacks.PGD(steps=1))
    assert trace.layer_names == ("head",)
    said = {c.code: c.message for c in trace.cautions}["not-probed"]
    assert said.startswith("1 of the layers asked for are left out ('1'): layer '1' (Doubled) does not compute W·a + b")
    assert list(fl.curvature(model, x, y, layer=["*"])) == ["head"]
    with pytest.raises(LayerError, match="'1' \\(Doubled\\) does not compute"):
        fl.trace(model, x, y, layers=["1"])
    with pytest.raises(LayerError, match="none of the layers 1\\* can be probed"):
        fl.trace(model, x, y, layers=["1*"])


def test_a_victim_does_not_change_once_it_is_made() -> None:
    model, x = net(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    victim = ImageVictim(model, x, layers=["all"])
    before = dict(vars(victim))
    measure = AnyLayer(victim, x)
    here = measure.victim(victim.place(x), torch.arange(3))
    measure(here)
    here.grad(lambda at: at.loss)
    assert vars(victim) == before
    assert measure.victim is not victim
