"""Controls: where they lead, how long they are, and that they ask nothing of the attack but its end."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.attacks import CONTROLS
from flatlens.attacks.balls import BALLS
from flatlens.errors import AttackError
from flatlens.victims.images import ImageVictim
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch
from tests.attacks.test_attacks import data, net
from tests.expected import cautioned


def walked(name: str, batch: Batch, **settings: object) -> list[torch.Tensor]:
    victim = ImageVictim(net(), batch.x)
    control = fl.attacks.find(name)(**settings)
    path = [here.x.detach() for here in control(victim, batch, Noise(0))]
    assert len(path) == control.length + 1
    assert torch.equal(path[0], batch.x)
    assert all(bool((x >= 0).all() and (x <= 1).all()) for x in path)
    return path


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("name", ["gaussian-noise", "uniform-noise"])
def test_noise_is_a_ray_of_the_attacks_norm(name: str, norm: str) -> None:
    x, y = torch.full((6, 1, 8, 8), 0.5, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    eps = torch.linspace(0.1, 0.4, 6, dtype=torch.float64)
    for radius, own in ((0.2, None), (0.2, eps)):
        path = walked(name, Batch(x, y, torch.arange(6), eps=own), eps=radius, norm=norm, steps=8)
        for t, point in enumerate(path):
            expected = t / 8 * (torch.full((6,), 0.2).double() if own is None else eps)
            torch.testing.assert_close(BALLS[norm].size(point - x), expected)
            torch.testing.assert_close(point - x, t / 8 * (path[-1] - x))


@pytest.mark.parametrize("norm", BALLS)
def test_random_signs_walk_in_steps_of_the_attacks_size_inside_its_ball(norm: str) -> None:
    x, y = data()
    path = walked("random-signs", Batch(x, y, torch.arange(len(x))), eps=0.3, norm=norm, steps=9, step_size=0.1)
    for before, after in pairwise(path):
        # In l2 the nearest-point projection shortens; in l1 as well.
        assert bool((BALLS[norm].size(after - before) <= (0.1 if norm != "l1" else 0.2) * (1 + 1e-9)).all())
        assert bool((BALLS[norm].size(after - x) <= 0.3 * (1 + 1e-9)).all())
    assert not torch.equal(path[1] - path[0], path[2] - path[1])


@pytest.mark.parametrize("name", ["line-to-end", "line-to-other-class", "gaussian-noise", "uniform-noise"])
def test_rays_begin_at_the_clean_input_wherever_it_and_their_end_are(name: str) -> None:
    x, y = data()
    x[0, 0, 0, 0] = 1.5  # outside of the bounds, which is cautioned elsewhere
    end = x.clone()
    end[1] = torch.nan
    batch = Batch(x, y, torch.arange(len(x)), other=end, end=end)
    first = next(iter(fl.attacks.find(name)()(ImageVictim(net(), x), batch, Noise(0))))
    assert torch.equal(first.x, x)


def test_lines_end_where_they_should() -> None:
    x, y = data()
    end = torch.rand(x.shape, dtype=torch.float64)
    for name, batch in (
        ("line-to-end", Batch(x, y, torch.arange(len(x)), end=end)),
        ("line-to-other-class", Batch(x, y, torch.arange(len(x)), other=end)),
    ):
        path = walked(name, batch, steps=4)
        torch.testing.assert_close(path[-1], end)
        torch.testing.assert_close(path[1], x + (end - x) / 4)
        with pytest.raises(AttackError):
            walked(name, Batch(x, y, torch.arange(len(x))), steps=4)


@cautioned("not-converged")
@pytest.mark.parametrize(
    "attack",
    [
        fl.attacks.PGD(eps=0.1, steps=6, random_start=True, restarts=2),
        fl.attacks.PGD(eps=2, norm="l1", steps=6),
        fl.attacks.APGD(eps=0.1, steps=6),
        fl.attacks.APGD(eps=0.5, norm="l2", steps=6, targets=2),
        fl.attacks.DDN(steps=6),
        fl.attacks.MIFGSM(eps=0.1, steps=6),
    ],
    ids=lambda a: type(a).__name__,
)
def test_all_of_them_beside_any_attack(attack: object) -> None:
    model, (x, _) = net(), data()
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 10  # one is wrong from the start, and gives the others another class to walk to
    seen: list[int] = []
    trace = fl.trace(
        model, x, y, attack=attack, controls=list(CONTROLS), batch_size=5,
        progress=lambda at: seen.append(at.done / at.total),
    )  # fmt: skip
    assert seen[-1] == 1
    assert trace.paths == ("attack", *CONTROLS)
    found = trace.result("l2")
    np.testing.assert_allclose(trace.matrix("l2", path="line-to-end").values[:, -1], found, rtol=1e-6)
    np.testing.assert_array_equal(
        trace.matrix("prediction", path="line-to-end").values[:, -1], trace.result("prediction")
    )
    for name in CONTROLS:
        assert trace.matrix("loss", path=name).values.shape == (len(x), attack.length + 1)  # type: ignore[attr-defined]
    if isinstance(attack, fl.attacks.DDN):  # no eps: noise as long as what the attack found, less what bounds clip
        for name in ("gaussian-noise", "uniform-noise"):
            noise = trace.matrix("l2", path=name).values[:, -1]
            assert (noise <= found * (1 + 1e-9) + 1e-11).all() and (noise > 0.4 * found)[1:].all()


@cautioned("low-accuracy")
def test_gradient_flow_and_dead_units_along_the_path() -> None:
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 5))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g))
        model[1].weight[:, :16] = 0  # nothing depends on the first 16 pixels
    model = model.double().eval()
    x, y = data()
    y = y % 5
    attack = fl.attacks.PGD(eps=0.2, steps=5)
    trace = fl.trace(model, x, y, attack=attack, images="all", dead_units=True)
    points = torch.from_numpy(trace.images.x).double().reshape(len(x), 6, 64)
    gradients = []
    for t in range(5):
        at = points[:, t].clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(at), y, reduction="sum")
        gradients.append(torch.autograd.grad(loss, at)[0])
    norms = torch.stack([v.norm(dim=1) for v in gradients], 1)
    np.testing.assert_allclose(trace.matrix("input_grad_norm").values[:, :5], norms, rtol=1e-5)
    np.testing.assert_allclose(trace.matrix("grad_zero_share").values[:, :5], 0.25, rtol=1e-12)
    cosine = torch.stack([nn.functional.cosine_similarity(a, b) for a, b in pairwise(gradients)], 1)
    np.testing.assert_allclose(trace.matrix("grad_cosine").values[:, 1:5], cosine, atol=1e-5)
    for name in ("grad_zero_share", "grad_cosine", "input_grad_norm"):
        assert np.isnan(trace.matrix(name).values[:, 5]).all()
    assert np.isnan(trace.matrix("grad_cosine").values[:, 0]).all()
    with torch.no_grad():
        first = model[2](model[1](points))
        dead = ((first <= 0).sum(2) + (model[4](model[3](first)) <= 0).sum(2)) / 32
    np.testing.assert_allclose(trace.matrix("dead_share").values, dead, atol=1e-12)
    layers = fl.trace(model, x, y, attack=attack, layers=["all"])
    for layer, units in (("3", first), ("head", model[4](model[3](first)))):
        off = (units <= 0).double().mean(2).detach()
        np.testing.assert_allclose(layers.matrix("zero_inputs", layer=layer).values, off, atol=1e-12)
    plain = fl.trace(model, x, y, attack=attack)
    assert plain.steps["dead_share"].null_count == plain.steps.num_rows
    smooth = fl.trace(net(), x, y, attack=attack, dead_units=True)
    assert smooth.steps["dead_share"].null_count == smooth.steps.num_rows


@cautioned("low-accuracy")
@pytest.mark.parametrize("act", ["relu", "gelu", "silu", "swiglu"])
def test_the_twins_of_the_mlp_differ_in_dead_units_alone(act: str) -> None:
    digits = datasets.load("flatlens:digits").take(np.arange(40))
    model = models.load(f"flatlens:mlp?act={act}&width=16", shape=(1, 8, 8), classes=10).model
    x, y = torch.from_numpy(digits.x), torch.from_numpy(digits.y)
    trace = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.2, steps=5), layers=["hidden2", "head"])
    for layer in trace.layer_names:
        off = trace.matrix("zero_inputs", layer=layer).values
        assert (off > 0.1).mean() > 0.9 if act == "relu" else not off.any()
    assert not trace.matrix("grad_zero_share").values[:, :5].any()
    assert (trace.matrix("input_grad_norm").values[:, :5] > 0).all()
