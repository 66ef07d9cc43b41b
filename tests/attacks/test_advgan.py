"""AdvGAN as an attack: its path, its fit and what is kept of it, its collapse, and what is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.attacks import fitting
from flatlens.attacks.advgan import AdvGAN
from flatlens.attacks.balls import ball
from flatlens.attacks.fitting import Judged, fit, has_collapsed
from flatlens.attacks.generator import Aim
from flatlens.errors import AttackError, FlatlensError, SpecError
from flatlens.measure import run as running
from flatlens.measure.load import load
from flatlens.measure.plan import plan
from flatlens.records.learnt import cautions
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.trust import attack_runs_code
from flatlens.sweeps.supervisor import run_sweep
from flatlens.wording import CautionWarning
from tests.expected import cautioned

QUIET = cautioned("one-generator", "silent-success", "not-converged", "flat-because-confident", "zero-gradient")
DIGITS = {"model": "flatlens:digits-cnn", "data": "flatlens:digits", "eps": 0.3, "limit": 12, "batch_size": 4}
AIM = Aim(0.3, width=2, lr=0.02)
SMALL = "advgan?epochs=1&width=4&lr=0.02"


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second start: where it does not matter whether so short a training has come anywhere."""
    monkeypatch.setattr(fitting, "STARTS", 1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def spec(**more: Any) -> RunSpec:
    return RunSpec(**{**DIGITS, "attack": SMALL, "steps": 5, "images": "all", **more})


def digits(n: int, split: str = "train") -> tuple[Tensor, Tensor]:
    data = datasets.load(f"flatlens:digits?split={split}")
    return torch.from_numpy(data.x[:n]), torch.from_numpy(data.y[:n])


def shipped(name: str = "digits-cnn") -> nn.Module:
    return models.load(f"flatlens:{name}", shape=(1, 8, 8), classes=10).model


def linear(shape: tuple[int, ...], classes: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier whose classes meet in the middle of the bounds, inputs there, and its own labels."""
    g = torch.Generator().manual_seed(len(shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(model[1].weight.shape, generator=g))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
        x = 0.3 + 0.4 * torch.rand(96, *shape, generator=g)
        y = model.eval()(x).argmax(1)
    return model, x, y


# ---- the path ---------------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (2, 2, 2), (9,), (4, 3)], ids=str)
@cautioned("fitted-on-attacked")
def test_the_path_is_the_generator_while_it_learns(shape: tuple[int, ...], norm: str) -> None:
    model, x, y = linear(shape)
    eps = 0.2 if norm == "linf" else 0.5
    trace = fl.trace(model, x, y, attack=AdvGAN(eps=eps, norm=norm, steps=6, epochs=5, width=4, lr=0.03), images="all")
    path = torch.from_numpy(trace.images.x).view(len(x), 7, *shape)
    assert torch.equal(path[:, 0], x)
    size = torch.stack([ball(norm).size(path[:, k] - x) for k in range(7)], 1)
    rounding = torch.finfo(x.dtype).eps * (1 if norm == "linf" else x[0].numel())
    assert size.max() <= eps + rounding
    assert path.min() >= 0 and path.max() <= 1
    assert (size[:, 1:] > 0).all() and (path[:, 1:] != path[:, :-1]).flatten(2).any(2).all()
    assert trace.result("flipped").mean() > 0.5
    np.testing.assert_array_equal(trace.x_adv, path[:, -1].numpy())


@QUIET
@pytest.mark.parametrize("z", [0, 7])
def test_a_sample_s_path_is_its_own_in_every_batch(z: int) -> None:
    x, y = digits(24, "test")
    attack = AdvGAN(eps=0.3, steps=3, epochs=3, width=4, lr=0.02, z=z).fit(shipped(), *digits(256))
    whole = fl.trace(shipped(), x, y, attack=attack, batch_size=24)
    parts = fl.trace(shipped(), x, y, attack=attack, batch_size=5)
    np.testing.assert_allclose(whole.x_adv, parts.x_adv, rtol=0, atol=1e-5)
    again = fl.trace(shipped(), x, y, attack=attack, batch_size=24)
    np.testing.assert_array_equal(whole.x_adv, again.x_adv)
    other = fl.trace(shipped(), x, y, attack=attack, batch_size=24, seed=1)
    assert np.array_equal(whole.x_adv, other.x_adv) == (z == 0)  # noise is the sample's and the run's


@QUIET
def test_a_targeted_generator_reaches_its_target() -> None:
    x, y = digits(64, "test")
    attack = AdvGAN(eps=0.5, steps=4, epochs=12, width=4, lr=0.02, target="next").fit(shipped(), *digits(256))
    trace = fl.trace(shipped(), x, y, attack=attack)
    assert (trace.result("prediction") == (y.numpy() + 1) % 10).mean() > 0.5


@QUIET
def test_its_control_leads_to_its_end() -> None:
    x, y = digits(8, "test")
    attack = AdvGAN(eps=0.3, steps=4, epochs=3, width=4, lr=0.02).fit(shipped(), *digits(256))
    trace = fl.trace(shipped(), x, y, attack=attack, controls="line-to-end")
    for column in ("prediction", "loss"):
        mine, line = (trace.matrix(column, path=path).values[:, -1] for path in ("attack", "line-to-end"))
        np.testing.assert_allclose(mine, line, rtol=1e-4, atol=1e-6)


# ---- the fit ----------------------------------------------------------------------------------------


@QUIET
def test_it_fits_the_training_split_once_and_says_how_well(tmp_path: Path, cache: Path) -> None:
    with pytest.warns(CautionWarning, match="one-generator: every step of the path is one generator"):
        done = running.run(spec(), tmp_path / "run")
    told = done.manifest["generator"]
    assert told["samples"] == 1347 and told["attacked_among_them"] == 0
    assert told["training"]["n"] == 1347 and told["fgsm"]["n"] == 512
    assert 0 < told["training"]["value"] <= 1 and told["training"]["low"] < told["training"]["value"]
    trace = done.trace()
    flipped = trace.matrix("flipped").values
    assert told["attacked"]["n"] == int((flipped[:, 0] == 0).sum())
    assert told["attacked"]["count"] == int(((flipped[:, 0] == 0) & (flipped[:, -1] == 1)).sum())
    assert [file.name for file in cache.glob("advgan-*.safetensors")] != []
    assert "fitted-on-attacked" not in {caution.code for caution in trace.cautions}


@QUIET
def test_resumed_rebatched_and_again_it_is_the_same_generator(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    plain = fit
    monkeypatch.setattr("flatlens.attacks.advgan.fit", lambda *a, **k: fitted.append(1) or plain(*a, **k))
    whole = running.run(spec(), tmp_path / "whole")
    begun = running.begin(spec(), tmp_path / "resumed")
    running.measure(begun, [1])
    resumed = running.run(spec(), tmp_path / "resumed")
    other = running.run(spec(batch_size=6, layer=("all",)), tmp_path / "other")
    assert fitted == [1]
    assert {done.manifest["generator"]["sha256"] for done in (whole, resumed, other)} == {
        whole.manifest["generator"]["sha256"]
    }
    for name in ("steps", "layers"):
        assert getattr(whole.trace(), name).equals(getattr(resumed.trace(), name))
    np.testing.assert_allclose(whole.trace().x_adv, other.trace().x_adv, rtol=0, atol=1e-5)
    # What nobody kept is fitted to the same bits.
    for file in cache.iterdir():
        file.unlink()
    running.run(spec(), tmp_path / "anew")
    assert fitted == [1, 1]
    assert running.run(spec(), tmp_path / "anew").trace().steps.equals(whole.trace().steps)


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"z": 1}, {"objective": "ce"}, {"eps": 0.2}, {"target": "next"}, {"steps": 4}, {"epochs": 2},
     {"norm": "l2"}, {"gan": 0.0}, {"norm_weight": 0.0}, {"lr": 0.01}, {"width": 3}, {"weights": "1" * 64}, {"n": 40}],
    ids=str,
)  # fmt: skip
def test_whatever_it_learns_from_makes_another_generator(change: dict[str, Any], cache: Path) -> None:
    def told(*, n: int = 48, seed: int = 0, weights: str = "0" * 64, **more: Any) -> dict[str, Any]:
        x, y = digits(n)
        attack = AdvGAN(**{"eps": 0.3, "steps": 2, "epochs": 1, "width": 2, "lr": 0.02, **more})
        return attack.fit(shipped(), x, y, seed=seed, weights=weights).told(x)

    one, other = told(), told(**change)
    assert len(list(cache.glob("advgan-*.safetensors"))) == 2
    # The same network under another hash learns the same; so short a training makes no perturbation too long.
    assert (one["sha256"] == other["sha256"]) == (not {"weights", "norm_weight"}.isdisjoint(change))
    assert told() == one and told(**change) == other


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "other"])
def test_a_damaged_generator_is_fitted_anew_and_that_is_said(damage: str, cache: Path) -> None:
    x, y = digits(48)
    attack, model = AdvGAN(eps=0.3, steps=2, epochs=4, width=2, lr=0.02), shipped()

    def told() -> dict[str, Any]:
        return attack.fit(model, x, y, weights="0" * 64).told(x)

    first = told()
    (file,) = cache.glob("advgan-*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[-100] ^= 1
    elif damage == "other":
        content = bytearray(json.dumps({"a": 1}).encode())
    file.write_bytes(content[: {"cut": 2000, "empty": 0}.get(damage, len(content))])
    again = told()
    assert not first["anew"] and again == {**first, "anew": True}
    (said,) = (
        one.message
        for one in cautions({**again, "attacked_among_them": 0, "of_other_generators": 0})
        if one.code == "fitted-anew"
    )
    assert said.startswith("the generator that was kept in the cache was damaged, and has been fitted anew")
    assert told() == first


def test_a_plan_counts_what_it_has_to_learn() -> None:
    whole = spec(attack="advgan?epochs=1&width=4", limit=8)
    before = plan(whole)
    assert before.backward_passes == 22  # 1,347 inputs by 64
    assert before.forward_passes == 22 + 2 * (5 + 1) + 2
    load(whole).job.fit()
    assert plan(whole).backward_passes == 0


@QUIET
@cautioned("collapsed")
def test_swept_it_is_the_same_run(tmp_path: Path) -> None:
    alone = running.run(spec(), tmp_path / "alone").trace()
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in spec().to_dict().items() if key != "attack")
    grid = json.dumps([SMALL, "advgan?lr=2e-2&width=4&epochs=1"])
    (tmp_path / "sweep.toml").write_text(f"[run]\n{lines}\n[grid]\nattack = {grid}\n")
    done = run_sweep(tmp_path / "sweep.toml", tmp_path / "out", workers=1)
    assert (done.done, done.failed) == (1, 0), done.notes  # the two spell one
    (swept,) = (tmp_path / "out" / "cells").iterdir()
    assert fl.open(swept).steps.equals(alone.steps)


@pytest.mark.usefixtures("once")
@QUIET
def test_the_same_weights_in_another_network_are_another_model(tmp_path: Path, cache: Path) -> None:
    x, y = digits(48)
    one, other = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 16), act, nn.Linear(16, 10)).eval() for act in (nn.ReLU(), nn.Tanh())
    )
    other.load_state_dict(one.state_dict())
    attack = AdvGAN(eps=0.3, steps=2, epochs=4, width=2, lr=0.02)
    told = [attack.fit(model, x, y, weights="0" * 64).told(x)["sha256"] for model in (one, one, other)]
    assert told[0] == told[1] != told[2]


@QUIET
def test_whoever_needs_a_generator_that_is_under_way_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(48)
    fitted: list[int] = []
    plain = fit

    def slow(*given: Any, **named: Any) -> Any:
        fitted.append(1)
        return plain(*given, **named)

    monkeypatch.setattr("flatlens.attacks.advgan.fit", slow)
    attack = AdvGAN(eps=0.3, steps=2, epochs=2, width=2, lr=0.02)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: attack.fit(shipped(), x, y, weights="0" * 64).told(x)["sha256"], range(3)))
    assert len(set(found)) == 1 and fitted == [1]


@QUIET
def test_data_in_one_part_are_learnt_from_and_attacked(tmp_path: Path) -> None:
    x, y = digits(40)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy(), labels=[str(i) for i in range(10)])
    whole = spec(data=f"npz:{tmp_path / 'data.npz'}", limit=None, steps=2, batch_size=None)
    said = "fitted-on-attacked: 40 of 40 attacked samples are among the 40 inputs"
    with pytest.warns(CautionWarning, match=said):
        running.run(whole, tmp_path / "run")


@QUIET
def test_in_python_it_learns_from_what_is_attacked_unless_it_has_learnt() -> None:
    x, y = digits(40)
    attack = AdvGAN(eps=0.3, steps=2, epochs=4, width=2, lr=0.02)
    with pytest.warns(CautionWarning, match="fitted-on-attacked: 40 of 40"):
        fl.trace(shipped(), x, y, attack=attack)
    assert attack.learnt is None  # another model is learnt anew
    learnt = attack.fit(shipped(), x[20:], y[20:])
    assert learnt.fit(shipped(), x, y) is learnt
    with pytest.warns(CautionWarning, match="fitted-on-attacked: 20 of 40"):
        trace = fl.trace(shipped(), x, y, attack=learnt)
    assert trace.manifest["generator"]["samples"] == 20


@QUIET
@cautioned("fitted-on-attacked")
def test_a_trace_is_saved_under_a_name_that_runs_it_again(tmp_path: Path) -> None:
    x, y = digits(24)
    trace = fl.trace(shipped(), x, y, attack=AdvGAN(eps=0.3, steps=2, epochs=6, z=2, lr=0.01), out=tmp_path / "run")
    again = fl.open(tmp_path / "run")
    assert again.spec["attack"] == "advgan?epochs=6&width=16&lr=0.01&gan=1&norm=1&z=2"
    assert again.manifest["generator"] == trace.manifest["generator"]
    by_name = fl.trace(shipped(), x, y, attack="advgan?epochs=6&z=2&lr=1e-2")
    assert by_name.spec["steps"] == 20


@pytest.mark.usefixtures("once")
def test_batches_of_two_generators_are_told(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.measure(running.begin(spec(), tmp_path / "run"), [1])
    for file in cache.iterdir():
        file.unlink()
    plain = fit
    monkeypatch.setattr("flatlens.attacks.advgan.fit", lambda *a, **k: plain(*a, **{**k, "seed": 1}))
    with pytest.warns(CautionWarning) as caught:
        done = running.run(spec(), tmp_path / "run")
    said = next(str(one.message) for one in caught if str(one.message).startswith("several-generators"))
    assert "the paths of 4 of 12 samples, which were measured earlier, are of another generator" in said
    assert done.manifest["generator"]["of_other_generators"] == 4


# ---- collapse ---------------------------------------------------------------------------------------


class Bare(nn.Module):
    """A generator without norms that gives every input one vain pattern, and never learns."""

    def __init__(self, shape: tuple[int, ...], rng: torch.Generator, *, width: int, z: int) -> None:
        super().__init__()
        self.pattern = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return 0.02 + 0 * self.pattern.expand_as(x)


def test_a_generator_that_collapses_ends_as_collapsed() -> None:
    x, y = digits(128)
    attack = AdvGAN(eps=0.1, steps=2, epochs=2).fit(shipped(), x, y, generator=Bare)
    told = attack.told(x)
    assert told["collapsed"] and told["starts"] == 4
    assert told["lr"] == pytest.approx(5e-3)  # where all are as bad, the first is kept
    assert told["cosine"] > 0.7
    test_x, test_y = digits(16, "test")
    with pytest.warns(CautionWarning) as caught:
        trace = fl.trace(shipped(), test_x, test_y, attack=attack)
    said = next(str(one.message) for one in caught if str(one.message).startswith("collapsed"))
    assert "begun 4 times: it fools 0 of 128 inputs that it learnt from, FGSM" in said
    assert trace.manifest["generator"]["collapsed"]
    assert "collapsed" in {caution.code for caution in trace.cautions}


@pytest.mark.parametrize(
    ("own", "fgsm", "collapsed"),
    [
        (Judged(50, 100, 0.2), Judged(90, 100, 0.1), False),
        (Judged(9, 100, 0.2), Judged(90, 100, 0.1), True),
        (Judged(10, 100, 0.2), Judged(90, 100, 0.1), False),
        (Judged(50, 100, 0.71), Judged(90, 100, 0.1), True),
        (Judged(50, 100, 0.99), Judged(90, 100, 0.71), False),  # one direction leads all over a boundary
        (Judged(0, 100, 0.2), Judged(0, 100, 0.1), False),  # nobody fools it: nothing is known
    ],
)
def test_what_counts_as_collapsed(own: Judged, fgsm: Judged, collapsed: bool) -> None:
    assert has_collapsed(own, fgsm) == collapsed


def test_it_begins_anew_until_it_has_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(128)
    seen: list[Judged] = []
    verdicts = iter([True, True, False, False])  # at a quarter twice, then at a quarter and at the end

    def verdict(own: Judged, fgsm: Judged) -> bool:
        seen.append(own)
        return next(verdicts)

    monkeypatch.setattr(fitting, "has_collapsed", verdict)
    monkeypatch.setattr(fitting, "EARLIEST", 1)
    found = fit(shipped(), x, y, aim=Aim(0.3, width=2, lr=9e-3), steps=4, epochs=4, seed=0)
    assert (found.starts, found.collapsed) == (3, False)
    assert found.lr == pytest.approx(1e-3)
    assert len(found.snapshots) == 4 and len(seen) == 4


def test_where_all_starts_collapse_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(64)
    seen: list[Judged] = []
    monkeypatch.setattr(fitting, "has_collapsed", lambda own, fgsm: bool(seen.append(own)) or True)
    found = fit(shipped(), x, y, aim=Aim(0.3, width=2, lr=0.05), steps=2, epochs=2, seed=0)
    assert (found.starts, found.collapsed, len(seen)) == (4, True, 4)  # too few steps to be looked at before the end
    assert found.training[:2] == max(seen, key=lambda own: own.fooled)[:2]
    assert found.lr > 0.05 / 27


@pytest.mark.parametrize(("steps", "epochs"), [(3, 2), (16, 2)])
def test_snapshots_are_equal_shares_and_the_last_is_the_end(steps: int, epochs: int) -> None:
    x, y = digits(64)
    total = 8 * epochs
    found, every = (fit(shipped(), x, y, aim=AIM, steps=count, epochs=epochs, seed=0) for count in (steps, total))
    assert len(found.snapshots) == steps
    for k, one in enumerate(found.snapshots, 1):
        same = every.snapshots[k * total // steps - 1]
        assert all(torch.equal(held, same[name]) for name, held in one.items())


def test_what_is_judged_is_what_a_plain_count_gives() -> None:
    x, y = digits(60)
    model, shift = shipped(), torch.linspace(-1, 1, 64).view(1, 8, 8)
    data = fitting._Data(model, x, y, None, lambda part: part)
    found = data.judged(lambda here, *_: here + 0.4 * shift * here.mean((1, 2, 3), keepdim=True))
    there = x + 0.4 * shift * x.mean((1, 2, 3), keepdim=True)
    right = model(x).argmax(1) == y
    unit = torch.nn.functional.normalize((there - x)[right].flatten(1).double(), dim=1)
    pairs = [float(unit[i] @ unit[j]) for i in range(len(unit)) for j in range(i)]
    assert found == Judged(
        int((right & (model(there).argmax(1) != y)).sum()), int(right.sum()), pytest.approx(sum(pairs) / len(pairs))
    )


# ---- names, and what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["advgan?epochs=3&lr=5e-3", "advgan?lr=0.005&epochs=3", "advgan?z=0&gan=1.0&epochs=3",
     "advgan?epochs=3&width=16&lr=1/200&gan=1&norm=1&z=0"],
)  # fmt: skip
def test_the_same_options_are_one_run(name: str) -> None:
    whole = spec(attack=name).resolved()
    assert whole.attack == "advgan?epochs=3&width=16&lr=0.005&gan=1&norm=1&z=0"
    assert whole.hash() == spec(attack="advgan?epochs=3").resolved().hash()
    assert from_dict(whole.to_dict()) == whole and whole.resolved() == whole
    assert whole.objective == "margin"
    assert not attack_runs_code(name)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"attack": "advgan?epoch=3"}, "no option 'epoch'; attack 'advgan' has: epochs, width, lr, gan, norm, z. Did "
         "you mean 'epochs'?"),
        ({"attack": "advgan?eps=0.1"}, "no option 'eps'; attack 'advgan' has: epochs, width, lr, gan, norm, z. Did you "
         "mean 'epochs'? --eps sets it."),
        ({"attack": "pgd?epochs=3"}, "no option 'epochs'; attack 'pgd' has: none."),
        ({"attack": "advgn?epochs=3"}, "no attack 'advgn'; there are: fgsm, bim, mi-fgsm, pgd, apgd-ce, apgd-dlr, "
         "apgd-t, square, ddn, advgan. Did you mean 'advgan'?"),
        ({"attack": "advgan?epochs=0"}, "epochs=0 in 'advgan?epochs=0': needs a whole number from 1 to 100000"),
        ({"attack": "advgan?lr=nan"}, "lr=nan in 'advgan?lr=nan': needs a number from 1e-08 to 1"),
        ({"attack": "advgan?z=1.5"}, "z=1.5 in 'advgan?z=1.5': needs a whole number from 0 to 10000"),
        ({"attack": "advgan?epochs"}, "option 'epochs' in 'advgan?epochs' has no value; write name=value, joined by &"),
        ({"attack": "advgan?z=1&z=2"}, "option 'z' is given twice in 'advgan?z=1&z=2'"),
        ({"norm": "l1"}, "no norm 'l1'; attack advgan has: linf, l2."),
        ({"norm": "l2", "eps": None}, "--eps must be given for l2"),
        ({"restarts": 2}, "has no restarts; those that have: pgd"),
    ],
    ids=str,
)  # fmt: skip
def test_a_name_that_cannot_be_is_one_line(more: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**more)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def _trace(n: int = 8, attack: Any = None, **more: Any) -> None:
    x, y = digits(n)
    fl.trace(shipped(), x, y, attack=attack or AdvGAN(**{"eps": 0.3, "steps": 2, "epochs": 2, "width": 2} | more))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: _trace(1), "advgan learns from many inputs, and is given 1; fit it on at least 2"),
        (lambda: _trace(9, steps=40, epochs=3), "steps = 40: the generator learns in 15 steps of its own (3 epochs of "
         "5); give at most 15, or at least 8 epochs"),
        (lambda: _trace(8, target=12), "target 12: this model has the labels 0 … 9, or next, random, least-likely"),
        (lambda: AdvGAN(eps=(0.1, 0.2, 0.3)), "eps has 3 values: advgan's generator learns one radius for all; give "
         "one number"),
        (lambda: AdvGAN(eps=torch.tensor([0.1, 0.2])), "eps has 2 values"),
        (lambda: AdvGAN(eps=0.0), "eps = 0.0: needs a number above 0, for example 8/255"),
        (lambda: AdvGAN(steps=0), "steps = 0: needs a whole number of at least 1"),
        (lambda: AdvGAN(norm="l1"), "no norm 'l1'; a generator has: linf, l2."),
        (lambda: AdvGAN(objective="hinge"), "no objective 'hinge'; there are: ce, dlr, margin."),
        (lambda: AdvGAN(norm_weight=-1.0), "norm_weight = -1.0: needs a number from 0 to 1e+06"),
        (lambda: AdvGAN(width=0), "width = 0: needs a whole number from 1 to 4096"),
        (lambda: AdvGAN(steps=1, epochs=1).fit(shipped(), digits(8)[0], digits(8)[1][:3]),
         "advgan is given inputs (8, 1, 8, 8) of torch.float32 and labels (3,); needs floating-point numbers [n, …] "
         "and n labels"),
        (lambda: _trace(8, AdvGAN(steps=1, epochs=1).fit(*_vectors())),
         "advgan has learnt from inputs of another shape than (1, 8, 8); fit it anew"),
        (lambda: AdvGAN(steps=1).fit(_nan(), *digits(8)), "the generator's loss is nan; lower its lr = 0.005"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_one_line(act: Any, said: str) -> None:
    with pytest.raises(FlatlensError) as caught:
        act()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def _vectors() -> tuple[nn.Module, Tensor, Tensor]:
    return linear((9,))


def _nan() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)) * torch.nan

    return Net().eval()


def test_unfitted_it_says_what_to_call() -> None:
    model, x, y = linear((9,))
    with pytest.raises(AttackError, match="advgan has learnt nothing yet: call its fit"):
        next(iter(AdvGAN()(*_victim_and_batch(model, x, y))))


def _victim_and_batch(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, ...]:
    from flatlens.victims.images import ImageVictim
    from flatlens.victims.noise import Noise
    from flatlens.victims.protocol import Batch

    return ImageVictim(model, x), Batch(x, y, torch.arange(len(x))), Noise(0)


# ---- how strong it is -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("model", "least"), [("digits-cnn", 0.90), ("digits-cnn-robust", 0.75)])
def test_it_fools_on_held_out_inputs(model: str, least: float, seed: int) -> None:
    """``python -m pytest -m slow tests/attacks/test_advgan.py -s`` shows the figures."""
    job = load(spec(model=f"flatlens:{model}", attack="advgan", limit=None, seed=seed)).job
    job.fit()
    told, learnt = job.attack.told(job.x), job.attack.own  # type: ignore[attr-defined]
    data = fitting._Data(shipped(model), job.x, job.y, None, lambda part: part)
    net = learnt._net(job.x, learnt.learnt.generator)
    net.load_state_dict(learnt.learnt.fitted.snapshots[-1])
    with torch.no_grad():
        found = data.judged(lambda here, *_: learnt.aim((0.0, 1.0)).perturbed(here, net, None))
    print(f"\n{model} seed {seed}: {100 * found.fooled / found.of:.1f} % of {found.of} held out, ", end="")
    print(f"{100 * told['training'][0] / told['training'][1]:.1f} % trained on, cosine {found.cosine:.2f}")
    assert not told["collapsed"] and told["starts"] == 1
    assert found.fooled / found.of >= least
