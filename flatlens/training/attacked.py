"""The attacks that robustness is judged by, run one after the other on batches of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlens.attacks.apgd import APGD
from flatlens.attacks.balls import ball
from flatlens.attacks.gradient import PGD
from flatlens.attacks.objectives import objective
from flatlens.attacks.protocol import Walks, stated
from flatlens.attacks.square import Square
from flatlens.hessian.head import Head
from flatlens.specs.catalogue import QUERIES
from flatlens.victims.layers import HEAD, as_logits
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim

PGD_STEPS, APGD_STEPS, TARGETS = 20, 40, 3
LEAST_FOR_DLR = 4
"""Classes from which on the difference of logits ratio is used: its targeted form needs four."""
CROSS_ENTROPY = ("pgd", "apgd_ce")
"""Attacks on the cross-entropy, whose gradient vanishes where the softmax saturates."""
SCALE_FREE = ("apgd_t",)
"""An attack of as many steps in all, on an objective that the scale of the logits does not change."""
DUAL = {"linf": "l1", "l2": "l2"}
"""The norm in which a gradient says how much a perturbation of size 1 changes, by the norm of the perturbation."""
QUERY = 1 / 3
"""A pass without its backward pass, as a share of one with it."""


class Suite(NamedTuple):
    """The attacks by name, and in words."""

    attacks: Mapping[str, Walks]
    words: Mapping[str, str]


def suite(eps: float, norm: str, classes: int, queries: int = QUERIES) -> Suite:
    """The attacks for a model of so many classes.

    Fewer than four classes have no targeted difference of logits ratio: there all that would ascend it ascends the
    margin, which the scale of the logits changes in size but not in direction.
    """
    loss = "dlr" if classes >= LEAST_FOR_DLR else "margin"
    targets = min(TARGETS, classes - 1)
    steps = (PGD_STEPS + APGD_STEPS) // targets
    attacks: dict[str, Walks] = {
        "pgd": PGD(eps, norm, PGD_STEPS, random_start=True),
        "apgd_ce": APGD(eps, norm, APGD_STEPS),
        "apgd_t": APGD(eps, norm, steps, loss, targets=targets),
        "square": Square(eps, norm, queries, until_fooled=True),
    }
    words = {
        "pgd": f"PGD-{PGD_STEPS} on the cross-entropy, random start",
        "apgd_ce": f"APGD-CE, {APGD_STEPS} steps",
        "apgd_t": f"APGD-T on targeted {loss}, {targets} {'target' if targets == 1 else 'targets'} × {steps} steps",
        "square": f"Square, {queries} queries without gradients",
    }
    return Suite(attacks, words)


def passes(classes: int, queries: int = QUERIES) -> int:
    """Passes of each sample that the whole suite takes, each with its backward pass."""
    found = suite(1.0, "linf", classes, queries).attacks
    gradients = sum(length(attack, classes) for name, attack in found.items() if name != "square")
    return 2 + gradients + round(queries * QUERY)


def length(attack: Walks, classes: int) -> int:
    """Passes of one attack on each sample, over all its runs."""
    known = stated(attack)
    # The clean input comes first; all but PGD have their best point once more.
    return (known.length + 1 + (not isinstance(attack, PGD))) * known.runs(classes)


class Outcome(NamedTuple):
    """What an attack did to some samples.

    Attributes:
        right: which are still classified as labelled, by the user's own model, ``[n]`` bool.
        loss: the cross-entropy at what the attack found, in nats, ``[n]`` float64.
        broken: for which the model or its gradient gave NaN on the way, ``[n]`` bool; they are not right.
    """

    right: Tensor
    loss: Tensor
    broken: Tensor


def attacked(
    attack: Walks,
    victim: Victim,
    batch: Batch,
    *,
    seed: int,
    right: Callable[[Tensor, Tensor], Tensor],
    tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run an attack on a batch, all its runs, and judge what it found.

    Args:
        attack: what walks.
        victim: the model made ready.
        batch: the samples.
        seed: of its noise.
        right: says of points ``[n, …]`` and labels ``[n]`` which are classified as labelled, ``[n]`` bool.
        tick: called after each pass.
    """
    still = torch.ones(len(batch.x), dtype=torch.bool, device=batch.x.device)
    broken = torch.zeros_like(still)
    loss = torch.full_like(still, -torch.inf, dtype=torch.float64)
    for run in range(stated(attack).runs(victim.classes)):
        victim.where.begin("attack", run)
        for here in attack(victim, batch, Noise(seed, run)):
            broken[slice(None) if here.rows is None else here.rows.to(still.device)] |= _has_nan(here)
            end = here  # of every attack here the last pass is one of all samples
            tick()
        victim.where.end()
        still &= right(end.x.detach(), batch.y)
        loss = torch.maximum(loss, end.loss.detach().double())
    return Outcome(still & ~broken, loss, broken)


class Clean(NamedTuple):
    """What is known of clean inputs, each ``[n]``, float64 but for ``flat``.

    Attributes:
        loss: cross-entropy, in nats.
        margin: by how many logits the label leads.
        slope: ‖∂margin/∂x‖ in the dual norm: how much of the lead a change of size 1 can take, to first order.
        flat: whether the gradient of the cross-entropy by the input is exactly 0, bool.
        kappa: the head's relative flatness; NaN where the model has no head in closed form.
    """

    loss: Tensor
    margin: Tensor
    slope: Tensor
    flat: Tensor
    kappa: Tensor


def clean(victim: Victim, batch: Batch, norm: str, head: Head | None) -> Clean:
    """Measure the clean inputs of a batch: two passes, for the gradients of two objectives.

    Args:
        victim: the model made ready, its head probed where it has one.
        batch: the samples.
        norm: of the perturbations; slopes are in its dual.
        head: the head's curvature; None where there is none.
    """
    here = victim(batch.x, batch.y)
    loss = here.loss.detach().double()
    kappa = torch.full_like(loss, torch.nan)
    if head is not None:
        kappa = head(here.taps[HEAD].input, here.y, logits=here.logits).relative_flatness.to(loss.device)
    flat = (here.grad(lambda one: one.loss) == 0).flatten(1).all(1)
    again, lost = victim(batch.x, batch.y), objective("margin")
    margin = -lost(again).detach().double()
    slope = ball(DUAL[norm]).size(again.grad(lost).double())
    return Clean(loss, margin, slope, flat, kappa)


def _has_nan(here: Pass) -> Tensor:
    return here.logits.detach().isnan().any(1)


def judge(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Says which points the user's own model, unfolded and as it was given, classifies as labelled; NaN never is.

    Args:
        model: the user's, in eval mode.
    """

    def right(x: Tensor, y: Tensor) -> Tensor:
        own = next(model.parameters(), x)
        with torch.no_grad():
            logits = as_logits(model(x.to(own.device, own.dtype))).to(x.device)
        return (logits.argmax(1) == y) & ~logits.isnan().any(1)

    return right


def only(batch: Batch, rows: Tensor) -> Batch:
    """The samples of a batch where ``rows`` ``[n]`` is true."""
    return Batch(batch.x[rows], batch.y[rows], batch.ids[rows.cpu()])


def spread(values: Tensor, rows: Tensor, otherwise: bool | float) -> Tensor:
    """Values of some samples among all ``[n]``: ``otherwise`` where ``rows`` is false."""
    whole = torch.full((len(rows),), otherwise, dtype=values.dtype, device=values.device)
    whole[rows] = values
    return whole
