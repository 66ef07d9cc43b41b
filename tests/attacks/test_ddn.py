"""DDN against the distance to known boundaries."""

from __future__ import annotations

import foolbox
import numpy as np
import pytest
import torch
from foolbox.attacks import DDNAttack
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import AttackError
from tests.expected import cautioned

WIDE = (-100.0, 100.0)


def linear(shape: tuple[int, ...], classes: int, seed: int) -> tuple[nn.Module, Tensor, Tensor, np.ndarray]:
    """A linear classifier, inputs, its own labels, and the distance of each to the nearest boundary."""
    g = torch.Generator().manual_seed(seed)
    features = int(np.prod(shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, classes)).double()
    x = torch.rand(24, *shape, generator=g, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, features, generator=g, dtype=torch.float64))
        model[1].bias.copy_(torch.randn(classes, generator=g, dtype=torch.float64))
        z = model(x)
    y, w = z.argmax(1), model[1].weight.detach()
    lead = z.gather(1, y[:, None]) - z
    distance = lead / (w[y].unsqueeze(1) - w).norm(dim=2)
    distance[torch.arange(len(x)), y] = torch.inf
    return model.eval(), x, y, distance.amin(1).numpy()


SHAPES = [((2,), 2), ((784,), 2), ((10,), 3), ((784,), 10), ((1, 8, 8), 10), ((3, 32, 32), 10)]


@cautioned("unnormalised")
@pytest.mark.parametrize(("shape", "classes"), SHAPES)
def test_lands_at_the_analytic_distance(shape: tuple[int, ...], classes: int) -> None:
    model, x, y, distance = linear(shape, classes, seed=len(shape) + classes)
    # Between more than two classes the cross-entropy's gradient does not point at the nearest boundary.
    for objective in ("ce", "margin") if classes == 2 else ("margin",):
        trace = fl.trace(model, x, y, attack=fl.attacks.DDN(steps=300, objective=objective), bounds=WIDE)
        assert trace.result("flipped").all()
        ratio = trace.result("l2") / distance
        assert ratio.min() >= 1 - 1e-9
        assert ratio.max() <= 1.05


@pytest.mark.parametrize(("shape", "classes"), SHAPES)
def test_is_as_near_as_foolbox(shape: tuple[int, ...], classes: int) -> None:
    model, x, y, _ = linear(shape, classes, seed=len(shape) + classes)
    mine = fl.trace(model, x, y, attack=fl.attacks.DDN(steps=100)).result("l2")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    theirs = DDNAttack(steps=100).run(wrapped, x, foolbox.criteria.Misclassification(y))
    missed = (model(theirs).argmax(1) == y).numpy()
    theirs = torch.where(torch.from_numpy(missed), torch.inf, (theirs - x).flatten(1).norm(dim=1)).numpy()
    assert np.median(mine / theirs) <= 1.001
    assert (mine <= 1.05 * theirs).all()


def test_the_best_row_is_the_nearest_flipped_iterate() -> None:
    model, x, y, _ = linear((1, 8, 8), 10, seed=0)
    trace = fl.trace(model, x, y, attack=fl.attacks.DDN(steps=60))
    flipped, l2 = trace.matrix("flipped").values, trace.matrix("l2").values
    best = trace.matrix("l2", kind="best").values[:, -1]
    found = flipped.any(1)
    assert found.all()
    np.testing.assert_array_equal(best[found], np.where(flipped, l2, np.inf).min(1)[found])
    np.testing.assert_allclose(best, np.linalg.norm((trace.x_adv - x.numpy()).reshape(len(x), -1), axis=1), rtol=1e-5)
    assert trace.x_adv.min() >= 0 and trace.x_adv.max() <= 1
    assert "too-large" not in [c.code for c in trace.cautions]


@cautioned("unnormalised")
def test_targeted_crosses_to_the_target() -> None:
    model, x, y, distance = linear((10,), 3, seed=5)
    trace = fl.trace(model, x, y, attack=fl.attacks.DDN(steps=200, target="next"), bounds=WIDE)
    assert trace.result("flipped").all()
    np.testing.assert_array_equal(trace.result("prediction"), (y.numpy() + 1) % 3)
    assert (trace.result("l2") >= distance * (1 - 1e-9)).all()


@cautioned("probabilities", "zero-gradient")
def test_where_nothing_flips_the_last_iterate_is_the_result() -> None:
    model = nn.Linear(4, 2).eval()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.full((3, 4), 0.5)
    trace = fl.trace(model, x, torch.zeros(3, dtype=torch.long), attack=fl.attacks.DDN(steps=5), images="all")
    assert not trace.result("flipped").any()
    last = trace.images.x[(trace.images.step == 5)].reshape(3, 2, 4)
    np.testing.assert_array_equal(last[:, 0], last[:, 1])
    # The gradient is 0: directions are random, as published, and belong to the sample.
    again = fl.trace(model, x[1:], torch.zeros(2, dtype=torch.long), attack=fl.attacks.DDN(steps=5))
    assert not np.array_equal(trace.x_adv, x.numpy())
    np.testing.assert_array_equal(trace.x_adv[:2], again.x_adv)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gamma": 1}, "gamma = 1: needs a number between 0 and 1"),
        ({"init_norm": 0}, "init_norm = 0: needs a number above 0"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_says_what_is_wrong(settings: dict[str, object], said: str) -> None:
    with pytest.raises(AttackError, match=said):
        fl.attacks.DDN(**settings)  # type: ignore[arg-type]
