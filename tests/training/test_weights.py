"""Perturbed weights: how far, where to, and that nothing is left of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from flatlens.specs.defences import WEIGHTS, chosen
from flatlens.training.fit import train
from flatlens.training.inner import PGD
from flatlens.training.losses import TRADES, Mix, cross_entropy
from flatlens.training.weights import ASAM, AWP, SAM, WeightStep, moved, named

STEPS: dict[str, WeightStep] = {"sam": SAM(0.05), "asam": ASAM(0.5), "awp": AWP(0.005)}


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def data(n: int = 32, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 6, dtype=dtype), torch.arange(n) % 3


def slopes(model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[nn.Parameter], list[Tensor]]:
    parameters = list(model.parameters())
    return parameters, list(torch.autograd.grad(cross_entropy(model(x), y).mean(), parameters))


def whole(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def test_every_perturbation_is_in_the_table() -> None:
    assert set(STEPS) == set(WEIGHTS)
    assert {name: named(chosen("perturb_weights", name)[0]) for name in WEIGHTS} == STEPS
    assert named(chosen("perturb_weights", "awp?gamma=0.1&warmup=3")[0]) == AWP(0.1, 3)


@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_sam_is_as_long_as_rho_and_goes_along_the_gradient(rho: float) -> None:
    parameters, gradients = slopes(net(), *data())
    delta = whole(SAM(rho).deltas(parameters, gradients))
    assert delta.norm().item() == pytest.approx(rho, rel=1e-12)
    assert nn.functional.cosine_similarity(delta, whole(gradients), dim=0).item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("rho", [0.5, 2.0])
def test_asam_is_as_long_as_rho_in_units_of_the_weights(rho: float) -> None:
    model = net()
    nn.init.uniform_(model[1].bias, 0.5, 1)  # else it is 0, and cannot be divided by
    parameters, gradients = slopes(model, *data())
    delta, w = whole(ASAM(rho).deltas(parameters, gradients)), whole([p.detach() for p in parameters])
    assert (delta / w.abs()).norm().item() == pytest.approx(rho, rel=1e-12)
    g = whole(gradients)
    torch.testing.assert_close(delta, rho * w**2 * g / (w.abs() * g).norm(), rtol=1e-12, atol=0)


def test_asam_is_the_same_however_the_weights_are_scaled() -> None:
    """What it is for: w → 3 w and g → g / 3 give 3 δ."""
    parameters, gradients = slopes(net(), *data())
    one = ASAM(0.5).deltas(parameters, gradients)
    other = ASAM(0.5).deltas([3 * p.detach() for p in parameters], [g / 3 for g in gradients])
    torch.testing.assert_close(whole(other), 3 * whole(one), rtol=1e-12, atol=1e-15)


def test_asam_leaves_weights_of_zero() -> None:
    model = net()
    assert not model[1].bias.any()
    parameters, gradients = slopes(model, *data())
    deltas = ASAM(0.5).deltas(parameters, gradients)
    for p, g, delta in zip(parameters, gradients, deltas, strict=True):
        assert not delta[p.detach() == 0].any()
        assert g.any()


@pytest.mark.parametrize("gamma", [0.005, 0.5])
def test_awp_is_a_share_of_each_matrix_and_leaves_vectors(gamma: float) -> None:
    parameters, gradients = slopes(net(), *data())
    for p, g, delta in zip(parameters, gradients, AWP(gamma).deltas(parameters, gradients), strict=True):
        if p.dim() == 1:
            assert not delta.any()
            continue
        assert delta.norm().item() == pytest.approx(gamma * p.norm().item(), rel=1e-12)
        torch.testing.assert_close(delta / delta.norm(), g / g.norm(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("lr", [0.01, 0.1])
@pytest.mark.parametrize("objective", ["pgd", "trades"])
def test_awp_is_the_published_recipe_with_a_copy_of_the_model(objective: str, lr: float) -> None:
    """Its `diff_in_weights`: a copy takes one plain SGD step on minus the loss, and each matrix's change is scaled."""
    model, (x, y) = net(), data()
    attacked = x + 0.1 * torch.randn_like(x)

    def loss(of: nn.Module) -> Tensor:
        return (cross_entropy(of(attacked), y) if objective == "pgd" else TRADES()(of(x), of(attacked), y)).mean()

    proxy, gamma = copy.deepcopy(model), 0.01
    optimizer = torch.optim.SGD(proxy.parameters(), lr=lr)
    (-loss(proxy)).backward()
    optimizer.step()
    parameters = list(model.parameters())
    gradients = list(torch.autograd.grad(loss(model), parameters))
    deltas = AWP(gamma).deltas(parameters, gradients)
    for (name, old), new, delta in zip(model.named_parameters(), proxy.parameters(), deltas, strict=True):
        if old.dim() > 1 and "weight" in name:
            diff = (new - old).detach()
            torch.testing.assert_close(
                delta, gamma * old.norm().detach() / (diff.norm() + 1e-20) * diff, rtol=1e-6, atol=1e-12
            )
        else:
            assert not delta.any()


@pytest.mark.parametrize(("warmup", "begun"), [(0, [True] * 4), (2, [False, False, True, True])])
def test_awp_waits(warmup: int, begun: list[bool]) -> None:
    assert [AWP(0.01, warmup).starts(epoch) for epoch in range(4)] == begun


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STEPS)
def test_no_gradient_is_no_perturbation(name: str, dtype: torch.dtype) -> None:
    parameters = [*net(dtype).parameters(), nn.Parameter(torch.zeros(3, 3, dtype=dtype))]
    deltas = STEPS[name].deltas(parameters, [torch.zeros_like(p) for p in parameters])
    assert all(torch.equal(delta, torch.zeros_like(p)) for delta, p in zip(deltas, parameters, strict=True))


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_weights_and_statistics_are_restored_to_the_bit(error: type[BaseException] | None) -> None:
    model = nn.Sequential(net(torch.float32), nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True))
    model[2].running_mean.fill_(0.1)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    parameters = list(model.parameters())
    deltas = [torch.randn_like(p) for p in parameters]
    x, _ = data(dtype=torch.float32)
    try:
        with moved(model, parameters, deltas):
            for p, old, delta in zip(parameters, [before[n] for n, _ in model.named_parameters()], deltas, strict=True):
                torch.testing.assert_close(p.detach(), old + delta)
            model.train()(x)
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error is not None
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    model.train()(x)
    assert not torch.equal(model[0][1].running_mean, before["0.1.running_mean"]), "its statistics no longer move"


def trained(model: nn.Module, steps: int = 1, **how: object) -> nn.Module:
    x, y = data(16, torch.float32)
    train(model, x, y, rng=torch.Generator().manual_seed(0), epochs=steps, batch_size=16, **how)
    return model


@pytest.mark.parametrize("loss", [None, Mix()], ids=["adversarial", "mix"])
@pytest.mark.parametrize("name", STEPS)
def test_statistics_move_as_often_as_without(name: str, loss: object) -> None:
    seen = []
    for step in (None, STEPS[name]):
        model = net(torch.float32)
        torch.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p)
        trained(model, weights=step, loss=loss, inner=PGD(1))
        seen.append((model[1].num_batches_tracked, model[1].running_mean, model[1].running_var))
    assert seen[0][0].item() == (1 if loss is None else 2)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)


class Partly(nn.Module):
    """A net with a weight that is frozen, and one that no pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.unused = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(2, 2)
        self.body.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.body(x)))


@pytest.mark.parametrize("name", STEPS)
def test_frozen_and_unused_weights_are_left(name: str) -> None:
    model = Partly()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained(model, 3, weights=STEPS[name])
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"body.bias", "fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", STEPS)
def test_the_step_is_that_of_the_perturbed_weights(name: str) -> None:
    """One step of AdamW from the gradient at w + δ, written out."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    twin = copy.deepcopy(model)
    x, y = data(16)
    step = {"sam": SAM(0.5), "asam": ASAM(0.5), "awp": AWP(0.3)}[name]
    train(model, x, y, rng=torch.Generator(), epochs=1, batch_size=16, lr=0.01, weights=step)
    parameters, gradients = slopes(twin, x, y)
    worse = copy.deepcopy(twin)
    with torch.no_grad():
        for p, delta in zip(worse.parameters(), step.deltas(parameters, gradients), strict=True):
            p += delta
    _, there = slopes(worse, x, y)
    assert (whole(there) - whole(gradients)).norm() > 1e-3
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0)
    for p, g in zip(parameters, there, strict=True):
        p.grad = g
    optimizer.step()
    torch.testing.assert_close(whole(list(model.parameters())), whole(list(twin.parameters())), rtol=1e-10, atol=1e-12)


def test_ctrl_c_in_a_perturbed_step_leaves_the_weights_as_they_were() -> None:
    class Interrupted(nn.Linear):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            if self.passes == 2:  # the first is at the weights, the second at the perturbed ones
                self.seen = self.weight.detach().clone()
                raise KeyboardInterrupt
            return super().forward(x)

    model = Interrupted(6, 3)
    before = model.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        trained(model, weights=SAM(0.05))
    assert torch.equal(model.weight, before)
    assert 0.02 < (model.seen - before).norm() <= 0.05 + 1e-7  # the bias has the rest
