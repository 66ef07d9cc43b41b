"""Square against the published code: its parts exactly, its success within chance; and what every attack keeps to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn

import flatlens as fl
from flatlens.attacks import square
from flatlens.attacks.balls import BALLS
from flatlens.attacks.objectives import margin
from flatlens.attacks.square import Square, _bump, _pair, _share
from flatlens.errors import AttackError, FlatlensError
from flatlens.specs.run import RunSpec, from_dict
from flatlens.victims.images import ImageVictim
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass
from tests.attacks.test_attacks import data, net
from tests.expected import cautioned

EPS = {"linf": 0.1, "l2": 0.7}
SHAPES = {
    "vector": (7,),
    "sequence": (2, 9),
    "image": (1, 8, 8),
    "wide": (3, 4, 11),
    "tall": (2, 9, 1),
    "pixel": (2, 1, 1),
    "video": (1, 2, 4, 4),
}


def linear(shape: tuple[int, ...], classes: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(6, *shape, generator=g, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(model[1].weight.shape, generator=g, dtype=torch.float64))
    model.eval()
    return model, x, model(x).argmax(1)


def walked(
    model: nn.Module, x: Tensor, y: Tensor, attack: Square, seed: int = 0, ids: Tensor | None = None
) -> list[Pass]:
    victim = ImageVictim(model, x, layers=())
    ids = torch.arange(len(x)) if ids is None else ids
    return list(attack(victim, Batch(victim.place(x), y, ids), Noise(seed)))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_point_lies_in_the_ball_and_the_bounds(norm: str, shape: tuple[int, ...]) -> None:
    model, x, y = linear(shape)
    passes = walked(model, x, y, Square(EPS[norm], norm, steps=90))
    assert [here.kind for here in passes] == ["iterate"] * 91 + ["best"]
    assert torch.equal(passes[0].x, x)
    for here in passes:
        assert BALLS[norm].size(here.x.detach() - x).max() <= EPS[norm] * (1 + 1e-12)
        assert here.x.min() >= 0 and here.x.max() <= 1
    assert any(not torch.equal(here.x, passes[1].x) for here in passes[2:-1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_best_is_the_best_of_all_that_were_tried(norm: str) -> None:
    model, (x, y) = net(), data()
    *passes, best = walked(model, x, model(x).argmax(1), Square(EPS[norm] / 2, norm, steps=80))
    y = passes[0].y
    margins = torch.stack([margin(here.logits, y) for here in passes]).detach()
    torch.testing.assert_close(margin(best.logits, y).detach(), margins.amax(0), rtol=0, atol=1e-12)
    assert (margins[2:].amax(0) > margins[1]).any()  # the search gets further than its start


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sample_walks_alike_in_any_batch(norm: str) -> None:
    model, (x, y) = net(), data()
    attack = Square(EPS[norm], norm, steps=70)
    together = walked(model, x, y, attack)
    alone = walked(model, x[4:6], y[4:6], attack, ids=torch.tensor([4, 5]))
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.x[4:6], b.x, rtol=0, atol=1e-12)
    other = walked(model, x, y, attack, seed=1)
    assert not torch.equal(other[1].x, together[1].x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_who_is_fooled_is_left_out_where_that_is_asked(norm: str) -> None:
    model, x, y = digits_cnn(20)
    x = x.double()
    model = model.double()
    whole = walked(model, x, y, Square(EPS[norm], norm, steps=60))
    short = walked(model, x, y, Square(EPS[norm], norm, steps=60, until_fooled=True))
    assert short[-1].rows is None and short[-1].kind == "best"
    fooled = [here.logits.argmax(1) != y for here in (whole[-1], short[-1])]
    assert torch.equal(*fooled) and fooled[0].sum() > 0
    # Until it is fooled, a sample walks as it would in the whole.
    for step, here in enumerate(short[1:-1], start=1):
        rows = torch.arange(len(x)) if here.rows is None else here.rows
        torch.testing.assert_close(here.x, whole[step].x[rows], rtol=0, atol=1e-12)
    sizes = [len(here.x) for here in short[1:-1]]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < len(x)


def digits_cnn(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    digits = fl.datasets.load("flatlens:digits").take(range(n))
    model = fl.models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    return model, torch.from_numpy(digits.x), torch.from_numpy(digits.y)


def published(**settings: object) -> torchattacks.Square:
    return torchattacks.Square(net().float(), **settings)


@pytest.mark.parametrize("queries", [200, 5000, 10_000])
def test_squares_shrink_as_published(queries: int) -> None:
    theirs = published(n_queries=queries)
    assert [_share(step, queries) for step in range(queries)] == [theirs.p_selection(step) for step in range(queries)]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_bumps_are_the_published_ones(side: int) -> None:
    like, theirs = torch.empty(0), published()
    rectangles = theirs.eta_rectangles(side, side + 2)
    mine = _bump(side, side + 2, like)
    torch.testing.assert_close(mine / mine.norm(), rectangles)
    pair = theirs.eta(side)
    either = [_pair(side, side, like, turned=turned) for turned in (False, True)]
    # Where there is but one half, its sign is drawn anyway.
    assert any(torch.allclose(s * one, pair, atol=1e-6) for one in either for s in ((1, -1) if side == 1 else (1,)))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_is_as_strong_as_the_published_code_and_stronger_where_that_never_reaches(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published squares never touch the last row and column: placed so, ours succeed as often, within chance."""
    model, x, y = digits_cnn(200)

    def left(logits: Tensor) -> float:
        return float((logits.argmax(1) == y).float().mean())

    attack = Square(EPS[norm], norm, steps=250, until_fooled=True)
    mine = left(walked(model, x, y, attack)[-1].logits)
    anywhere = square._Search._window

    def placed_as_published(self: Any, step: int, numbers: Tensor, **how: Any) -> Any:
        window = anywhere(self, step, numbers, **how)
        top, left = ((numbers + 1).T[:2] / 2 * (8 - window.height)).long()
        return window._replace(top=top, left=left)

    monkeypatch.setattr(square._Search, "_window", placed_as_published)
    alike = left(walked(model, x, y, attack)[-1].logits)
    theirs = left(model(torchattacks.Square(model, norm=norm.capitalize(), eps=EPS[norm], n_queries=250)(x, y)))
    assert 0.4 < theirs < 0.8 and abs(alike - theirs) <= 0.05
    assert mine < theirs - 0.03


@cautioned("flat-because-confident", "low-accuracy", "not-converged", "silent-success")
def test_is_traced_like_any_other_attack() -> None:
    model, (x, y) = net(), data()
    trace = fl.trace(model, x, y, attack=Square(0.3, steps=6), controls="all", images="all")
    assert trace.spec["attack"] == "square" and trace.matrix("loss").values.shape == (9, 7)
    found, own = trace.result("prediction"), model(torch.from_numpy(trace.x_adv).double()).argmax(1)
    assert (found == own.numpy()).all()


def test_a_specification_names_it() -> None:
    spec = from_dict({"model": "flatlens:digits-cnn", "data": "flatlens:digits", "attack": "square"}).resolved()
    assert (spec.objective, spec.step_size, spec.steps) == ("margin", None, 40)
    RunSpec("m", "d", attack="square", objective="margin", restarts=2, norm="l2", eps=0.5)
    for bad in ({"objective": "ce"}, {"momentum": 1.0}, {"norm": "l1", "eps": 1.0}):
        with pytest.raises(FlatlensError, match="square"):
            RunSpec("m", "d", attack="square", **bad)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"norm": "l1"}, "no norm 'l1'; attack square has: linf, l2"),
        ({"eps": 0.0}, "eps = 0.0: needs a number above 0"),
        ({"steps": 0}, "steps = 0: needs a whole number of at least 1"),
        ({"restarts": 0}, "restarts = 0: needs a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be(bad: dict[str, object], said: str) -> None:
    with pytest.raises(AttackError, match=said):
        Square(**bad)
