"""Fits a generator to data: snapshots while it learns, and new starts where it collapses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.attacks.balls import ball
from flatlens.attacks.generator import Adversary, Aim, Classifier, Generator
from flatlens.attacks.objectives import ascended
from flatlens.errors import AttackError
from flatlens.progress import Progress, Report
from flatlens.victims.noise import stream

Points = Float[Tensor, "n *shape"]

BATCH, BATCHES = 64, 8
"""Inputs per step, and how many steps an epoch has at least: of few inputs there are fewer in a step."""
WATCHED = 512
"""On so many inputs at most it is looked whether the generator learns."""
LEAST_SHARE, ALIKE = 0.1, 0.7
"""It has collapsed where it fools no more than this share of what FGSM fools, or where the mean cosine of two inputs'
perturbations exceeds this, and FGSM's does not, as it does where one direction leads all inputs over a boundary. Seen
on digits: 0.05 … 0.2 where it had learnt, 0.74 where it had collapsed."""
STARTS, SLOWER = 4, 3.0
"""How often it begins at most, each time with a learning rate so many times lower."""
TIMED = 3
"""Steps that the cost of a training is estimated from."""
LOOK, EARLIEST = 0.25, 50
"""After this share of the training it is looked whether it learns, and not before so many steps: all start slowly."""


class Judged(NamedTuple):
    """How a generator does on some inputs.

    Attributes:
        fooled: inputs that it fools.
        of: among so many, which do not fool the classifier by themselves.
        cosine: mean cosine between the perturbations of two of them; 0 where there are no two.
    """

    fooled: int
    of: int
    cosine: float


@dataclass(frozen=True)
class Fitted:
    """A generator that has learnt.

    Attributes:
        snapshots: its weights after equal shares of the training, the last at the end.
        training: how it does at the end on all that it learnt from.
        fgsm: how FGSM does on those that were watched.
        lr: the learning rate of the start that this is.
        starts: how often it began.
        collapsed: whether it has collapsed all the same.
    """

    snapshots: tuple[Mapping[str, Tensor], ...]
    training: Judged
    fgsm: Judged
    lr: float
    starts: int
    collapsed: bool


def fit(
    model: Classifier,
    x: Points,
    y: Int[Tensor, " n"],
    *,
    aim: Aim,
    steps: int,
    epochs: int,
    seed: int,
    target: Int[Tensor, " n"] | None = None,
    place: Callable[[Tensor], Tensor] = lambda part: part,
    generator: Callable[..., nn.Module] = Generator,
    progress: Report | None = None,
) -> Fitted:
    """Let a generator learn to fool ``model`` on ``x``; Adam, its learning rate falling to 0 along a cosine.

    After a quarter of the training, and at its end, it is looked whether it has collapsed: it fools next to nobody,
    or perturbs all inputs alike, though FGSM does not. Then it begins anew with other first weights and a third of the
    learning rate, at most three times. Where every start collapses, the one that came to an end and fools most is kept.

    Args:
        model: from inputs to logits; not changed.
        x: what it learns from.
        y: labels.
        aim: what it is to learn.
        steps: how many snapshots are kept.
        epochs: passes over ``x``.
        seed: of first weights, the order of the inputs, and noise.
        target: the labels wanted by a targeted attack.
        place: puts inputs where, and in the dtype in which, ``model`` computes.
        generator: makes another generator than `Generator`.
        progress: called after each step.

    Raises:
        AttackError: there are fewer than two inputs, or fewer optimiser's steps than snapshots, or the loss is not
            finite.
    """
    if len(x) < 2:
        raise AttackError(f"advgan learns from many inputs, and is given {len(x)}; fit it on at least 2")
    size, batches = sizes(len(x))
    total = epochs * batches
    if steps > total:
        raise AttackError(
            f"steps = {steps}: the generator learns in {total} steps of its own ({epochs} epochs of {batches}); "
            f"give at most {total}, or at least {-(-steps // batches)} epochs"
        )
    data = _Data(model, x, y, target, place)
    watched = data.some(torch.randperm(len(x), generator=stream(seed, "advgan-watched"))[:WATCHED])
    fgsm = watched.judged(lambda here, y, target: _fgsm(model, here, y, target, aim))
    looks = {min(max(EARLIEST, round(LOOK * total)), total), total}
    kept = {(k * total) // steps for k in range(1, steps + 1)}
    best: tuple[Judged, Adversary, Fitted] | None = None
    for start in range(STARTS):
        rng, last = stream(seed, "advgan", start), start == STARTS - 1
        adversary = Adversary(replace(aim, lr=aim.lr / SLOWER**start), x.shape[1:], rng, place(x[:1]), generator)
        snapshots: list[Mapping[str, Tensor]] = []
        collapsed = False
        for done, index in enumerate(_order(len(x), size, epochs, rng), 1):
            adversary.slow((done - 1) / total)
            part = data.some(index)
            loss = adversary.step(model, part.x, part.y, part.target)
            if done in kept:
                snapshots.append(_weights(adversary.generator))
            if progress is not None:
                progress(Progress(done, total, f"the generator learns, loss {loss:.3g}"))
            if done in looks:
                own = watched.judged(lambda here, *_, by=adversary: by(here))
                collapsed = has_collapsed(own, fgsm)
                if collapsed and done < total and not last:
                    break
        else:
            if best is None or own.fooled > best[0].fooled or not collapsed:
                best = own, adversary, Fitted(tuple(snapshots), own, fgsm, adversary.aim.lr, start + 1, collapsed)
            if not collapsed:
                break
    assert best is not None  # the last start always comes to its end
    _, adversary, found = best
    return replace(found, training=data.judged(lambda here, *_: adversary(here)), starts=start + 1)


def _order(count: int, size: int, epochs: int, rng: torch.Generator) -> Iterator[Tensor]:
    """The inputs of each step, in an order that is drawn anew for each epoch."""
    for _ in range(epochs):
        yield from torch.randperm(count, generator=rng).split(size)


def sizes(count: int) -> tuple[int, int]:
    """How many of so many inputs are in a step, and how many steps an epoch has."""
    size = min(BATCH, -(-count // BATCHES))
    return size, -(-count // size)


def seconds(model: Classifier, x: Points, y: Int[Tensor, " n"], aim: Aim) -> float:
    """What a step takes, from `TIMED` of them on these inputs, which are placed."""
    adversary = Adversary(aim, x.shape[1:], stream(0, "advgan-timed"), x)
    adversary.step(model, x, y)  # slow for the first time
    began = time.perf_counter()
    for _ in range(TIMED):
        adversary.step(model, x, y)
    return (time.perf_counter() - began) / TIMED


def has_collapsed(own: Judged, fgsm: Judged) -> bool:
    """Whether a generator fools next to nobody, or perturbs all inputs alike, though FGSM does not."""
    vain = fgsm.fooled > 0 and own.fooled <= LEAST_SHARE * fgsm.fooled
    return vain or own.cosine > ALIKE >= fgsm.cosine


def is_collapsed(
    model: Classifier, attack: Callable[[Tensor], Tensor], x: Points, y: Int[Tensor, " n"], aim: Aim
) -> bool:
    """Whether a generator's attack has collapsed on some inputs, as `has_collapsed` has it."""
    data = _Data(model, x, y, None, lambda part: part)
    own = data.judged(lambda here, *_: attack(here))
    return has_collapsed(own, data.judged(lambda here, labels, target: _fgsm(model, here, labels, target, aim)))


class _Data:
    """Inputs with their labels and, in a targeted attack, the labels wanted; placed where the classifier computes."""

    def __init__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        place: Callable[[Tensor], Tensor],
    ) -> None:
        self._model, self._place = model, place
        self.x, self.y, self.target = x, y, target

    def some(self, index: Tensor) -> _Data:
        """Some of them, placed."""
        x = self._place(self.x[index])
        target = None if self.target is None else self.target[index].to(x.device)
        return _Data(self._model, x, self.y[index].to(x.device), target, self._place)

    def judged(self, attack: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Judged:
        """How an attack does on them."""
        fooled, of, unit, count = 0, 0, torch.zeros(self.x[0].numel(), dtype=torch.float64), 0
        for index in torch.arange(len(self.x)).split(WATCHED):
            part = self.some(index)
            there = attack(part.x, part.y, part.target)
            counted = ~part._fooled(part.x)
            of += int(counted.sum())
            fooled += int((part._fooled(there) & counted).sum())
            delta = (there - part.x)[counted].flatten(1).cpu().double()
            size = delta.norm(dim=1, keepdim=True)
            unit += (delta / size.clamp(min=torch.finfo(size.dtype).tiny)).sum(0)
            count += int((size > 0).sum())
        # The sum of all cosines is the squared length of the sum of all directions.
        pairs = count * (count - 1)
        return Judged(fooled, of, float(unit @ unit - count) / pairs if pairs else 0.0)

    def _fooled(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            predicted = self._model(x).argmax(1)
        return predicted != self.y if self.target is None else predicted == self.target


def _fgsm(model: Classifier, x: Tensor, y: Tensor, target: Tensor | None, aim: Aim) -> Tensor:
    """One step of eps along the steepest direction (Goodfellow et al. 2015)."""
    within = ball(aim.norm)
    here = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(ascended(aim.objective, model(here), y, target).sum(), here)
    return within.project(x + aim.eps * within.steepest(gradient), x, aim.eps, aim.bounds)


def _weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: held.detach().cpu().clone() for name, held in net.state_dict().items()}
