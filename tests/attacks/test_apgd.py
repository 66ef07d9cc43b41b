"""APGD against the published code step by step, and its robust accuracies against two libraries'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchattacks
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.attacks.balls import BALLS
from flatlens.attacks.objectives import OBJECTIVES
from flatlens.errors import AttackError
from flatlens.measure import run as execute
from flatlens.models import zoo
from flatlens.specs.run import RunSpec
from flatlens.training import fit as training
from flatlens.victims.images import ImageVictim
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch
from tests.assets import fashion_mnist
from tests.attacks.test_attacks import data, net
from tests.expected import cautioned

pytestmark = cautioned("flat-because-confident", "low-accuracy", "not-converged")

THEIRS = {"linf": "Linf", "l2": "L2"}
EPS = {"linf": 0.1, "l2": 0.5}


@pytest.fixture
def double() -> Iterator[None]:
    """The published code keeps losses and step sizes in the default type, whatever the input's."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", ["ce", "dlr"])
@pytest.mark.parametrize("steps", [20, 100])
def test_equals_the_published_code_iterate_for_iterate(double: None, norm: str, objective: str, steps: int) -> None:
    model, x, eps = net(), data()[0], 0.3 * EPS[norm]
    # Where the label is third, DLR is 1 whatever the input, and its gradient is rounding.
    y = model(x).argmax(1)
    victim = ImageVictim(model, x)
    batch = Batch(victim.place(x), y, torch.arange(len(x)))
    passes = list(fl.attacks.APGD(eps=eps, norm=norm, steps=steps, objective=objective)(victim, batch, Noise(0)))
    mine = [here.x.detach() for here in passes]
    assert [here.kind for here in passes] == ["iterate"] * (steps + 2) + ["best"]
    assert torch.equal(mine[0], x)

    theirs: list[Tensor] = []
    published = APGDAttack(
        lambda at: (theirs.append(at.detach().clone()), model(at))[1],
        n_iter=steps, norm=THEIRS[norm], eps=eps, loss=objective, device="cpu",
    )  # fmt: skip
    published.init_hyperparam(x)
    # The published code compares the first loss with 0, an empty place at the end of its list; the paper, and we,
    # with the loss at the start.
    with torch.no_grad():
        start = OBJECTIVES[objective][0](model(mine[1]), y)

    def rises(losses: Tensor, last: int, k: int, _: Tensor, k3: float) -> Tensor:
        whole = torch.cat([start.unsqueeze(0), losses[: last + 1]])[-k - 1 :]
        return ((whole[1:] > whole[:-1]).sum(0) <= k * k3).float()

    published.check_oscillation = rises
    best, accuracy, *_ = published.attack_single_run(x, y, x_init=mine[1])
    assert len(theirs) == steps + 1
    for a, b in zip(mine[1:-1], theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    assert torch.equal(passes[-1].logits.argmax(1) == y, accuracy.bool() & (passes[0].logits.argmax(1) == y))
    if objective == "dlr":  # fooled where it is above 0: the best point is the highest
        highest = OBJECTIVES["dlr"][0](model(best), y) >= OBJECTIVES["dlr"][0](model(x), y)
        torch.testing.assert_close(mine[-1][highest], best[highest], rtol=0, atol=1e-7)


@pytest.fixture(
    scope="module",
    params=["digits-cnn", "digits-cnn-robust", pytest.param("fashion-mnist", marks=pytest.mark.slow)],
)
def trained(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    """The shipped pair, and a CNN trained on Fashion-MNIST: attacked, each keeps a part of its accuracy."""
    if request.param == "fashion-mnist":
        return fashion_cnn()
    digits = datasets.load("flatlens:digits")
    x, y = torch.from_numpy(digits.x), torch.from_numpy(digits.y)
    return models.load(f"flatlens:{request.param}", shape=(1, 8, 8), classes=10).model, x, y


def fashion_cnn() -> tuple[nn.Module, Tensor, Tensor]:
    folder = fashion_mnist()
    train = datasets.load(f"idx:{folder}?split=train").take(np.arange(10_000))
    test = datasets.load(f"idx:{folder}").take(np.arange(400))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.cnn((1, 28, 28), 10, width=8)
    # A model without any defence keeps nothing at these radii.
    training.train(
        model, torch.from_numpy(train.x), torch.from_numpy(train.y), rng=torch.Generator().manual_seed(0),
        epochs=3, adversarial="pgd", eps=0.1, steps=3,
    )  # fmt: skip
    return model, torch.from_numpy(test.x), torch.from_numpy(test.y)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


def ours(model: nn.Module, x: Tensor, y: Tensor, attack: object, seed: int = 0) -> float:
    trace = fl.trace(model, x, y, attack=attack, seed=seed)
    found = accuracy(model, torch.from_numpy(trace.x_adv), y)
    assert found == pytest.approx(100 * (trace.result("prediction") == y.numpy()).mean(), abs=0.25)
    return found


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ce_is_as_strong_as_the_published_code_from_the_same_start(
    trained: tuple[nn.Module, Tensor, Tensor], norm: str
) -> None:
    model, x, y = trained
    attack = fl.attacks.APGDCE(eps=EPS[norm], norm=norm, steps=50)
    trace = fl.trace(model, x, y, attack=attack, images="all")
    published = APGDAttack(model, n_iter=50, norm=THEIRS[norm], eps=EPS[norm], device="cpu")
    published.init_hyperparam(x)
    start = torch.from_numpy(trace.images.x[trace.images.step == 1])
    _, robust, *_ = published.attack_single_run(x, y, x_init=start)
    theirs = float((robust.bool() & (model(x).argmax(1) == y)).float().mean())
    assert abs((trace.result("prediction") == y.numpy()).mean() - theirs) <= 0.005


def test_t_is_as_strong_as_the_libraries(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = trained
    mine = ours(model, x, y, fl.attacks.APGDT(eps=0.1, steps=10))
    published = APGDAttack_targeted(model, n_iter=10, norm="Linf", eps=0.1, device="cpu")
    assert abs(mine - accuracy(model, published.perturb(x, y), y)) <= 0.5
    also = torchattacks.APGDT(model, norm="Linf", eps=0.1, steps=10, n_classes=10)
    assert mine <= accuracy(model, also(x, y), y) + 1


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ce_is_as_strong_as_the_libraries(trained: tuple[nn.Module, Tensor, Tensor], norm: str) -> None:
    """Over seeds: one start more or less moves a single run's accuracy by half a point."""
    model, x, y = trained
    eps, seeds = EPS[norm], range(6)
    mine = [ours(model, x, y, fl.attacks.APGDCE(eps=eps, norm=norm), seed) for seed in seeds]
    theirs = [
        accuracy(model, APGDAttack(model, norm=THEIRS[norm], eps=eps, device="cpu", seed=s).perturb(x, y), y)
        for s in seeds
    ]
    assert abs(np.mean(mine) - np.mean(theirs)) <= 0.5
    also = [
        accuracy(model, torchattacks.APGD(model, norm=THEIRS[norm], eps=eps, steps=100, seed=s)(x, y), y) for s in seeds
    ]
    assert np.mean(mine) <= np.mean(also) + 1


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("factor", [0.5, 1, 1.5])
def test_t_is_as_strong_as_the_published_code_from_the_same_starts(
    trained: tuple[nn.Module, Tensor, Tensor], norm: str, factor: float
) -> None:
    """The same starts: with one start a target, luck alone moves the accuracy by a point."""
    model, x, y = trained
    eps = factor * EPS[norm]
    trace = fl.trace(model, x, y, attack=fl.attacks.APGDT(eps=eps, norm=norm, steps=30))
    victim = ImageVictim(model, x)
    batch = Batch(victim.place(x), y, torch.arange(len(x)))
    with torch.no_grad():
        z = model(x)
    theirs = z.argmax(1) == y
    for run in range(9):
        path = fl.attacks.APGDT(eps=eps, norm=norm, steps=30)(victim, batch, Noise(0, restart=run))
        _, start = next(path), next(path).x.detach()
        published = APGDAttack_targeted(model, n_iter=30, norm=THEIRS[norm], eps=eps, device="cpu")
        published.init_hyperparam(x)
        published.y_target = z.sort(dim=1).indices[:, -(run + 2)]
        theirs &= published.attack_single_run(x, y, x_init=start)[1].bool()
    assert abs((trace.result("prediction") == y.numpy()).mean() - float(theirs.float().mean())) <= 0.005


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_stays_in_the_ball_and_is_the_same_for_a_seed(norm: str) -> None:
    model, (x, y) = net(), data()
    eps = torch.linspace(0.05, 0.4, len(x), dtype=torch.float64)
    attack = fl.attacks.APGD(eps=eps, norm=norm, steps=12)
    first, again, other = (
        fl.trace(model, x, y, attack=attack, seed=seed, images="all", batch_size=4) for seed in (0, 0, 1)
    )
    delta = torch.from_numpy(first.images.x) - x.float()[torch.from_numpy(first.images.sample)]
    size = BALLS[norm].size(delta.double())
    assert bool((size <= eps[torch.from_numpy(first.images.sample)] * (1 + 1e-5)).all())
    assert first.images.x.min() >= 0 and first.images.x.max() <= 1
    assert first.steps.equals(again.steps) and not first.steps.equals(other.steps)


def test_restarts_are_paths_of_their_own_and_the_best_counts() -> None:
    model, (x, y) = net(), data()
    attack = fl.attacks.APGD(eps=0.15, steps=10, restarts=3)
    trace = fl.trace(model, x, y, attack=attack)
    losses = [trace.matrix("loss", restart=r).values for r in range(3)]
    assert all(values.shape == (len(x), attack.length + 1) for values in losses)
    np.testing.assert_array_equal(losses[0][:, 0], losses[1][:, 0])
    assert not np.array_equal(losses[0][:, 1], losses[1][:, 1])
    best = np.stack([trace.matrix("flipped", kind="best", restart=r).values[:, -1] for r in range(3)])
    np.testing.assert_array_equal(trace.result("flipped"), best.any(0))
    # A run's own best is flipped wherever its path was.
    for r in range(3):
        np.testing.assert_array_equal(best[r], trace.matrix("flipped", restart=r).values.any(1))
    # Each is at least as strong as the first run alone; and what is kept is what the tables say.
    alone = fl.trace(model, x, y, attack=fl.attacks.APGD(eps=0.15, steps=10))
    assert (trace.result("flipped") >= alone.result("flipped")).all()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(torch.from_numpy(trace.x_adv).double()), y, reduction="none")
    np.testing.assert_allclose(loss.numpy(), trace.result("loss"), rtol=1e-4)


def test_apgd_t_aims_at_another_class_in_each_run() -> None:
    model, (x, y) = net(), data()
    attack = fl.attacks.APGDT(eps=0.3, steps=10)
    assert attack.runs(10) == 9 and attack.runs(4) == 3
    victim = ImageVictim(model, x)
    clean = victim(victim.place(x), y)
    aims = torch.stack([attack._aim(clean, run) for run in range(9)], 1)
    assert bool((aims != y.unsqueeze(1)).all())
    assert all(len(set(row)) == 9 for row in aims.tolist())
    z = clean.logits.detach().gather(1, aims)
    assert bool((z[:, :-1] >= z[:, 1:]).all())


def test_a_run_on_disk_keeps_what_was_found(tmp_path: Path) -> None:
    spec = RunSpec("flatlens:digits-cnn", "flatlens:digits", attack="apgd-t", eps=0.1, steps=8, limit=30, batch_size=12)
    run = execute.run(spec, tmp_path / "run")
    trace, model = run.trace(), models.load(spec.model, shape=(1, 8, 8), classes=10).model
    flipped = trace.result("flipped")
    assert 0 < flipped.sum() < len(flipped)
    found = model(torch.from_numpy(trace.x_adv)).argmax(1).numpy()
    np.testing.assert_array_equal(found, trace.result("prediction"))
    assert run.spec.objective == "dlr" and set(trace.steps["restart"].to_pylist()) == set(range(9))
    assert trace.steps["confirmed"].drop_null().to_numpy(zero_copy_only=False).all()
    assert len(trace.steps["confirmed"].drop_null()) == 9 * 30


def test_targeted_success_is_the_target() -> None:
    model, (x, y) = net(), data()
    trace = fl.trace(model, x, y, attack=fl.attacks.APGDDLR(eps=0.5, steps=20, target="next"))
    flipped = trace.result("flipped")
    assert flipped.any()
    np.testing.assert_array_equal(flipped, trace.result("prediction") == (y.numpy() + 1) % 10)


def test_objectives_are_their_formulas() -> None:
    z = torch.tensor([[3.0, 1.0, 0.5, -2.0], [0.0, 4.0, 1.0, 3.5]], dtype=torch.float64)
    y, t = torch.tensor([0, 0]), torch.tensor([1, 3])
    free = {name: pair[0](z, y).tolist() for name, pair in OBJECTIVES.items()}
    aimed = {name: pair[1](z, y, t).tolist() for name, pair in OBJECTIVES.items()}
    assert free["margin"] == [-2.0, 4.0]
    assert free["dlr"] == pytest.approx([-2 / 2.5, 4 / 3])
    assert aimed["margin"] == [-2.0, -0.5]
    assert aimed["dlr"] == pytest.approx([-2 / (3 + 0.75), 3.5 / (4 - 0.5)])
    assert free["ce"] == pytest.approx((-torch.log_softmax(z, 1)[:, 0]).tolist())
    assert aimed["ce"] == pytest.approx(torch.log_softmax(z, 1)[[0, 1], t].tolist())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm": "l1"}, "apgd has no norm 'l1'; there are: linf, l2"),
        ({"objective": "cw"}, "no objective 'cw'; there are: ce, dlr, margin"),
        ({"restarts": 0}, "restarts = 0: needs a whole number of at least 1"),
        ({"targets": -1}, "targets = -1"),
        ({"targets": 9, "target": 3}, "target = 3: APGD-T chooses its targets itself"),
        ({"eps": [0.1, 0]}, "eps = 0.0: needs a number above 0"),
    ],
)
def test_says_what_is_wrong(settings: dict[str, object], said: str) -> None:
    with pytest.raises(AttackError) as error:
        fl.attacks.APGD(**settings)  # type: ignore[arg-type]
    assert str(error.value).startswith(said)


def test_dlr_needs_classes_and_eps_needs_samples() -> None:
    model, x = nn.Linear(3, 2).eval(), torch.rand(4, 3)
    with pytest.raises(AttackError, match="objective dlr needs at least 3 classes, this model has 2"):
        fl.trace(model, x, torch.zeros(4, dtype=torch.long), attack=fl.attacks.APGD(objective="dlr"))
    with pytest.raises(AttackError, match="eps has 3 values for 4 samples"):
        fl.trace(model, x, torch.zeros(4, dtype=torch.long), attack=fl.attacks.PGD(eps=[0.1, 0.2, 0.3]))
