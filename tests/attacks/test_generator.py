"""The networks of AdvGAN: what they give before they have learnt, the ball, and the losses against formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlens.attacks.balls import ball
from flatlens.attacks.generator import Adversary, Aim, Discriminator, Generator
from flatlens.errors import AttackError

SHAPES = [(1, 3, 3), (1, 8, 8), (3, 7, 5), (2, 2, 9), (6,), (4, 3)]
AIM = Aim(0.1, width=2)


def classifier(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)


def data(shape: tuple[int, ...], n: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, *shape, generator=g, dtype=torch.float64).to(dtype)
    x[0], x[1] = 0, 1  # at the bounds
    return x, torch.arange(n) % 4


def learnt(aim: Aim, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, steps: int = 5) -> Adversary:
    x, y = data(shape, dtype=dtype)
    made = Adversary(aim, shape, torch.Generator().manual_seed(0), x)
    for _ in range(steps):
        made.step(classifier(shape, dtype), x, y)
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("z", [0, 3])
def test_before_it_has_learnt_it_gives_the_input_to_the_bit(shape: tuple[int, ...], z: int) -> None:
    x, _ = data(shape)
    for norm in ("linf", "l2"):
        made = Adversary(replace(AIM, norm=norm, z=z), shape, torch.Generator().manual_seed(0), x)
        assert torch.equal(made(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_learns_within_ball_and_bounds(shape: tuple[int, ...], norm: str, dtype: torch.dtype) -> None:
    aim = replace(AIM, norm=norm, lr=0.05, norm_weight=0.0)
    x, _ = data(shape, dtype=dtype)
    there = learnt(aim, shape, dtype)(x)
    size = ball(norm).size(there - x)
    assert size.max() > 0.9 * aim.eps  # or else the ball holds for nothing
    assert size.max() <= aim.eps + torch.finfo(dtype).eps * (1 if norm == "linf" else x[0].numel())
    assert there.min() >= 0 and there.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_gradient_passes_bounds_and_is_that_of_the_ball(norm: str) -> None:
    aim = replace(AIM, norm=norm)
    x = torch.tensor([[0.5, 1.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    raw = torch.tensor([[0.2, 0.3, -0.9], [2.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    there = aim.adversarial(x, raw)
    (mine,) = torch.autograd.grad(there.square().sum(), raw)
    # By hand: the upstream gradient is 2x' at the clipped point, the map's derivative that without bounds.
    up = 2 * there.detach()
    if norm == "linf":
        wanted = up * aim.eps * (1 - raw.detach().tanh() ** 2)
    else:
        inside = up[0] * aim.eps  # ‖raw‖ < 1: the ball does nothing
        unit = raw.detach()[1] / raw.detach()[1].norm()
        across = aim.eps / raw.detach()[1].norm() * (up[1] - unit * (unit @ up[1]))
        wanted = torch.stack([inside, across])
    torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("objective", ["margin", "ce"])
def test_the_loss_is_the_published_sum(objective: str, target: int | None) -> None:
    shape = (1, 4, 4)
    aim = Aim(0.3, objective=objective, width=2, gan=0.7, norm_weight=1.3, lr=0.02)
    (x, y), model = data(shape), classifier(shape)
    aimed = None if target is None else torch.full_like(y, target)
    made = Adversary(aim, shape, torch.Generator().manual_seed(3), x)
    for _ in range(30):
        made._optimizers[1].param_groups[0]["lr"] = 0.0  # the discriminator learns first: hold it
        there = made(x)
        loss = made.step(model, x, y, aimed)
    judge = Discriminator(shape, torch.Generator(), width=2).double()
    judge.load_state_dict(made._discriminator.state_dict())
    judge.requires_grad_(False)
    logits = model(there).detach()
    lengths = (there - x).flatten(1).norm(dim=1)
    assert lengths.max() > 0.6  # beyond c: or else its term is not looked at
    wanted = 0.0
    for i in range(len(x)):
        z, aim_at = logits[i], int(y[i]) if target is None else target
        others = torch.cat([z[:aim_at], z[aim_at + 1 :]])
        if objective == "margin":
            worth = others.max() - z[aim_at] if target is None else z[aim_at] - others.max()
        else:
            worth = (z.logsumexp(0) - z[aim_at]) * (1 if target is None else -1)
        wanted += 10 * max(-float(worth), -5.0) - 0.7 * float(F.logsigmoid(judge(2 * there[i : i + 1] - 1)))
        wanted += 1.3 * max(0.0, float(lengths[i]) - 0.3 * 4 / 2)
    assert loss == pytest.approx(wanted / len(x), rel=1e-9)


def test_the_discriminator_learns_to_tell_them_apart() -> None:
    shape = (1, 6, 6)
    (x, y), model = data(shape, 32), classifier(shape)
    made = Adversary(Aim(0.3, width=4, gan=1e-9), shape, torch.Generator().manual_seed(0), x)
    for _ in range(60):
        made.step(model, x, y)
    with torch.no_grad():
        real, false = made._discriminator(2 * x - 1), made._discriminator(2 * made(x) - 1)
    assert real.mean() > 0 > false.mean()


def test_it_touches_nothing_of_the_classifier() -> None:
    shape = (1, 8, 8)
    (x, y), model = data(shape), classifier(shape)
    before = [weight.detach().clone() for weight in model.parameters()]
    Adversary(AIM, shape, torch.Generator().manual_seed(0), x).step(model, x, y)
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("z", [0, 3])
def test_it_goes_on_from_its_state_to_the_same_bits(z: int) -> None:
    shape, aim = (1, 8, 8), replace(AIM, z=z)
    (x, y), model = data(shape), classifier(shape)
    one, other = learnt(aim, shape), Adversary(aim, shape, torch.Generator().manual_seed(9), x)
    other.load_state_dict(one.state_dict())
    for made in (one, other):
        made.step(model, x, y)
    assert torch.equal(one(x), other(x))


def test_noise_beside_the_input_changes_what_it_gives() -> None:
    shape, aim = (1, 8, 8), replace(AIM, z=5, lr=0.05)
    x, _ = data(shape)
    made = learnt(aim, shape)
    zeros, ones = x.new_zeros(len(x), 5), x.new_ones(len(x), 5)
    assert torch.equal(made(x, zeros), made(x, zeros))
    assert (made(x, zeros) - made(x, ones)).abs().max() > 1e-4


def test_it_slows_down_along_half_a_cosine() -> None:
    made = learnt(AIM, (6,), steps=0)
    for share, rate in [(0, 5e-3), (1 / 3, 3.75e-3), (1 / 2, 2.5e-3), (1, 0)]:
        made.slow(share)
        assert [one.param_groups[0]["lr"] for one in made._optimizers] == pytest.approx([rate, rate], abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 6, 6), (6,)], ids=str)
def test_first_weights_have_the_deviation_of_their_fan_in(shape: tuple[int, ...]) -> None:
    made = Generator(shape, torch.Generator().manual_seed(0), width=32)
    for module in list(made.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not made.last:
            assert float(module.weight.detach().std()) * module.weight[0].numel() ** 0.5 == pytest.approx(1, abs=0.1)
    assert all(not weight.any() for weight in made.last.parameters())


def test_what_cannot_be_learnt_is_one_line() -> None:
    shape = (1, 8, 8)
    x, y = data(shape)
    with pytest.raises(AttackError, match=r"^no norm 'l1'; a generator has: linf, l2\."):
        Aim(0.1, norm="l1")
    made = Adversary(AIM, shape, torch.Generator().manual_seed(0), x)
    with pytest.raises(AttackError, match=r"^the generator's loss is nan; lower its lr = 0\.005$"):
        made.step(lambda x: torch.nan * classifier(shape)(x), x, y)
