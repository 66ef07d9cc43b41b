"""What an attack ascends, per sample: functions of the logits, the label and, in a targeted attack, the target."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flatlens.errors import AttackError, unknown
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Pass, Victim

Logits = Float[Tensor, "n k"]
Objective = Callable[[Pass], Tensor]
# AutoAttack's guard against equal logits.
TINY = 1e-12


def objective(name: str, target: Int[Tensor, " n"] | None = None) -> Objective:
    """The objective called ``name``, to be ascended.

    Args:
        name: ``ce``, the cross-entropy of the label, or log p(target) where there is a target; ``dlr``, the difference
            of logits ratio; ``margin``, by how much the label has lost, or the target has won, in logits.
        target: the labels wanted, ``[n]``; None for an untargeted attack.

    Raises:
        AttackError: there is none of that name.
    """
    if name not in OBJECTIVES:
        raise AttackError(unknown("objective", name, OBJECTIVES, where="there are"))
    free, aimed = OBJECTIVES[name]
    if target is not None:
        return lambda here: aimed(here.logits, here.y, target)
    # The pass has its cross-entropy already where a probe asked for it.
    return (lambda here: here.loss) if name == "ce" else (lambda here: free(here.logits, here.y))


def ascended(
    name: str, logits: Logits, y: Int[Tensor, " n"], target: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """The objective called ``name`` at these logits, for whoever has no `Pass`."""
    free, aimed = OBJECTIVES[name]
    return free(logits, y) if target is None else aimed(logits, y, target)


def cross_entropy(logits: Logits, y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """−log p_y, in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def log_p_target(logits: Logits, y: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Log p_target, in nats; the label does not enter."""
    return -F.cross_entropy(logits, target, reduction="none")


def dlr(logits: Logits, y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6): −(z_y − max_{j≠y} z_j) / (z_π1 − z_π3).

    Invariant to shift and scale of the logits; positive where the label has lost.

    Raises:
        AttackError: fewer than three classes.
    """
    _need(logits, 3, "dlr")
    ordered = logits.sort(dim=1, descending=True).values
    return -_lead(logits, y) / (ordered[:, 0] - ordered[:, 2] + TINY)


def dlr_targeted(logits: Logits, y: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Targeted DLR (Croce & Hein 2020, eq. 7): −(z_y − z_t) / (z_π1 − (z_π3 + z_π4) / 2).

    Raises:
        AttackError: fewer than four classes.
    """
    _need(logits, 4, "targeted dlr")
    ordered = logits.sort(dim=1, descending=True).values
    ahead = _at(logits, y) - _at(logits, target)
    return -ahead / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + TINY)


def margin(logits: Logits, y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Max_{j≠y} z_j − z_y (Carlini & Wagner 2017): positive where the label has lost."""
    return -_lead(logits, y)


def margin_targeted(logits: Logits, y: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """z_t − max_{j≠t} z_j: positive where the target has won."""
    return _lead(logits, target)


OBJECTIVES = {
    "ce": (cross_entropy, log_p_target),
    "dlr": (dlr, dlr_targeted),
    "margin": (margin, margin_targeted),
}


def targets(
    wanted: int | str | None, victim: Victim, x: Tensor, y: Int[Tensor, " n"], ids: Int[Tensor, " n"], noise: Noise
) -> Int[Tensor, " n"] | None:
    """The label that each sample is to be given, ``[n]``.

    Args:
        wanted: a label, ``next``, ``random`` or ``least-likely``; None in an untargeted attack.
        victim: the model.
        x: the clean inputs, placed.
        y: their labels.
        ids: of the samples: they identify their noise.
        noise: what a random label is drawn by.

    Raises:
        AttackError: the model has no such label.
    """
    if wanted is None:
        return None
    if wanted == "next":
        return (y + 1) % victim.classes
    if wanted == "random":
        shift = [1 + noise.integer(int(i), victim.classes - 1, "target") for i in ids]
        return (y + torch.tensor(shift, device=y.device)) % victim.classes
    if wanted == "least-likely":
        return victim(x, y, final=True).logits.detach().argmin(1)
    if not str(wanted).isdigit() or int(wanted) >= victim.classes:
        raise AttackError(
            f"target {wanted}: this model has the labels 0 … {victim.classes - 1}, or next, random, least-likely"
        )
    return torch.full_like(y, int(wanted))


def fooled(here: Pass, target: Int[Tensor, " n"] | None) -> Tensor:
    """Where the attack has what it wants, ``[n]`` bool."""
    predicted = here.logits.detach().argmax(1)
    return predicted != here.y if target is None else predicted == target


def _lead(logits: Logits, y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return _at(logits, y) - others.amax(1)


def _at(logits: Logits, y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return logits.gather(1, y.unsqueeze(1)).squeeze(1)


def _need(logits: Logits, classes: int, what: str) -> None:
    if logits.shape[1] < classes:
        raise AttackError(
            f"objective {what} needs at least {classes} classes, this model has {logits.shape[1]}; "
            "use ce or margin instead"
        )
