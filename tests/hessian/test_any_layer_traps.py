"""What silently gives wrong numbers elsewhere: in-place operations, weights used twice, fused attention, and more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlens.errors import LayerError, ResourceError
from flatlens.hessian import any_layer
from flatlens.hessian.any_layer import AnyLayer
from flatlens.victims.images import ImageVictim
from flatlens.victims.memory import is_out_of_memory
from flatlens.victims.protocol import Needs
from tests.cases import BY_NAME
from tests.hessian.test_any_layer import close, measured
from tests.oracles import truth

Call = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Three Linear layers, put together as a test says."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def net(call: Call) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(call).double().eval()


def data(n: int = 3) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(n) % 3


def test_an_input_that_is_overwritten_later_is_copied() -> None:
    def call(m: nn.Module, x: Tensor) -> Tensor:
        h = m.one(x)
        a = m.two(h)
        h.mul_(2).sub_(1)  # the input of `two` is no more what it was
        return m.fc(F.relu(a) + h)

    model, (x, y) = net(call), data()
    victim = ImageVictim(model, x, layers=["two"])
    with pytest.raises(LayerError, match="the input of layer 'two' was overwritten in place"):
        _ = victim(victim.place(x), y).taps["two"].input
    measure = AnyLayer(victim, x)
    assert measure.needs == Needs(graph=True, copied=frozenset({"two"}))
    same = net(lambda m, x: m.fc(F.relu(m.two(m.one(x))) + 2 * m.one(x) - 1))
    close(measure(measure.victim(victim.place(x), y))["two"].trace, truth(same, "two", x, y).trace, 1e-10)


def test_an_output_that_is_overwritten_at_once_is_not_mistaken() -> None:
    model, (x, y) = net(lambda m, x: m.fc(m.two(m.one(x).relu_()).mul_(3).relu_())), data()
    _, found, _ = measured(model, x, y, ["one", "two"])
    for name in found:
        assert found[name].exact
        close(found[name].trace, truth(model, name, x, y).trace, 1e-10)


@pytest.mark.parametrize("layer", ["one", "two", "fc"])
def test_layers_that_are_given_their_input_by_name_are_measured(layer: str) -> None:
    model, (x, y) = net(lambda m, x: m.fc(input=F.relu(m.two(input=F.relu(m.one(input=x)))))), data()
    _, found, _ = measured(model, x, y, [layer])
    expected = truth(model, layer, x, y)
    assert found[layer].exact
    close(found[layer].trace, expected.trace, 1e-10)
    close(found[layer].relative_flatness, expected.relative_flatness, 1e-10)


def test_a_layer_that_is_used_twice_is_refused() -> None:
    with pytest.raises(LayerError, match="layer 'one' is called 2 times"):
        ImageVictim(net(lambda m, x: m.fc(m.one(F.relu(m.one(x))))), data()[0], layers=["one"])


def test_a_tied_weight_is_refused() -> None:
    model = net(lambda m, x: m.fc(m.two(F.relu(m.one(x)))))
    model.two.weight = model.one.weight
    with pytest.raises(LayerError, match=r"shares its weight with 'two.weight'|shares its weight with 'one.weight'"):
        ImageVictim(model, data()[0], layers=["two"])


def test_a_layer_that_does_more_than_its_weight_is_refused() -> None:
    class Standardized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)

    model = net(lambda m, x: m.fc(F.relu(m.two(m.one(x)))))
    model.two = Standardized(4, 4).double().eval()
    x, _ = data()
    with pytest.raises(LayerError, match=r"layer 'two' \(Standardized\) does not compute W·a \+ b"):
        AnyLayer(ImageVictim(model, x, layers=["two"]), x)


def test_a_layer_off_the_way_is_refused() -> None:
    model = net(lambda m, x: m.fc(m.one(x) + m.two(torch.ones_like(x))))
    x, _ = data()
    with pytest.raises(LayerError, match="layer 'two' does not depend on the input"):
        AnyLayer(ImageVictim(model, x, layers=["two"]), x)


def reordered(m: nn.Module, x: Tensor) -> Tensor:
    return m.fc(F.relu(m.two(m.one(x.flip(0)))).flip(0))


def tokens_first(m: nn.Module, x: Tensor) -> Tensor:
    # As many tokens as samples in the preflight: by its shape alone, [4, n, 4] could be samples first.
    tokens = x.T.unsqueeze(2).expand(4, len(x), 4)
    return m.fc(F.relu(m.one(tokens)).sum(0))


@pytest.mark.parametrize("call", [reordered, tokens_first])
def test_a_layer_that_has_no_samples_in_front_is_refused(call: Call) -> None:
    model, (x, _) = net(call), data()
    with pytest.raises(LayerError, match="layer 'one' mixes samples, or has no samples in front"):
        AnyLayer(ImageVictim(model, x, layers=["one"]), x)


def test_a_layer_without_influence_has_no_curvature() -> None:
    model, (x, y) = net(lambda m, x: m.fc(F.relu(m.one(x)) + 0 * m.two(x))), data()
    _, found, _ = measured(model, x, y, ["two"])
    assert found["two"].exact
    assert not found["two"].trace.any()
    assert not found["two"].top_eigenvalue.any()


def test_fused_attention_is_left_aside_only_where_it_must_be() -> None:
    case = BY_NAME["attention"]
    x, y = case.data()
    victim = ImageVictim(case.model(), x, layers=["qkv"])
    here = victim(victim.place(x), y)
    (slope,) = torch.autograd.grad(here.logits.sum(), here.taps["qkv"].output, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented"):  # the trap is there
        torch.autograd.grad(slope.sum(), here.taps["qkv"].output)
    measure = AnyLayer(victim, x)
    assert measure.methods["qkv"].method == "hutchinson"
    assert measure.needs.twice
    assert not victim.needs.twice
    late = ImageVictim(case.model(), x, layers=["down"])
    measure = AnyLayer(late, x)
    assert measure.methods["down"].exact
    assert not measure.needs.twice


def test_pytorchs_own_transformer_layers_do_not_bypass_their_parts() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, activation="gelu")
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.block(x).mean(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Encoder().double().eval()
    x, y = torch.rand(3, 5, 4).double(), torch.arange(3)
    measure, found, _ = measured(model, x, y, ["block.linear1", "block.linear2"], probes=64)
    assert not measure.methods["block.linear2"].exact  # a layer norm comes after it
    for name in found:
        expected = truth(model, name, x, y)
        close(found[name].top_eigenvalue, expected.top_eigenvalue, 1e-8)
        close(found[name].trace, expected.trace, 1e-8)  # small enough to be measured whole


class Once(torch.autograd.Function):
    """A function that can be differentiated once only."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * (1 - x.tanh() ** 2)


def test_what_cannot_be_differentiated_twice_claims_gauss_newton_alone() -> None:
    model, (x, y) = net(lambda m, x: m.fc(F.relu(m.two(Once.apply(m.one(x)))))), data()
    measure, found, _ = measured(model, x, y, ["one", "two"])
    assert measure.methods == {"one": ("gauss-newton", False), "two": ("exact", True)}
    plain = net(lambda m, x: m.fc(F.relu(m.two(m.one(x).tanh()))))
    _, expected, _ = measured(plain, x, y, ["one"])
    close(found["one"].ggn_trace, expected["one"].ggn_trace, 1e-12)
    close(found["one"].weight_grad_norm, expected["one"].weight_grad_norm, 1e-12)
    for column in ("trace", "relative_flatness", "top_eigenvalue", "relative_sharpness", "trace_se"):
        assert torch.isnan(getattr(found["one"], column)).all()
    close(found["two"].trace, truth(plain, "two", x, y).trace, 1e-10)


@pytest.mark.parametrize("name", ["cnn", "grouped", "cnn-silu", "attention", "tokens"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_sample_that_is_not_finite_harms_no_other(name: str, value: float) -> None:
    case = BY_NAME[name]
    x, y = case.data(4)
    measure, alone, _ = measured(case.model(), x, y)
    bad = x.clone()
    bad[1].view(-1)[0] = value
    found = measure(measure.victim(measure.victim.place(bad), y), spectrum=True)
    for layer in found:
        assert found[layer].finite.tolist() == [True, False, True, True]
        for column in ("trace", "relative_flatness", "top_eigenvalue", "ggn_trace", "effective_rank"):
            seen, expected = getattr(found[layer], column), getattr(alone[layer], column)
            assert torch.isnan(seen[1]), (layer, column)
            close(seen[[0, 2, 3]], expected[[0, 2, 3]], 1e-9)


def test_little_memory_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["residual"]
    x, y = case.data()
    _, expected, _ = measured(case.model(), x, y)
    monkeypatch.setattr(any_layer, "MEMORY", 1)
    monkeypatch.setattr(any_layer, "CHUNK", 1)
    _, found, _ = measured(case.model(), x, y)
    for name in expected:
        close(found[name].trace, expected[name].trace, 1e-12)
        close(found[name].top_eigenvalue, expected[name].top_eigenvalue, 1e-12)


@pytest.mark.parametrize("fits", [1, 40])
def test_out_of_memory_goes_on_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    case = BY_NAME["residual"]
    x, y = case.data()
    measure, expected, here = measured(case.model(), x, y)
    contract, seen = any_layer.contract, []

    def tight(*args: object, chunk: int) -> object:
        seen.append(chunk)
        if chunk > fits:
            raise torch.OutOfMemoryError("out of memory")
        return contract(*args, chunk=chunk)  # type: ignore[arg-type]

    monkeypatch.setattr(any_layer, "contract", tight)
    found = measure(here)
    assert max(seen) > fits >= min(seen)
    for name in expected:
        close(found[name].trace, expected[name].trace, 1e-12)


def test_the_allocators_own_words_are_understood() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50, dtype=torch.float64)
    assert is_out_of_memory(raised.value)


def test_memory_that_does_not_suffice_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["residual"]
    x, y = case.data()
    measure, _, here = measured(case.model(), x, y)

    def never(*_: object, **__: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"
        )

    monkeypatch.setattr(any_layer, "contract", never)
    with pytest.raises(
        ResourceError, match=r"not enough memory for the curvature of layer '.*'; use a smaller --batch-size"
    ):
        measure(here)
