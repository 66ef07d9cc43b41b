"""What is looked at after each epoch of a training, and the alarms that follow from it.

A training that fails does so quietly: against a one-step attack it learns to mask its gradients, and its accuracy on
attacked inputs rises all the while. A stronger attack on a few samples shows it in the epoch in which it happens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flatlens.errors import LayerError
from flatlens.hessian.training import MOST_CLASSES, head_flatness
from flatlens.training.inner import Gan, Inner, climb
from flatlens.training.losses import cross_entropy
from flatlens.training.passes import forward, head_of

STEPS = 10
"""Of the PGD that is watched with."""
PASSES = STEPS + 3
"""Passes of a watched sample: one for the gradients, the attack's, and the answers to FGSM and PGD."""
SHARE = 0.1
"""Of a training's passes that watching may take."""
FEWEST, MOST, PART = 64, 256, 16
"""Watched are a sixteenth of the samples, but at least 64 and at most 256."""

GAP, HALF = 0.15, 0.5
"""Catastrophic overfitting: PGD is so far below the training's own attack, and below half of it, at two looks running.
Held against FGSM instead, a network that is trained against PGD at a large radius would be told of while it still
begins to learn."""
STILL = 0.05
"""An attack stands still where so many samples have a gradient of exactly 0."""
FALL = 0.05
"""Robust overfitting: held-out samples are so far below the best epoch's in the end."""


OVERFITTED = "robust-overfitting"
"""An alarm that is one at the end alone: an epoch may be worse than the best, and a later one better."""


class Row(NamedTuple):
    """One epoch. What was not looked at in it is NaN.

    ``accuracy`` is that on the inputs trained with; the columns after it are of the watched samples: accuracy on
    clean inputs, under FGSM from the clean input and under PGD of 10 steps from a random start; mean and median of the
    head's relative flatness κ; ‖∂L/∂W‖ of the mean loss by all weights and the mean of ‖∂ℓ/∂x‖ by the inputs, both
    Euclidean; the share of samples with an input gradient of exactly 0. ``lr`` is that after the epoch, ``seconds``
    what it took. ``collapsed`` is 1 where the training's generator has collapsed, 0 where it has not.
    """

    epoch: int
    loss: float
    accuracy: float
    watched_accuracy: float = math.nan
    fgsm_accuracy: float = math.nan
    pgd_accuracy: float = math.nan
    flatness_mean: float = math.nan
    flatness_median: float = math.nan
    weight_gradient: float = math.nan
    input_gradient: float = math.nan
    zero_gradients: float = math.nan
    lr: float = math.nan
    seconds: float = math.nan
    collapsed: float = math.nan


class Alarm(NamedTuple):
    """Something that went wrong in a training: a code, the epoch it was seen in, and one line."""

    code: str
    epoch: int
    text: str


class Watch:
    """Looks at some samples.

    Args:
        x: the watched samples ``[n, …]``.
        y: their labels ``[n]``.
        eps: radius of the attacks.
        norm: ``linf`` or ``l2``.
        bounds: of valid inputs.
        every: epochs from one look to the next; the last epoch is always looked at.
        held_out: whether the samples are not trained on.
        attacked: whether the training is against an attack: then the best epoch is the best under PGD.
        seed: of the attack's random starts, the same at each look.
        tell: called with each alarm in the epoch in which it is first seen.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        eps: float,
        norm: str = "linf",
        bounds: tuple[float, float] = (0.0, 1.0),
        every: int = 1,
        held_out: bool = False,
        attacked: bool = True,
        seed: int = 0,
        tell: Callable[[Alarm], None] = lambda alarm: None,
    ) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._x, self._y, self._eps, self._norm, self._bounds = x, y, eps, norm, bounds
        self._every, self._held_out, self._seed = every, held_out, seed
        self._attacked, self._by = attacked, "pgd_accuracy" if attacked else "watched_accuracy"
        self._head: nn.Linear | None = None
        self._asked = False
        self.rows: list[Row] = []

    def look(
        self,
        model: nn.Module,
        epoch: int,
        loss: float,
        accuracy: float,
        lr: float,
        seconds: float,
        *,
        last: bool,
        inner: Inner | None = None,
    ) -> None:
        """After epoch ``epoch``, counted from 1: a row more. The model is left in eval mode, its weights untouched."""
        row = Row(epoch, loss, accuracy, lr=lr, seconds=seconds)
        if last or epoch % self._every == 0:
            row = Row(**row._asdict() | self._seen(model))
            if isinstance(inner, Gan):
                device = next(model.parameters()).device
                row = row._replace(collapsed=float(inner.has_collapsed(model, self._x.to(device), self._y.to(device))))
        self.rows.append(row)
        for alarm in self.alarms():
            if alarm.code not in self._told and (last or alarm.code != OVERFITTED):
                self._told.add(alarm.code)
                self._tell(alarm)

    @property
    def best(self) -> int:
        """The epoch that did best on the watched samples, the first of equals; 0 where none was looked at."""
        looked = [row for row in self.rows if not math.isnan(getattr(row, self._by))]
        return max(looked, key=lambda row: (getattr(row, self._by), -row.epoch)).epoch if looked else 0

    @property
    def is_best(self) -> bool:
        """Whether the last epoch is."""
        return bool(self.rows) and self.best == self.rows[-1].epoch

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": [tuple(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The rows, as they were."""
        self.rows = [Row(*row) for row in state["rows"]]
        self._told = {alarm.code for alarm in self.alarms()}

    def alarms(self) -> tuple[Alarm, ...]:
        """What the rows tell, the first epoch of each kind."""
        looked = [row for row in self.rows if not math.isnan(row.pgd_accuracy)]
        found = [*_still(looked), *_collapsed(looked)]
        if self._attacked:
            # What was not trained on is right less often for other reasons, too.
            found += _catastrophic(looked, "fgsm_accuracy" if self._held_out else "accuracy")
        if self._held_out and self._attacked:  # else the epoch kept is the best under no attack
            found += _overfitted(looked)
        return tuple(sorted(found, key=lambda alarm: alarm.epoch))

    def _seen(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        device = next(model.parameters()).device
        x, y = self._x.to(device), self._y.to(device)
        if not self._asked:
            self._head, self._asked = closed_head(model, x[:2]), True
        parameters = [p for p in model.parameters() if p.requires_grad]
        here = forward(model, x.detach().requires_grad_(True), y, self._head)
        value = cross_entropy(here.logits, y)
        slope, *gradients = torch.autograd.grad(value.sum(), [here.x, *parameters], allow_unused=True)
        assert slope is not None
        size = slope.flatten(1).norm(dim=1)
        whole = [g.norm() / len(x) for g in gradients if g is not None]
        kappa = torch.full((len(x),), torch.nan)
        if here.features is not None and here.head is not None:
            with torch.no_grad():
                kappa = head_flatness(here.logits, here.features, here.head.weight).cpu()

        def right(at: Tensor) -> float:
            with torch.no_grad():
                return float((forward(model, at, y).logits.argmax(1) == y).float().mean())

        def attack(steps: int, size: float, rng: torch.Generator | None) -> Tensor:
            return climb(
                model, x, lambda logits: cross_entropy(logits, y), eps=self._eps, steps=steps, size=size,
                norm=self._norm, bounds=self._bounds, rng=rng,
            )  # fmt: skip

        rng = torch.Generator().manual_seed(self._seed)
        return {
            "watched_accuracy": float((here.logits.argmax(1) == y).float().mean()),
            "fgsm_accuracy": right(attack(1, self._eps, None)),
            "pgd_accuracy": right(attack(STEPS, 2.5 * self._eps / STEPS, rng)),
            "flatness_mean": float(kappa.mean()),
            "flatness_median": float(kappa.quantile(0.5)),
            "weight_gradient": float(torch.stack(whole).norm()) if whole else math.nan,
            "input_gradient": float(size.mean()),
            "zero_gradients": float((size == 0).float().mean()),
        }


def watched(samples: int) -> int:
    """How many samples are watched of so many."""
    return min(samples, MOST, max(FEWEST, samples // PART))


def pace(samples: int, passes: float) -> int:
    """Epochs from one look to the next, so that watching takes at most `SHARE` of a training.

    Args:
        samples: that are trained on.
        passes: of each in an epoch, forward and backward.
    """
    return max(1, math.ceil(PASSES * watched(samples) / (SHARE * max(samples * passes, 1))))


def closed_head(model: nn.Module, example: Tensor) -> nn.Linear | None:
    """The head, where its flatness has a closed form; else None."""
    try:
        found = head_of(model, example)
    except LayerError:
        return None
    return found if 2 <= len(found.weight) <= MOST_CLASSES else None


def _catastrophic(looked: list[Row], under: str) -> list[Alarm]:
    """By the accuracy under the attack that is trained against, the column ``under``."""

    def failed(row: Row) -> bool:
        own = getattr(row, under)
        return bool(own - row.pgd_accuracy > GAP and row.pgd_accuracy < HALF * own)

    for before, row in itertools.pairwise(looked):
        if failed(before) and failed(row):
            return [
                Alarm(
                    "catastrophic-overfitting",
                    row.epoch,
                    f"catastrophic overfitting in epoch {row.epoch}: {100 * row.accuracy:.0f} % are right under the "
                    f"training's own attack, and of the watched samples FGSM {100 * row.fgsm_accuracy:.0f} %, "
                    f"PGD-{STEPS} {100 * row.pgd_accuracy:.0f} %; use --adversarial pgd",
                )
            ]
    return []


def _still(looked: list[Row]) -> list[Alarm]:
    for row in looked:
        if row.zero_gradients > STILL:
            return [
                Alarm(
                    "stands-still",
                    row.epoch,
                    f"attacks stand still from epoch {row.epoch} on: the gradient is 0 for "
                    f"{100 * row.zero_gradients:.0f} % of the watched samples; lower lr, or add --penalty fam",
                )
            ]
    return []


def _collapsed(looked: list[Row]) -> list[Alarm]:
    """At two looks running: every generator begins with one pattern for all."""
    for before, row in itertools.pairwise(looked):
        if before.collapsed == row.collapsed == 1:
            return [
                Alarm(
                    "collapsed",
                    row.epoch,
                    f"the generator has collapsed by epoch {row.epoch}: the classifier is trained against next to "
                    "nothing; lower the generator's lr, as in --adversarial gan?lr=0.002, or use --adversarial pgd",
                )
            ]
    return []


def _overfitted(looked: list[Row]) -> list[Alarm]:
    if not looked:
        return []
    best, last = max(looked, key=lambda row: row.pgd_accuracy), looked[-1]
    if best.pgd_accuracy - last.pgd_accuracy <= FALL:
        return []
    return [
        Alarm(
            OVERFITTED,
            last.epoch,
            f"robust overfitting: held-out PGD fell from {100 * best.pgd_accuracy:.0f} % (epoch {best.epoch}) to "
            f"{100 * last.pgd_accuracy:.0f} %; --keep best keeps that epoch",
        )
    ]
