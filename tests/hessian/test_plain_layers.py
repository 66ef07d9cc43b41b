"""`exact` means exact: layers that do more than W·a + b are refused by name, all others equal the dense Hessian."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import flatlens as fl
from flatlens.errors import LayerError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.victims.images import ImageVictim
from tests.oracles import truth

Change = Callable[["Net"], None]


class Net(nn.Module):
    """Two Linear layers and a head; ``after`` has the last word on the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.after: Callable[[Net, Tensor, Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.two(F.relu(self.one(x))))
        logits = self.fc(hidden)
        return logits if self.after is None else self.after(self, hidden, logits)


def net(change: Change, dtype: torch.dtype = torch.float64) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net().to(dtype)
        change(model)
    return model.to(dtype).eval()


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x.to(dtype), torch.arange(4) % 3


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 2 * self.weight, self.bias)


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 9 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class CosineWeight(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=1), self.bias)


class LowRank(nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.a, self.b = nn.Parameter(torch.randn(inputs, 1)), nn.Parameter(torch.randn(1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.a @ self.b


class FlatThere(nn.Linear):
    """W + (W − W₀)²: neither the value nor the gradient shows it at W = W₀."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("start", self.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + 5 * (self.weight - self.start).square(), self.bias)


class FlatBeside(FlatThere):
    def forward(self, x: Tensor) -> Tensor:
        return super(FlatThere, self).forward(x) + 5 * (self.weight - self.start).square().sum()


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.detach(), self.bias)


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)  # type: ignore[attr-defined]
        return x @ weight.T

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad @ weight, grad.T @ x + 1


class Custom(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Opaque.apply(x, self.weight) + self.bias


class Gated(nn.Linear):
    """A second use of its weight behind a gate that is closed at most inputs."""

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(x.sum(1, keepdim=True) - 1e4)
        return super().forward(x) + gate * F.linear(x, self.weight.square())


class Autocast(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x.float())


class Renamed(nn.Linear):
    """A subclass that does nothing else."""


class Cast(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.to(self.weight.dtype), self.weight, self.bias)


class ByHand(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


def swap(name: str, kind: type[nn.Linear]) -> Change:
    def change(m: Net) -> None:
        old = m.get_submodule(name)
        setattr(m, name, kind(old.in_features, old.out_features))

    return change


def hooked(name: str, hook: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Change:
    def change(m: Net) -> None:
        m.get_submodule(name).register_forward_hook(lambda module, args, out: hook(module, args[0], out))

    return change


def pre_hooked(name: str, hook: Callable[[nn.Module, Tensor], Tensor]) -> Change:
    def change(m: Net) -> None:
        m.get_submodule(name).register_forward_pre_hook(lambda module, args: (hook(module, args[0]),))

    return change


def after(function: Callable[[Net, Tensor, Tensor], Tensor]) -> Change:
    def change(m: Net) -> None:
        m.after = function

    return change


def captured(name: str) -> Change:
    """A closure over the layer's own parameter, which a copy of the model does not reach."""

    def change(m: Net) -> None:
        weight = m.get_submodule(name).weight
        m.get_submodule(name).register_forward_hook(lambda _, args, out: out + 0.3 * F.linear(args[0], weight))

    return change


def alias(m: Net) -> None:
    m.extra = m.two.weight
    m.after = lambda m, h, z: z + F.linear(h, m.extra)[:, :3]


def tied(m: Net) -> None:
    m.three = nn.Linear(5, 3)
    m.three.weight = m.fc.weight
    m.after = lambda m, h, z: z + m.three(h.sin())


def tensor_alias(name: str) -> Change:
    def change(m: Net) -> None:
        held = [m.get_submodule(name).weight.data]  # the same memory, no parameter
        m.get_submodule(name).register_forward_hook(lambda _, args, out: out + F.linear(args[0], held[0]))

    return change


REFUSED: dict[str, tuple[str, Change]] = {
    "scaled": ("fc", swap("fc", Scaled)),
    "scaled-inner": ("two", swap("two", Scaled)),
    "cosine": ("fc", swap("fc", Cosine)),
    "cosine-weight": ("fc", swap("fc", CosineWeight)),
    "cosine-weight-inner": ("two", swap("two", CosineWeight)),
    "low-rank": ("fc", swap("fc", LowRank)),
    "low-rank-inner": ("two", swap("two", LowRank)),
    "flat-at-w": ("fc", swap("fc", FlatThere)),
    "flat-at-w-inner": ("two", swap("two", FlatThere)),
    "flat-beside": ("two", swap("two", FlatBeside)),
    "closed-gate": ("fc", swap("fc", Gated)),
    "closed-gate-inner": ("two", swap("two", Gated)),
    "detached": ("two", swap("two", Detached)),
    "custom-function": ("two", swap("two", Custom)),
    "hook-scales": ("fc", hooked("fc", lambda m, x, out: 3 * out)),
    "hook-scales-inner": ("two", hooked("two", lambda m, x, out: 3 * out)),
    "hook-adds-low-rank": ("fc", hooked("fc", lambda m, x, out: out + x.sum(1, keepdim=True))),
    "hook-uses-the-weight": ("two", hooked("two", lambda m, x, out: out + F.linear(x, m.weight))),
    "hook-adds-the-weights-norm": ("fc", hooked("fc", lambda m, x, out: out * m.weight.norm())),
    "pre-hook-scales-by-the-weight": ("fc", pre_hooked("fc", lambda m, x: x * m.weight.norm())),
    "pre-hook-scales-by-the-weight-inner": ("two", pre_hooked("two", lambda m, x: x / m.weight.norm())),
    "captured": ("fc", captured("fc")),
    "captured-inner": ("two", captured("two")),
    "same-memory": ("two", tensor_alias("two")),
    "used-again-by-linear": ("two", after(lambda m, h, z: z + F.linear(h, m.two.weight)[:, :3])),
    "used-again-transposed": ("two", after(lambda m, h, z: z + (h @ m.two.weight)[:, :3])),
    "used-again-as-a-norm": ("two", after(lambda m, h, z: z * m.two.weight.square().mean())),
    "used-again-behind-a-gate": ("two", after(lambda m, h, z: z + F.relu(h.sum() - 1e4) * m.two.weight.sum())),
    "head-used-again": ("fc", after(lambda m, h, z: z - 0 * h.sum() * m.fc.weight.square().sum())),
    "registered-twice": ("two", alias),
    "tied-to-another-layer": ("fc", tied),
    "forward-by-hand": ("two", after(lambda m, h, z: z + m.two.forward(h)[:, :3])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plain_is_refused_by_name(name: str) -> None:
    layer, change = REFUSED[name]
    model, (x, y) = net(change), data()
    before = copy.deepcopy(model.state_dict())
    grads = [p.requires_grad for p in model.parameters()]
    with pytest.raises(LayerError, match=f"layer '{layer}'|no head|no Linear layer's output equals"):
        fl.curvature(model, x, y, layer=layer)
    with pytest.raises(LayerError, match=r"layer 'head'|layer 'fc'|no head" if layer == "fc" else f"layer '{layer}'"):
        fl.trace(model, x, y, layers=["head" if layer == "fc" else layer], attack=fl.attacks.PGD(steps=1))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == grads
    assert all(p.grad is None for p in model.parameters())


def parametrised(name: str, wrap: Callable[[nn.Module], object]) -> Change:
    def change(m: Net) -> None:
        wrap(m.get_submodule(name))

    return change


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).T


def spectral(m: nn.Module) -> None:
    spectral_norm(m)
    m(torch.rand(2, m.in_features).to(m.bias))  # its vectors are found in train mode


MEASURED: dict[str, tuple[str, Change]] = {
    "plain": ("two", lambda m: None),
    "plain-head": ("fc", lambda m: None),
    "subclass": ("two", swap("two", Renamed)),
    "subclass-head": ("fc", swap("fc", Renamed)),
    "casts-its-input": ("two", swap("two", Cast)),
    "written-by-hand": ("two", swap("two", ByHand)),
    "hook-looks": ("two", hooked("two", lambda m, x, out: out.clone())),
    "pre-hook-scales": ("fc", pre_hooked("fc", lambda m, x: 2 * x)),
    "pre-hook-scales-inner": ("two", pre_hooked("two", lambda m, x: 2 * x)),
    "frozen": ("two", lambda m: setattr(m.two.weight, "requires_grad", False)),
    "frozen-whole": ("fc", lambda m: [setattr(p, "requires_grad", False) for p in m.parameters()] and None),
    "weight-norm": ("two", parametrised("two", parametrizations.weight_norm)),
    "weight-norm-head": ("fc", parametrised("fc", parametrizations.weight_norm)),
    "spectral-norm": ("two", parametrised("two", parametrizations.spectral_norm)),
    "orthogonal": ("two", parametrised("two", parametrizations.orthogonal)),
    "own-parametrisation": (
        "two",
        parametrised("two", lambda m: parametrize.register_parametrization(m, "weight", Symmetric())),
    ),
    "old-weight-norm": ("two", parametrised("two", weight_norm)),
    "old-weight-norm-head": ("fc", parametrised("fc", weight_norm)),
    "old-spectral-norm": ("two", parametrised("two", spectral)),
    "pruned": ("two", parametrised("two", lambda m: prune.l1_unstructured(m, "weight", 0.4))),
    "without-bias": ("fc", lambda m: setattr(m, "fc", nn.Linear(5, 3, bias=False))),
    "another-is-parametrised": ("fc", parametrised("one", parametrizations.weight_norm)),
}


def plain(model: Net) -> Net:
    """The same function with plain weights, for the oracle."""
    same = net(lambda m: None)
    hooks = {name: model.get_submodule(name) for name in ("one", "two", "fc")}
    model(data()[0])
    with torch.no_grad():
        for name, module in hooks.items():
            own = same.get_submodule(name)
            own.weight.copy_(module.weight)
            if module.bias is None:
                own.bias.zero_()
            else:
                own.bias.copy_(module.bias)
            for hook in module._forward_pre_hooks.values():
                if hook.__class__.__name__ == "function":
                    own.register_forward_pre_hook(hook)
    return same


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("name", MEASURED)
def test_what_is_plain_equals_the_dense_hessian(name: str) -> None:
    layer, change = MEASURED[name]
    model, (x, y) = net(change), data()
    expected = truth(plain(model), layer, x, y)
    found = fl.curvature(model, x, y, layer=layer)
    assert found.exact
    for column in ("trace", "relative_flatness", "top_eigenvalue", "weight_grad_norm"):
        torch.testing.assert_close(getattr(found, column), getattr(expected, column), rtol=1e-9, atol=1e-15)
    single = fl.curvature(net(change, torch.float32), x.float(), y, layer=layer)
    for column in ("trace", "relative_flatness", "top_eigenvalue"):
        torch.testing.assert_close(getattr(single, column), getattr(expected, column), rtol=1e-5, atol=1e-9)
    traced = fl.trace(model, x, y, layers=[layer], attack=fl.attacks.PGD(eps=0.05, steps=2))
    assert traced.matrix("trace", layer=layer).values[:, 0] == pytest.approx(expected.trace.numpy(), rel=1e-9)


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(2, 4, 3, padding=1),
    "grouped": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "circular": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    "weight-norm": lambda: parametrizations.weight_norm(nn.Conv2d(2, 4, 3)),
    "subclass": lambda: type("Own", (nn.Conv2d,), {})(2, 4, 3, stride=2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_too(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = CONVOLUTIONS[name]()
        size = conv(torch.rand(1, 2, 5, 5)).numel()
        model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(size, 3)).double().eval()
        x, y = torch.rand(3, 2, 5, 5).double(), torch.arange(3)
    same = copy.deepcopy(model)
    same[0] = nn.Conv2d(2, 4, 3)
    for name in ("stride", "padding", "padding_mode", "groups", "_reversed_padding_repeated_twice"):
        setattr(same[0], name, getattr(conv, name))
    same[0].weight, same[0].bias = nn.Parameter(conv.weight.detach()), conv.bias
    expected = truth(same, "0", x, y)
    found = fl.curvature(model, x, y, layer="0")
    for column in ("trace", "relative_flatness", "top_eigenvalue"):
        torch.testing.assert_close(getattr(found, column), getattr(expected, column), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["whole", "part", "in-place"])
def test_compiled_models_are_measured(how: str, backend: str) -> None:
    model, (x, y) = net(lambda m: None), data()
    expected = truth(model, "two", x, y)
    if how == "whole":
        model = torch.compile(model, backend=backend)
    elif how == "part":
        model.one = torch.compile(model.one, backend=backend)
    else:
        model.compile(backend=backend)
    model(x)
    found = fl.curvature(model, x, y, layer=["two", "head"])
    torch.testing.assert_close(found["two"].trace, expected.trace, rtol=1e-9, atol=0)
    trace = fl.trace(model, x, y, layers=["two"], attack=fl.attacks.PGD(eps=0.05, steps=2))
    assert trace.layer_names == ("two",)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    model, (x, y) = net(lambda m: None, dtype), data()
    wide = copy.deepcopy(model).double()
    for layer in ("two", "fc"):
        found, expected = fl.curvature(model, x.float(), y, layer=layer), truth(wide, layer, x.float().double(), y)
        torch.testing.assert_close(found.trace, expected.trace, rtol=1e-5, atol=0)
    assert next(model.parameters()).dtype == dtype
    trace = fl.trace(model, x.float(), y, layers=["two"], attack=fl.attacks.PGD(eps=0.05, steps=2))
    assert trace.spec["dtype"] == "float32"


@pytest.mark.parametrize("layer", ["fc", "two"])
def test_a_branch_that_opens_during_the_attack_is_found(layer: str) -> None:
    """At the clean inputs the model is plain; where the attack leads, it uses a weight again."""
    x, y = data()

    def branch(m: Net, hidden: Tensor, logits: Tensor) -> Tensor:
        if bool((hidden.sum(1) > 50).any()):  # not reached by inputs in [0, 1]
            return logits + F.linear(hidden, m.get_submodule(layer).weight)[:, :3]
        return logits

    model = net(after(branch))
    name = "head" if layer == "fc" else layer
    with pytest.raises(LayerError, match=rf"the head's logits|layer '{layer}'.*at the end of an attack"):
        fl.trace(model, x, y, layers=[name], attack=fl.attacks.along(torch.stack([x, x + 0.5, x + 1e3])))


ONE_SIDED = [nn.ELU, nn.SELU, nn.CELU, nn.Softplus]


@pytest.mark.parametrize("act", ONE_SIDED, ids=lambda a: a.__name__)
def test_one_sided_activations_are_never_exact_where_they_can_bend(act: type[nn.Module]) -> None:
    """40 small nets each, most with all units on the straight side at the points that a preflight sees."""
    for seed in range(40):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 5), act(), nn.Linear(5, 5), act(), nn.Linear(5, 3)).double().eval()
            with torch.no_grad():
                model[0].bias += (0, 2, 30)[seed % 3]
                model[2].bias += (0, 4, 30)[seed % 3]
            x = torch.rand(3, 4).double()
        victim = ImageVictim(model, x, layers=["0", "2", "head"])
        methods = AnyLayer(victim, x).methods
        assert {name: how.exact for name, how in methods.items()} == {"0": False, "2": False, "head": True}
        if seed % 5:  # of every fifth the numbers, too: both sides, and each of the three places
            continue
        far = x - 40 * (seed % 2)  # where the other side is in use
        y = torch.arange(3)
        found = fl.curvature(model, far, y, layer="2")
        expected = truth(model, "2", far, y)
        size = expected.spectrum.abs().amax(1)
        assert ((found.trace - expected.trace).abs() <= 1e-8 * size + 4 * found.trace_se + 1e-11).all()


BRANCHES = {
    "where": lambda s: torch.where(s > 50, s.exp(), s),
    "masked": lambda s: s.masked_scatter(s > 50, s[s > 50].exp()),
    "closed-gate": lambda s: s + F.relu(s - 50) ** 2,
    "clamped-square": lambda s: s + (s - 50).clamp(min=0) * s,
    "own-function": lambda s: Kinked.apply(s),
}


class Kinked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, s: Tensor) -> Tensor:
        ctx.save_for_backward(s)  # type: ignore[attr-defined]
        return torch.where(s > 50, s**2, s)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * torch.where(s > 50, 2 * s, 1)


@pytest.mark.parametrize("name", BRANCHES)
def test_what_bends_elsewhere_is_not_exact_here(name: str) -> None:
    class Bent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.fc = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(BRANCHES[name](self.one(x)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Bent().double().eval()
    x, _ = data()
    assert not AnyLayer(ImageVictim(model, x, layers=["one"]), x).methods["one"].exact


@pytest.mark.parametrize("contrast", [1e-1, 1e-2, 1e-3])
def test_a_float32_contraction_stays_right_at_low_contrast(contrast: float) -> None:
    """What the layer sees hardly varies from position to position, and the loss sees differences of positions alone."""

    class Differences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(64, 32, 3), nn.Linear(32 * 16, 4)

        def forward(self, x: Tensor) -> Tensor:
            s = self.conv(x).flatten(2)
            return self.fc(((s - s.mean(2, keepdim=True)) / contrast).flatten(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Differences().eval()
        x, y = 0.5 + contrast * torch.rand(2, 64, 6, 6), torch.arange(2)
    wide = fl.curvature(copy.deepcopy(model).double(), x.double(), y, layer="conv")
    found = fl.curvature(model, x, y, layer="conv")
    for column in ("trace", "relative_flatness", "top_eigenvalue"):
        torch.testing.assert_close(getattr(found, column), getattr(wide, column), rtol=1e-5 + 3e-7 / contrast, atol=0)


def test_a_sampled_spectrum_has_no_largest_eigenvalue() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 200)).double().eval()
        x, y = torch.rand(3, 6).double(), torch.arange(3)
    found = fl.curvature(model, x, y, layer="0")
    assert found.method == "stratified"
    assert torch.isfinite(found.trace).all()
    assert torch.isnan(found.top_eigenvalue).all()
    assert torch.isnan(found.effective_rank).all()


@pytest.mark.parametrize("small", [1e-1, 1e-3, 1e-5])
def test_a_largest_eigenvalue_near_0_is_right_against_itself(small: float) -> None:
    """H has one large negative eigenvalue and a tiny positive one."""

    class Saddle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(6, 5, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            s = self.one(x)
            z = -s[:, :1].square() * 8 + small * s[:, 1:2].square() + 1e-9 * s[:, 2:].square().sum(1, keepdim=True)
            return torch.cat([z, torch.zeros_like(z)], 1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Saddle().double().eval()
        with torch.no_grad():
            model.one.weight[0] *= 1e-4  # the slope there is 0, and with it what Gauss–Newton adds
            model.one.weight[1] *= 1e-4
        x, y = torch.rand(3, 6).double(), torch.ones(3, dtype=torch.long)
    found, expected = fl.curvature(model, x, y, layer="one"), truth(model, "one", x, y)
    torch.testing.assert_close(found.top_eigenvalue, expected.top_eigenvalue, rtol=1e-7, atol=0)


def test_a_layer_in_autocast_is_refused() -> None:
    model, (x, y) = net(swap("two", Autocast), torch.float32), data(torch.float32)
    model.after = lambda m, h, z: z.float()
    model.fc.forward = lambda h: F.linear(h.float(), model.fc.weight, model.fc.bias)  # type: ignore[method-assign]
    with pytest.raises(LayerError, match=r"layer 'two' \(Autocast\) computes in torch.bfloat16 with a weight in"):
        fl.curvature(model, x, y, layer="two")


@pytest.mark.parametrize("small", [1e-2, 1e-5, 1e-6, 3e-7, 1e-7, 1e-8])
def test_in_float32_a_largest_eigenvalue_is_right_or_unknown(small: float) -> None:
    """Between large negative eigenvalues and the rounding of float32 there is 0, NaN, or a number to 2 %."""
    torch.manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    bowl = turn @ torch.diag(torch.tensor([-1, -0.7, -0.3, -0.1, -0.05, small], dtype=torch.float64)) @ turn.T

    class Bowl(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(6, 6, bias=False)
            self.register_buffer("form", bowl.clone())

        def forward(self, x: Tensor) -> Tensor:
            s = self.one(x)
            z = 4 * (s * (s @ self.form)).sum(1, keepdim=True)
            return torch.cat([z, torch.zeros_like(z)], 1)

    model = Bowl().double().eval()
    with torch.no_grad():
        model.one.weight *= 1e-6  # no slope: all of H is what bends
    x, y = torch.rand(3, 6).double(), torch.ones(3, dtype=torch.long)
    expected = truth(model, "one", x, y)
    found = fl.curvature(copy.deepcopy(model).float(), x.float(), y, layer="one").top_eigenvalue
    size = expected.spectrum.abs().amax(1)
    right = (found - expected.top_eigenvalue).abs() <= 0.02 * expected.top_eigenvalue.abs()
    nothing = (found == 0) & (expected.top_eigenvalue.abs() <= 3e-6 * size)
    assert (right | nothing | torch.isnan(found)).all(), (found / size, expected.top_eigenvalue / size)
