"""Defended training from Python: the four axes as objects, and the loop that takes them.

``fl.defences.fit(model, x, y, inner=PGD(steps=7), loss=TRADES(beta=6), weights=AWP(0.005), penalty=FAM(0.01), rng=g)``
"""

from __future__ import annotations

from typing import Any

from flatlens.specs.defences import AXES, chosen
from flatlens.specs.train import TrainSpec
from flatlens.training import inner, losses, penalties, weights
from flatlens.training.fit import History
from flatlens.training.fit import train as fit
from flatlens.training.inner import FGSM, PGD, Free, Gan
from flatlens.training.losses import MART, TRADES, Adversarial, Mix
from flatlens.training.penalties import CLEAN, FAM, InputGradient, Spectral
from flatlens.training.weights import ASAM, AWP, SAM

__all__ = [
    "ASAM",
    "AWP",
    "FAM",
    "FGSM",
    "MART",
    "PGD",
    "SAM",
    "TRADES",
    "Adversarial",
    "Free",
    "Gan",
    "History",
    "InputGradient",
    "Mix",
    "Spectral",
    "fit",
]


def of(recipe: TrainSpec) -> dict[str, Any]:
    """The arguments of `fit` that a recipe's axes are."""
    norm = recipe.norm or inner.LINF
    attack, loss, step, added = (chosen(axis, getattr(recipe, axis)) for axis in AXES)
    return {
        "inner": inner.named(attack[0], steps=recipe.steps, norm=norm) if attack else None,
        "loss": losses.named(loss[0]) if loss else None,
        "weights": weights.named(step[0]) if step else None,
        "penalty": tuple(penalties.named(one, norm) for one in added),
    }


def passes(recipe: TrainSpec) -> float:
    """Forward passes with their backward passes of one sample in an epoch of a recipe's training."""
    axes = of(recipe)
    attack, loss = axes["inner"], axes["loss"] or Adversarial()
    of_step = 1.0 if attack is None else float(loss.passes)
    if of_step == 1 and attack is not None and any(p.at == CLEAN for p in axes["penalty"]):
        of_step = 2.0  # clean inputs for the penalty alone
    if any(p.slope for p in axes["penalty"]):
        of_step *= 2
    if axes["weights"] is not None:
        of_step *= 2
    if attack is None:
        return of_step
    # An answer without a gradient is a third of a pass with one.
    return float((attack.passes + loss.answers / 3 + of_step) * attack.replays)
