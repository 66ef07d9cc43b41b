"""One path's bookkeeping: samples that stop early, best points after the path, and both at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import AttackError, LayerError
from flatlens.records.schema import BEST, ITERATE
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim
from tests.attacks.test_attacks import data, net
from tests.expected import cautioned

pytestmark = cautioned("low-accuracy", "not-converged", "stopped-early")

N = 9
EVEN = torch.arange(0, N, 2)


@dataclass(frozen=True)
class Stopping:
    """Every sample takes two steps, the even ones two more; the best point is the second, where ``best``."""

    best: bool = True
    restarts: int = 1

    def runs(self, classes: int) -> int:
        return self.restarts

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        scale = 0.01 * (1 + rng.restart)
        x, points = batch.x, []
        for step in range(5):
            rows = EVEN if step > 2 else None
            here = victim(x, batch.y if rows is None else batch.y[rows])
            here.rows = rows
            points.append(here.x.detach())
            yield here
            x = (here.x.detach() + scale * here.grad(lambda at: at.loss).sign()).clamp(*victim.bounds)
            x = x[EVEN] if step == 2 else x
        if self.best:
            here = victim(points[1], batch.y, final=True)
            here.kind = BEST
            yield here


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("images", ["key", "all"])
def test_paths_of_two_lengths(best: bool, images: str) -> None:
    model, (x, y) = net(norm=False), data()
    trace = fl.trace(model, x, y, attack=Stopping(best), images=images, controls=["line-to-end"])
    wanted = np.where(np.arange(N) % 2 == 0, 4, 2)
    np.testing.assert_array_equal(trace.last_steps(), wanted)
    loss = trace.matrix("loss").values
    assert np.isfinite(loss[EVEN]).all() and np.isnan(loss[1::2, 3:]).all() and np.isfinite(loss[1::2, :3]).all()
    # What each row says is what a pass of its own point says.
    x_adv = torch.from_numpy(trace.x_adv)
    own = torch.nn.functional.cross_entropy(model(x_adv.double()), y, reduction="none").detach()
    np.testing.assert_allclose(trace.result("loss"), own, rtol=1e-5)
    np.testing.assert_array_equal(trace.result("step"), wanted)
    if best:
        np.testing.assert_array_equal(trace.result("loss"), loss[:, 1])
    else:
        np.testing.assert_array_equal(trace.result("loss"), loss[np.arange(N), wanted])
    end = trace.matrix("l2", path="line-to-end").values[:, -1]
    np.testing.assert_allclose(end, trace.result("l2"), rtol=1e-9)
    assert "certificate-violated" not in [caution.code for caution in trace.cautions]
    assert trace.images is not None
    kept = [int((trace.images.sample == i).sum()) for i in range(N)]
    if images == "all":
        assert kept == [int(length) + 1 + best for length in wanted]


def test_the_last_row_of_a_sample_is_the_confirmed_one() -> None:
    trace = fl.trace(net(), *data(), attack=Stopping())
    table = trace.steps.to_pandas()
    assert set(table[table.confirmed.notna()].kind) == {BEST}
    assert table.confirmed.sum() == N
    assert (table.groupby("sample").tail(1).kind == BEST).all()
    heads = trace.layers.to_pandas()
    assert len(heads) == len(table) and heads.loss_change.notna().all()
    np.testing.assert_allclose(heads.loss_change, table.loss - table.groupby("sample").loss.transform("first"))


def test_gradients_belong_to_their_rows() -> None:
    model, (x, y) = net(), data()
    trace = fl.trace(model, x, y, attack=Stopping(), images="all")
    norm, cosine = trace.matrix("input_grad_norm").values, trace.matrix("grad_cosine").values
    assert trace.images is not None
    for sample, step in ((0, 0), (0, 3), (4, 4), (1, 2)):
        at = (trace.images.sample == sample) & (trace.images.step == step)
        leaf = torch.from_numpy(trace.images.x[at][:1]).double().requires_grad_()
        torch.nn.functional.cross_entropy(model(leaf), y[sample : sample + 1]).backward()
        assert leaf.grad is not None
        assert norm[sample, step] == pytest.approx(float(leaf.grad.norm()), rel=1e-5)
    # Between a whole batch and a part of it there is no cosine.
    assert np.isfinite(cosine[:, 1:3]).all() and np.isnan(cosine[:, [0, 3, 4]]).all()
    assert trace.matrix("input_grad_norm", kind=BEST).values.shape == (N, 5)


def test_restarts_are_paths_of_their_own() -> None:
    trace = fl.trace(net(), *data(), attack=Stopping(best=False, restarts=2))
    first, second = (trace.matrix("loss", restart=run).values for run in range(2))
    assert not np.array_equal(first[:, 1], second[:, 1]) and np.array_equal(first[:, 0], second[:, 0])
    ends = np.stack([run[np.arange(N), trace.last_steps()] for run in (first, second)])
    flips = np.stack([trace.matrix("flipped", restart=run).values[:, -1] for run in range(2)])
    np.testing.assert_array_equal(trace.result("flipped"), flips.any(0))
    alike = flips[0] == flips[1]
    np.testing.assert_array_equal(trace.result("loss")[alike], ends.max(0)[alike])


def test_recorded_attacks_have_controls_certificate_and_their_own_norm() -> None:
    model, (x, y) = net(), data()

    def attack(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(leaf), y), leaf)
        length = torch.arange(1, N + 1) / 10 / g.flatten(1).norm(dim=1)
        return (x + length.view(-1, 1, 1, 1) * g).clamp(0, 1)

    made = fl.attacks.recorded(attack, norm="l2")
    trace = fl.trace(model, x, y, attack=made, controls=["line-to-end", "gaussian-noise"], bounds=(0, 1))
    found = trace.result("l2")
    np.testing.assert_allclose(trace.result("l2", path="line-to-end"), found, rtol=1e-6)
    noise = trace.result("l2", path="gaussian-noise")
    assert (noise <= found * (1 + 1e-6)).all() and (noise > 0.5 * found).all()
    assert trace.layers["loss_change"].null_count == 0


@pytest.mark.parametrize("kind", ["rows", "best", "nothing"])
def test_the_clean_input_comes_first(kind: str) -> None:
    def attack(victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        if kind == "nothing":
            return
        here = victim(batch.x, batch.y, final=True)
        here.rows, here.kind = (EVEN, ITERATE) if kind == "rows" else (None, BEST)
        yield here

    with pytest.raises(AttackError, match="clean input"):
        fl.trace(net(), *data(), attack=attack)


class Branching(nn.Module):
    """A head that does more than W·a + b where the inputs are bright."""

    def __init__(self, bright: float) -> None:
        super().__init__()
        self.head, self.bright = nn.Linear(4, 3), bright

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(x)
        return 2 * z if float(x.detach().mean()) > self.bright else z


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_head_that_does_more_at_some_step_is_said_of_whichever_step(step: int) -> None:
    x = torch.full((5, 4), 0.1)
    points = torch.stack([x + 0.1 * k for k in range(4)])
    model = Branching(0.05 + 0.1 * step).eval()
    with pytest.raises(LayerError, match=r"head's logits W·a \+ b differ"):
        fl.trace(model, x, model(x).argmax(1), attack=fl.attacks.along(points), images="none")
    fl.trace(Branching(1.0).eval(), x, model(x).argmax(1), attack=fl.attacks.along(points), images="none")
