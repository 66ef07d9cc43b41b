"""Native attacks against torchattacks and foolbox, iterate for iterate, and against geometry."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import foolbox
import pytest
import torch
import torchattacks
from foolbox.attacks import L2ProjectedGradientDescentAttack, LinfProjectedGradientDescentAttack
from torch import Tensor, nn

import flatlens as fl
from flatlens.attacks.balls import BALLS
from flatlens.attacks.gradient import random_point
from flatlens.errors import AttackError
from flatlens.victims.images import ImageVictim
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim
from tests.expected import cautioned

STEPS = 12


def net(dtype: torch.dtype = torch.float64, norm: bool = True) -> nn.Sequential:
    g = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(72, 10),
    ).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64))
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.copy_(0.1 * torch.randn(6, generator=g))
                m.running_var.copy_(0.5 + torch.rand(6, generator=g))
    return model.eval()


def data(n: int = 9) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    return torch.rand(n, 1, 8, 8, generator=g, dtype=torch.float64), torch.randint(10, (n,), generator=g)


def iterates(model: nn.Module, attack: fl.attacks.PGD, target: Tensor | None = None) -> list[Tensor]:
    x, y = data()
    victim = ImageVictim(model, x)
    batch = Batch(victim.place(x), y, torch.arange(len(x)), target)
    return [here.x.detach().clone() for here in attack(victim, batch, Noise(0))]


def recorded(model: nn.Module, run: object) -> list[Tensor]:
    """The inputs on which a library's attack takes gradients, then what it returns."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            seen.append(args[0].detach().clone())

    handle = model.register_forward_pre_hook(hook)
    try:
        out = run()  # type: ignore[operator]
    finally:
        handle.remove()
    return [*seen[:STEPS], out]


def agree(mine: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(mine) == len(theirs) == STEPS + 1
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_linf_equals_torchattacks() -> None:
    model, (x, y) = net(), data()
    theirs = recorded(
        model, lambda: torchattacks.PGD(model, eps=0.1, alpha=0.02, steps=STEPS, random_start=False)(x, y)
    )
    agree(iterates(model, fl.attacks.PGD(eps=0.1, step_size=0.02, steps=STEPS)), theirs)


def test_targeted_linf_equals_torchattacks() -> None:
    model, (x, y) = net(), data()
    attack = torchattacks.PGD(model, eps=0.1, alpha=0.02, steps=STEPS, random_start=False)
    attack.set_mode_targeted_by_label(quiet=True)
    target = (y + 1) % 10
    theirs = recorded(model, lambda: attack(x, target))
    agree(iterates(model, fl.attacks.PGD(eps=0.1, step_size=0.02, steps=STEPS), target), theirs)


@pytest.mark.parametrize(
    ("norm", "made"), [("linf", LinfProjectedGradientDescentAttack), ("l2", L2ProjectedGradientDescentAttack)]
)
def test_equals_foolbox(norm: str, made: type) -> None:
    model, (x, y) = net(), data()
    eps, step = (0.1, 0.02) if norm == "linf" else (1.0, 0.2)
    attack = made(abs_stepsize=step, steps=STEPS, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    theirs = recorded(model, lambda: attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=eps))
    agree(iterates(model, fl.attacks.PGD(eps=eps, norm=norm, step_size=step, steps=STEPS)), theirs)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_stays_in_the_ball_and_the_bounds(norm: str, random_start: bool) -> None:
    x, _ = data()
    attack = fl.attacks.PGD(eps=0.2, norm=norm, steps=5, random_start=random_start)
    path = iterates(net(), attack)
    assert len(path) == attack.length + 1 == 6 + random_start
    assert torch.equal(path[0], x)
    for point in path:
        assert BALLS[norm].size(point - x).max() <= 0.2 * (1 + 1e-12)
        assert point.min() >= 0 and point.max() <= 1
    if random_start:
        assert not torch.equal(path[0], path[1])


def test_noise_belongs_to_the_sample_not_to_its_batch() -> None:
    x, _ = data()
    together = Noise(1).normal(torch.arange(9), x, "start")
    alone = Noise(1).normal(torch.tensor([7]), x[7:8], "start")
    assert torch.equal(together[7:8], alone)
    assert not torch.equal(together, Noise(2).normal(torch.arange(9), x, "start"))
    assert not torch.equal(together, Noise(1, restart=1).normal(torch.arange(9), x, "start"))
    assert not torch.equal(together, Noise(1).normal(torch.arange(9), x, "other"))
    assert torch.equal(together.float(), Noise(1).normal(torch.arange(9), x.float(), "start"))


def test_random_start_is_uniform_in_the_l2_ball() -> None:
    x = torch.full((400, 2), 0.5, dtype=torch.float64)
    batch = Batch(x, torch.zeros(400, dtype=torch.long), torch.arange(400))
    radius = random_point("l2", batch, Noise(0)).norm(dim=1)
    # In two dimensions the squared radius is uniform: mean ½, standard error √(1/12/400) = 0.0144.
    assert radius.max() <= 1
    assert abs(radius.square().mean() - 0.5) < 4 * 0.0144


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_crosses_a_known_boundary_at_the_known_distance(norm: str) -> None:
    """Two classes, linear: the margin is w·x + b and its distance in the norm is |margin| / ‖w‖_dual."""
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.stack([w, -w]) / 2)
    x = torch.tensor([[0.6, 0.2, 0.5]], dtype=torch.float64)
    distance = float((x @ w).abs() / (w.abs().sum() if norm == "linf" else w.norm()))
    for eps, flips in ((0.98 * distance, False), (1.02 * distance, True)):
        trace = fl.trace(model.eval(), x, torch.tensor([0]), attack=fl.attacks.PGD(eps=eps, norm=norm, steps=10))
        assert trace.matrix("flipped").values[0, -1] == flips
        assert trace.matrix(norm).values[0, -1] == pytest.approx(eps, rel=1e-9)


def test_fgsm_and_bim_are_their_definitions() -> None:
    assert fl.attacks.FGSM(eps=0.1) == fl.attacks.PGD(eps=0.1, steps=1, step_size=0.1)
    assert fl.attacks.BIM(eps=0.1, steps=5) == fl.attacks.PGD(eps=0.1, steps=5, step_size=0.02)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eps": 0}, "eps = 0: needs a number above 0"),
        ({"eps": float("nan")}, "eps = nan"),
        ({"steps": 0}, "steps = 0: needs a whole number of at least 1"),
        ({"step_size": -1}, "step_size = -1: needs a number above 0"),
        ({"norm": "l3"}, "no norm 'l3'; there are: linf, l2, l1. Did you mean 'l2'?"),
    ],
)
def test_says_what_is_wrong(settings: dict[str, object], said: str) -> None:
    with pytest.raises(AttackError, match=said.replace("?", r"\?")):
        fl.attacks.PGD(**settings)  # type: ignore[arg-type]


def walk_from(x: Tensor, victim: Victim, batch: Batch) -> Iterator[Pass]:
    yield victim(x, batch.y)
    yield victim(batch.x + 0.1, batch.y)


class InPlace:
    """A step in place, from the batch's own inputs."""

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        yield victim(batch.x, batch.y)
        batch.x.add_(0.01)
        yield victim(batch.x, batch.y)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (lambda victim, batch, rng: walk_from(batch.x + 0.1, victim, batch), "does not yield the clean input"),
        (InPlace(), "the attack 'InPlace' writes into the clean inputs; let it work on a copy"),
        (fl.attacks.Embedding(), "the attack embedding is of language models; give it to fl.trace_text"),
    ],
)
def test_a_path_begins_at_the_clean_inputs_and_leaves_them(attack: object, said: str) -> None:
    x, y = data()
    with pytest.raises(AttackError, match=said):
        fl.trace(net(), x.clone(), y, attack=attack)


@cautioned("zero-gradient", "low-accuracy")
def test_zero_gradient_stays_where_it_is() -> None:
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    x = torch.full((2, 4), 0.5)
    for norm in BALLS:
        trace = fl.trace(model.eval(), x, torch.tensor([0, 1]), attack=fl.attacks.PGD(eps=0.1, norm=norm, steps=3))
        assert torch.equal(torch.from_numpy(trace.x_adv), x)
        assert "zero-gradient" in [c.code for c in trace.cautions]


def test_momentum_equals_torchattacks() -> None:
    model, (x, y) = net(), data()
    theirs = recorded(model, lambda: torchattacks.MIFGSM(model, eps=0.1, alpha=0.02, steps=STEPS, decay=0.9)(x, y))
    agree(iterates(model, fl.attacks.MIFGSM(eps=0.1, step_size=0.02, steps=STEPS, momentum=0.9)), theirs)


@pytest.mark.parametrize("objective", ["dlr", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_other_objectives_rise(objective: str, norm: str) -> None:
    model, (x, _) = net(), data()
    y = model(x).argmax(1)
    eps = {"linf": 0.05, "l2": 0.4, "l1": 2.0}[norm]
    trace = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=eps, norm=norm, objective=objective, steps=20))
    margin = trace.matrix("margin").values
    assert (margin[:, -1] < margin[:, 0]).all()


@cautioned("low-accuracy")
def test_one_eps_each_is_the_same_as_each_alone() -> None:
    model, (x, y) = net(), data()
    eps = torch.linspace(0.05, 0.3, len(x), dtype=torch.float64)
    for norm in BALLS:
        together = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=eps, norm=norm, steps=6), batch_size=4)
        for i in (0, 5, 8):
            alone = fl.trace(
                model, x[i : i + 1], y[i : i + 1], attack=fl.attacks.PGD(eps=float(eps[i]), norm=norm, steps=6)
            )
            torch.testing.assert_close(
                torch.from_numpy(together.x_adv[i : i + 1]), torch.from_numpy(alone.x_adv), rtol=0, atol=1e-6
            )
        assert together.spec["eps"] == pytest.approx(0.3) and together.spec["eps_per_sample"]


def test_l1_attack_changes_few_pixels_that_can_still_move() -> None:
    model, (x, _) = net(), data()
    path = iterates(model, fl.attacks.PGD(eps=3, norm="l1", steps=4, step_size=1))
    for before, after in pairwise(path):
        assert bool(((after - before).abs().flatten(1) > 1e-12).any(1).all())
    assert bool(((path[1] - x).abs().flatten(1) > 0).sum(1).max() == 1)
    assert BALLS["l1"].size(path[-1] - x).max() <= 3 * (1 + 1e-12)
