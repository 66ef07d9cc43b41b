"""Anybody's attack, recorded: what it returns is the library's own to the bit, and planted paths are found again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import foolbox
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from foolbox import attacks as fb
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.attacks.mapping import Call, UnmappableError, paths
from flatlens.errors import AttackError, FlatlensError, SpecError
from flatlens.measure import run as execute
from flatlens.specs.run import RunSpec
from tests import assets
from tests.expected import cautioned

pytestmark = cautioned(
    "blank",
    "differs-alone",
    "flat-because-confident",
    "low-accuracy",
    "no-gradient",
    "not-converged",
    "one-by-one",
    "silent-success",
    "stopped-early",
    "too-large",
    "unconfirmed",
)

N = 12
Planted = Callable[[nn.Module, Tensor, Tensor], Any]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    found = datasets.load("flatlens:digits")
    return torch.from_numpy(found.x)[:N], torch.from_numpy(found.y)[:N]


def codes(trace: fl.Trace) -> list[str]:
    return [caution.code for caution in trace.cautions]


def images(trace: fl.Trace) -> list[list[Tensor]]:
    """Every sample's path, the clean input first."""
    assert trace.images is not None
    return [
        [torch.from_numpy(x) for x in trace.images.x[trace.images.sample == sample]]
        for sample in np.unique(trace.images.sample)
    ]


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


# --- libraries ---------------------------------------------------------------------------------------------------

TORCHATTACKS: dict[str, tuple[dict[str, Any], int | None]] = {
    # Settings, and the last step of every sample where it is known: clean = 0, the returned point is the end.
    "PGD": ({"eps": 0.2, "steps": 6}, 7),  # from a random start
    "MIFGSM": ({"eps": 0.2, "steps": 5}, 5),
    "VMIFGSM": ({"eps": 0.2, "steps": 4, "N": 3}, 4),
    "CW": ({"steps": 12, "c": 2}, None),
    "DeepFool": ({"steps": 15}, None),
    "APGD": ({"eps": 0.2, "steps": 6, "seed": 3}, None),
    "FAB": ({"eps": 0.2, "steps": 4, "n_classes": 10, "seed": 3}, None),
    "Jitter": ({"eps": 0.2, "steps": 5}, 6),
}


@pytest.mark.parametrize("name", TORCHATTACKS)
def test_torchattacks_returns_what_it_returns_without_flatlens(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    settings, last = TORCHATTACKS[name]
    torch.manual_seed(5)
    alone = getattr(torchattacks, name)(model, **settings)(*batch).detach()
    after = torch.rand(1)
    torch.manual_seed(5)
    trace = fl.trace(model, *batch, attack=fl.attacks.recorded(getattr(torchattacks, name)(model, **settings)))
    assert torch.equal(torch.from_numpy(trace.x_adv), alone)
    assert torch.equal(torch.rand(1), after), "torch's random state is what the attack left"
    assert "one-by-one" not in codes(trace)
    kinds = trace.steps.to_pandas().sort_values(["sample", "step"]).groupby("sample")["kind"].agg(list)
    assert all(found[-1] == "returned" and "returned" not in found[:-1] for found in kinds)
    if last is not None:
        assert (trace.last_steps() == last).all()
    predicted = model(alone).argmax(1).numpy()
    assert (trace.result("prediction") == predicted).mean() > 0.7  # DeepFool's lie on the boundary


FOOLBOX: dict[str, tuple[Any, float | None]] = {
    "LinfPGD": (fb.LinfPGD(steps=6), 0.2),
    "L2PGD": (fb.L2PGD(steps=6), 1.0),
    "FGSM": (fb.FGSM(), 0.1),
    "LinfDeepFool": (fb.LinfDeepFoolAttack(steps=6, candidates=4), None),
    "DDN": (fb.DDNAttack(steps=8), None),
    "C&W": (fb.L2CarliniWagnerAttack(binary_search_steps=2, steps=4), None),
}


@pytest.mark.parametrize("name", FOOLBOX)
def test_foolbox_returns_what_it_returns_without_flatlens(
    name: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    attack, eps = FOOLBOX[name]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    torch.manual_seed(5)
    _, alone, _ = attack(wrapped, *batch, epsilons=eps)
    torch.manual_seed(5)
    trace = fl.trace(model, *batch, attack=fl.attacks.recorded(attack, eps=eps))
    assert torch.equal(torch.from_numpy(trace.x_adv), alone)
    assert "one-by-one" not in codes(trace)
    # C&W marks its failures by zeros.
    assert ("blank" in codes(trace)) == bool((alone == 0).flatten(1).all(1).any())
    if name == "LinfDeepFool":
        assert trace.last_steps().max() <= 7, "a gradient for each candidate class is no step"


def test_autoattack_returns_what_it_returns_without_flatlens(
    model: nn.Module, batch: tuple[Tensor, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    library = assets.package("pyautoattack", "pip install --no-deps pyautoattack==0.2.0")
    alone, _ = library.AutoAttack(model, eps=0.15, seed=1).run_standard_evaluation(*batch)
    plain = [r.getMessage() for r in caplog.records if "dynamic" in r.getMessage()]
    attack = fl.attacks.recorded(library.AutoAttack(model, eps=0.15, seed=1))
    trace = fl.trace(model, *batch, attack=attack)
    assert torch.equal(torch.from_numpy(trace.x_adv), alone)
    assert "one-by-one" not in codes(trace)
    assert [r.getMessage() for r in caplog.records if "dynamic" in r.getMessage()] == plain, "no autograd in the hook"
    assert trace.spec["eps"] == 0.15
    last = trace.last_steps()
    assert last.min() < last.max() and "stopped-early" in codes(trace)


# --- planted attacks, whose paths are known ------------------------------------------------------------------------


class Log:
    """Signed steps whose points are noted per sample as they are made."""

    def __init__(self, n: int) -> None:
        self.paths: list[list[Tensor]] = [[] for _ in range(n)]

    def note(self, x: Tensor, rows: Tensor) -> None:
        for point, row in zip(x.detach(), rows.tolist(), strict=True):
            self.paths[row].append(point.clone())


def shrinking(log: Log) -> Planted:
    """Drops what is fooled, or two samples by turns."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv, left = x.clone(), torch.arange(len(x))
        for step in range(6):
            log.note(adv[left], left)
            adv[left] = (adv[left] + 0.03 * gradient(model, adv[left], y[left]).sign()).clamp(0, 1)
            left = left[torch.arange(len(left)) % 5 != step % 5]
        return adv

    return attack


def probing(log: Log) -> Planted:
    """Looks at permuted, noisy, repeated inputs without a gradient between its steps."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = x.clone()
        for _ in range(4):
            log.note(adv, torch.arange(len(x)))
            adv = (adv + 0.03 * gradient(model, adv, y).sign()).clamp(0, 1)
            with torch.no_grad():
                model(adv[torch.randperm(len(adv))])
                model(torch.rand(3 * len(adv), *adv.shape[1:]))
        return adv

    return attack


def variance(log: Log) -> Planted:
    """Three gradients a step: at the iterate, and at two neighbours."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = x.clone()
        for _ in range(4):
            log.note(adv, torch.arange(len(x)))
            g = gradient(model, adv, y)
            for _ in range(2):
                g = g + gradient(model, adv + 0.1 * torch.randn_like(adv), y)
            adv = (adv + 0.03 * g.sign()).clamp(0, 1)
        return adv

    return attack


def one_by_one(log: Log) -> Planted:
    """One sample after the other, each as long as it takes."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        out = []
        for i in range(len(x)):
            adv = x[i : i + 1].clone()
            for _ in range(1 + i % 4):
                log.note(adv, torch.tensor([i]))
                adv = (adv + 0.05 * gradient(model, adv, y[i : i + 1]).sign()).clamp(0, 1)
            out.append(adv)
        return torch.cat(out)

    return attack


def interleaved(log: Log) -> Planted:
    """One sample at a time, all of them at every step (DeepFool), stepping in place."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(3):
            for i in range(len(x)):
                log.note(x[i : i + 1], torch.tensor([i]))
                x[i : i + 1] += 0.05 * gradient(model, x[i : i + 1], y[i : i + 1]).sign()
                x.clamp_(0, 1)
        return x

    return attack


def wide_start(log: Log) -> Planted:
    """From a random start so wide that distances alone hardly tell samples apart."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = (x + 0.4 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(3):
            log.note(adv, torch.arange(len(x)))
            adv = (adv + 0.05 * gradient(model, adv, y).sign()).clamp(0, 1)
        return adv

    return attack


NORM: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "torchattacks PGD": (torchattacks.PGD, "linf"),
    "torchattacks PGDL2": (torchattacks.PGDL2, "l2"),
    "torchattacks CW": (torchattacks.CW, "l2"),
    "torchattacks DeepFool": (torchattacks.DeepFool, "l2"),
    "torchattacks EADL1": (torchattacks.EADL1, "l1"),
    "torchattacks EADEN": (torchattacks.EADEN, "l1"),
    "torchattacks FAB, l2": (lambda model: torchattacks.FAB(model, norm="L2"), "l2"),
    "foolbox DDN": (lambda model: fb.DDNAttack(), "l2"),
    "foolbox EAD": (lambda model: fb.EADAttack(), "l1"),
    "foolbox NewtonFool": (lambda model: fb.NewtonFoolAttack(), "l2"),
    "foolbox FMN": (lambda model: fb.LInfFMNAttack(), "linf"),
    "foolbox, any distance": (lambda model: fb.InversionAttack(), "linf"),
    "foolbox, a distance": (lambda model: fb.InversionAttack(distance=foolbox.distances.l2), "l2"),
    "a number": (lambda model: as_stated(norm=2), "l2"),
    "infinity": (lambda model: as_stated(norm=np.inf), "linf"),
    "a text": (lambda model: as_stated(norm="l_1"), "l1"),
    "a name": (lambda model: named("my_l2_attack"), "l2"),
    "a name of something else": (lambda model: named("model2_attack"), "linf"),
}


class as_stated:
    """An object that is called, with settings of its own."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x + 0.1 * gradient(model, x, y).sign()


def named(name: str) -> Planted:
    attack = lambda model, x, y: x  # noqa: E731
    attack.__name__ = name
    return attack


@pytest.mark.parametrize("kind", NORM)
def test_the_norm_is_that_of_the_attack(kind: str, model: nn.Module) -> None:
    made, norm = NORM[kind]
    assert fl.attacks.recorded(made(model)).norm == norm


def test_clean_inputs_beside_the_iterates_are_no_iterates(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch[0][:4], batch[1][:4]

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = x.clone()
        for _ in range(3):
            both = torch.cat([x, adv]).requires_grad_()
            slope = torch.autograd.grad(F.cross_entropy(model(both), y.repeat(2), reduction="sum"), both)[0]
            adv = (adv + 0.05 * slope[len(x) :].sign()).clamp(0, 1)
        return adv

    trace = fl.trace(model, x, y, attack=attack, images="all")
    assert "one-by-one" in codes(trace)
    for sample, path in enumerate(images(trace)):
        one = x[sample : sample + 1]
        points = [one]
        for _ in range(3):
            points.append((points[-1] + 0.05 * gradient(model, points[-1], y[sample : sample + 1]).sign()).clamp(0, 1))
        torch.testing.assert_close(torch.stack(path), torch.cat(points), rtol=0, atol=1e-6)


@pytest.mark.parametrize("eps", [0.2, np.float32(0.2), np.array(0.2), torch.tensor(0.2)])
def test_an_attacks_own_radius_is_read_whatever_its_type(
    eps: Any, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    found = fl.trace(model, *batch, attack=as_stated(eps=eps)).spec["eps"]
    assert type(found) is float and found == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("made", "calls"),
    [(shrinking, 1), (probing, 1), (variance, 3), (one_by_one, 1), (interleaved, 1), (wide_start, 1)],
)
def test_planted_paths_are_found(
    made: Callable[[Log], Planted], calls: int, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    log, (x, y) = Log(N), batch
    trace = fl.trace(model, x, y, attack=fl.attacks.recorded(made(log), calls_per_step=calls), images="all")
    assert "one-by-one" not in codes(trace)
    for sample, (path, planted) in enumerate(zip(images(trace), log.paths, strict=True)):
        points = planted if torch.equal(planted[0], x[sample]) else [x[sample], *planted]
        assert len(path) == len(points) + 1
        assert all(torch.equal(a, b) for a, b in zip(path, points, strict=False))
    ragged = len({len(path) for path in log.paths}) > 1
    assert ("stopped-early" in codes(trace)) == ragged
    assert torch.equal(torch.from_numpy(trace.x_adv), torch.stack([path[-1] for path in images(trace)]))


def test_numbers_end_with_the_path_and_flags_stay(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    trace = fl.trace(model, *batch, attack=fl.attacks.recorded(one_by_one(Log(N))))
    last = trace.last_steps()
    assert last.tolist() == [1 + i % 4 for i in range(N)]
    loss, flipped = trace.matrix("loss").values, trace.matrix("flipped").values
    prediction = trace.matrix("prediction").values
    sharpness = trace.matrix("relative_flatness").values
    for i, end in enumerate(last):
        assert np.isfinite(loss[i, : end + 1]).all() and np.isnan(loss[i, end + 1 :]).all()
        assert np.isfinite(sharpness[i, : end + 1]).all() and np.isnan(sharpness[i, end + 1 :]).all()
        assert (flipped[i, end:] == flipped[i, end]).all() and (prediction[i, end:] == prediction[i, end]).all()
    assert trace.result("loss") == pytest.approx([loss[i, end] for i, end in enumerate(last)])
    assert trace.valley().finite.all()
    assert np.isnan(trace.matrix("loss", kind="iterate").values[0]).sum() == trace.matrix("loss").values.shape[1] - 2
    confirmed = trace.steps.to_pandas().dropna(subset="confirmed")
    assert len(confirmed) == N and (confirmed["kind"] == "returned").all() and confirmed["confirmed"].all()


def test_a_permuting_attack_is_followed_one_by_one(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        adv = x.clone()
        for _ in range(4):
            order = torch.randperm(len(x))
            adv[order] = (adv[order] + 0.04 * gradient(model, adv[order], y[order]).sign()).clamp(0, 1)
        return adv

    torch.manual_seed(2)
    alone, after = attack(model, *batch), torch.rand(1)
    torch.manual_seed(2)
    trace = fl.trace(model, *batch, attack=fl.attacks.recorded(attack))
    assert torch.equal(torch.from_numpy(trace.x_adv), alone) and torch.equal(torch.rand(1), after)
    assert "one-by-one" in codes(trace) and "differs-alone" not in codes(trace)
    assert (trace.last_steps() == 4).all()


def test_twins_in_a_batch_are_told_apart_one_by_one(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch[0].clone(), batch[1].clone()
    x[3], y[3] = x[2], y[2]
    trace = fl.trace(model, x, y, attack=fl.attacks.recorded(one_by_one(Log(N))))
    assert "one-by-one" in codes(trace)
    assert trace.last_steps()[2:4].tolist() == [1, 1], "alone, each is the first of its batch"


def test_says_when_samples_attacked_alone_end_elsewhere(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        gradient(model, x.flip(0), y)
        return x + 0.1 * (len(x) > 1)

    trace = fl.trace(model, *batch, attack=fl.attacks.recorded(attack), bounds=(0, 2))
    assert f"attacked alone, {N} of {N} samples end elsewhere" in " ".join(c.message for c in trace.cautions)


def test_without_gradients_only_the_ends_are_there(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            model(x)
        return 1 - x

    trace = fl.trace(model, *batch, attack=fl.attacks.recorded(attack, eps=0.1))
    assert (trace.last_steps() == 1).all()
    assert {"no-gradient", "too-large"} <= set(codes(trace))


# --- the model stays what it was -----------------------------------------------------------------------------------


def test_the_model_is_given_back_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).eval()
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5) % 4
    F.cross_entropy(model(x), y).backward()
    model[0].bias.grad = None
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.train()
        for p in model[0].parameters():
            p.requires_grad_(False)
        F.cross_entropy(model(x.requires_grad_()), y).backward()
        return x.detach()

    def raising(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack(model, x, y)
        raise RuntimeError("stop")

    for run in (attack, raising):
        try:
            fl.trace(model, x, y, attack=fl.attacks.recorded(run))
        except RuntimeError:
            assert run is raising
        assert not any(m.training for m in model.modules())
        assert not model._forward_pre_hooks and not model._forward_pre_hooks_with_kwargs
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert all(p.requires_grad for p in model.parameters())
        for p, g in zip(model.parameters(), grads, strict=True):
            assert (p.grad is None) == (g is None) and (g is None or torch.equal(p.grad, g))


def test_a_seed_leaves_torchs_random_state_alone(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack = torchattacks.PGD(model, eps=0.2, steps=2)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one = fl.trace(model, *batch, attack=fl.attacks.recorded(attack, seed=4))
    assert torch.equal(torch.rand(1), expected)
    two = fl.trace(model, *batch, attack=fl.attacks.recorded(attack, seed=4))
    other = fl.trace(model, *batch, attack=fl.attacks.recorded(attack, seed=5))
    assert np.array_equal(one.x_adv, two.x_adv) and not np.array_equal(one.x_adv, other.x_adv)


# --- what is refused -------------------------------------------------------------------------------------------------


def preprocessing(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    adv = x.clone()
    for _ in range(2):
        adv = (adv + 0.02 * gradient(model, (adv - 0.5) / 0.1, y).sign()).clamp(0, 1)
    return adv


def mapped(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    slope = torch.func.grad(lambda one, label: F.cross_entropy(model(one[None]), label[None]))
    return x + 0.1 * torch.func.vmap(slope)(x, y).sign()


def bent(model: nn.Module) -> None:
    next(model.parameters()).data.mul_(2)  # which autograd's counter of edits does not see


REFUSED: dict[str, tuple[Planted, str]] = {
    "never calls": (lambda model, x, y: x, "never calls the model that is traced"),
    "bypasses": (lambda model, x, y: (model.forward(x), x)[1], "not its .forward"),
    "shape": (lambda model, x, y: (model(x), x[:2])[1], r"returns \(2, 1, 8, 8\); adversarial inputs of shape"),
    "nothing": (lambda model, x, y: model(x).sum().item(), "returns float"),
    "preprocesses": (preprocessing, "preprocessing belongs into the model"),
    "points that are there": (lambda model, x, y: x + 0.1, r"measured by fl.attacks.along\(\[x_adv\]\)"),
    "whole levels": (lambda model, x, y: (model(x), (255 * x).byte())[1], "returns uint8; .* in floating point"),
    "one sample at a time in vmap": (mapped, "within torch.func.vmap, where its inputs cannot be seen"),
    "changes weights": (
        lambda model, x, y: (model(x), bent(model), x)[2],
        "changes the model's weights .'conv1.weight'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    attack, said = REFUSED[name]
    own = copy.deepcopy(model)
    with pytest.raises(AttackError, match=said) as caught:
        fl.trace(own, *batch, attack=fl.attacks.recorded(attack))
    assert "\n" not in str(caught.value)


def test_refuses_an_attack_that_is_bound_to_another_model(batch: tuple[Tensor, Tensor]) -> None:
    mine, other = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval() for _ in range(2))
    with pytest.raises(AttackError, match="build the attack around the same object"):
        fl.trace(mine, *batch, attack=fl.attacks.recorded(torchattacks.PGD(other)))


@pytest.mark.parametrize(
    ("attack", "settings", "said"),
    [
        (3, {}, "'int' is no attack"),
        (torchattacks.PGD, {}, "'PGD' is no attack; give an attack object"),
        (fb.LinfPGD(), {}, "needs a radius"),
        (print, {"calls_per_step": -1}, "calls_per_step = -1"),
        (print, {"eps": 0}, "eps = 0: needs a number above 0"),
        (print, {"seed": -1}, "seed = -1: needs a whole number of at least 0"),
    ],
)
def test_says_what_is_no_attack(attack: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(AttackError, match=said):
        fl.attacks.recorded(attack, **settings)


def test_mapping_refuses_what_is_not_clear() -> None:
    clean = torch.eye(4)
    assert [len(path) for path in paths([Call(clean[[0, 2]] + 0.1, True)], clean)] == [1, 0, 1, 0]
    for rows, said in (
        (clean[[2, 0]], "order that cannot be told"),
        (clean[[1, 0, 2, 3]], "in another order"),
        (clean[[0, 1, 2, 3, 0]], "5 rows for 4 samples"),
        ((clean[:1] + clean[1:2]) / 2, "equally near"),
    ):
        with pytest.raises(UnmappableError, match=said):
            paths([Call(rows, True)], clean)
    with pytest.raises(UnmappableError, match="no multiple of calls_per_step = 2"):
        paths([Call(clean, True)], clean, calls_per_step=2)


# --- points of one's own ---------------------------------------------------------------------------------------------


def test_along_measures_the_given_points(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    points = torch.stack([x, 0.9 * x, 0.8 * x])
    points[2, 4] = torch.nan
    for given in (points, points.numpy(), list(points)):
        trace = fl.trace(model, x, y, attack=fl.attacks.along(given), batch_size=5)
        assert trace.last_steps().tolist() == [2, 2, 2, 2, 1, *[2] * (N - 5)]
        own = fl.curvature(model, 0.9 * x, y).trace.numpy()  # type: ignore[union-attr]
        np.testing.assert_allclose(trace.matrix("trace").values[:, 1], own, rtol=1e-5)  # float32, batches of 5 and 12
        assert torch.equal(torch.from_numpy(trace.x_adv)[4], 0.9 * x[4])


def test_along_starts_at_the_clean_input(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    trace = fl.trace(model, x, y, attack=fl.attacks.along([0.9 * x, 0.8 * x]))
    assert (trace.last_steps() == 2).all() and (trace.matrix("l2").values[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3), r"have shape \(3,\)"),
        (torch.zeros(2, N, 64, dtype=torch.long), "floating-point"),
        (["a"], "cannot be read"),
        ([torch.zeros(N, 64), torch.zeros(3, 64)], "cannot be read"),
    ],
)
def test_along_refuses(given: Any, said: str) -> None:
    with pytest.raises(AttackError, match=said):
        fl.attacks.along(given)


def test_along_refuses_other_samples(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    with pytest.raises(AttackError, match="sample 5 has no iterates; they are of 5 samples"):
        fl.trace(model, x, y, attack=fl.attacks.along(x[None, :5]))
    with pytest.raises(AttackError, match=r"shape \(64,\); the data's are \(1, 8, 8\)"):
        fl.trace(model, x, y, attack=fl.attacks.along(x.flatten(1)[None]))


# --- by name ---------------------------------------------------------------------------------------------------------


def spec(attack: str, **more: Any) -> RunSpec:
    return RunSpec(model="flatlens:digits-cnn", data="flatlens:digits", attack=attack, samples=(1, 5, 9), **more)


@pytest.mark.parametrize(
    ("attack", "eps", "steps"),
    [
        ("torchattacks:PGD?eps=51/255&steps=4&random_start=true", 0.2, 4),
        ("foolbox:LinfPGD?eps=0.2&steps=4", 0.2, 4),
        ("autoattack:standard?eps=0.4", 0.4, 40),
    ],
)
def test_by_name(attack: str, eps: float, steps: int, tmp_path: Any) -> None:
    if attack.startswith("auto"):
        assets.package("pyautoattack", "pip install --no-deps pyautoattack==0.2.0")
    run = execute.run(spec(attack), tmp_path / "a")
    again = execute.run(spec(attack, batch_size=3), tmp_path / "b")
    assert (run.spec.eps, run.spec.steps) == (eps, steps)
    one, two = run.trace(), again.trace()
    assert np.array_equal(one.x_adv, two.x_adv)
    assert one.result("linf").max() <= eps * (1 + 1e-5)
    assert fl.RunSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in run.spec.to_dict().items()}) == run.spec


def test_what_was_noted_while_recording_survives_an_interruption(tmp_path: Any) -> None:
    # A search without gradients: it is noted of every batch that only the ends of the path are known.
    wanted = spec("torchattacks:Pixle?max_iterations=2", batch_size=1)

    def interrupt(progress: Any) -> None:
        if "batch 3 of" in progress.what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute.run(wanted, tmp_path / "out", progress=interrupt)
    trace = execute.run(wanted, tmp_path / "out").trace()
    said = {caution.code: caution.message for caution in trace.cautions}
    assert said["no-gradient"].startswith("the attack took no gradient on 3 of 3 samples")


def test_points_by_name(tmp_path: Any) -> None:
    x = datasets.load("flatlens:digits").x
    np.savez(tmp_path / "p.npz", iterates=np.stack([x[:10], 0.9 * x[:10]]))
    trace = execute.run(spec(f"path:{tmp_path / 'p.npz'}"), tmp_path / "out").trace()
    assert np.array_equal(trace.x_adv, np.float32(0.9) * x[[1, 5, 9]])
    np.savez(tmp_path / "p.npz", iterates=np.stack([x[:10], 0.8 * x[:10]]))
    with pytest.raises(FlatlensError, match="holds another run: other points"):
        execute.run(spec(f"path:{tmp_path / 'p.npz'}"), tmp_path / "out")


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("torchatacks:PGD", "no scheme 'torchatacks'; attacks of others come by: .* Did you mean 'torchattacks'"),
        ("torchattacks:", "names no attack"),
        ("torchattacks:PGB", "no attack 'PGB'; torchattacks has: .*"),
        ("torchattacks:PGD?epsilon=1", "no option 'epsilon'; 'torchattacks:PGD' has: eps, alpha"),
        ("torchattacks:PGD?eps=much", "'much' is not a number"),
        ("foolbox:LinfPGD", "needs a radius"),
        ("torchattacks:PGD?steps=many", "steps=many needs a number, for example 10"),
        ("autoattack:standart?eps=0.1", "no version 'standart'; autoattack has: standard, plus, rand.*'standard'"),
        ("path:nowhere.npz", "cannot read 'nowhere.npz'"),
    ],
)
def test_names_that_cannot_be(attack: str, said: str, tmp_path: Any) -> None:
    with pytest.raises(FlatlensError, match=said) as caught:
        execute.run(spec(attack), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_settings_that_contradict_the_name() -> None:
    with pytest.raises(SpecError, match="--eps 0.1 contradicts eps=0.2"):
        spec("torchattacks:PGD?eps=0.2", eps=0.1)
    with pytest.raises(SpecError, match="--step-size is no setting of"):
        spec("torchattacks:PGD?eps=0.2", step_size=0.1)


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchattacks", None)
    with pytest.raises(
        AttackError, match=r"torchattacks is not installed: pip install torchattacks==3\.5\.1 --no-deps"
    ):
        execute.run(spec("torchattacks:PGD"), tmp_path / "out")


def test_deeper_layers_are_measured_along_paths_of_different_length(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    trace = fl.trace(
        model, x, y, attack=fl.attacks.recorded(one_by_one(Log(N))), layers=["head", "conv2"], images="all"
    )
    assert trace.images is not None
    for layer in ("head", "conv2"):
        values = trace.matrix("trace", layer=layer).values
        label = y[trace.images.sample]
        own = fl.curvature(model, torch.from_numpy(trace.images.x), label, layer=layer).trace.numpy()  # type: ignore[union-attr]
        seen = values[trace.images.sample, trace.images.step]
        np.testing.assert_allclose(seen, own, rtol=1e-3, atol=1e-8)
        assert np.isfinite(values).sum() == len(own)
