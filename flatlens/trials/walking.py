"""Attacks walked to their end on some samples: what they found, and whether the user's own model agrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flatlens.attacks.balls import column
from flatlens.attacks.objectives import fooled
from flatlens.attacks.protocol import Walks, stated
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Victim

Right = Callable[[Tensor, Tensor], Tensor]
"""Says of points ``[n, …]`` and labels ``[n]`` which are classified as labelled: `flatlens.training.attacked.judge`."""


class Walked(NamedTuple):
    """What an attack did to some samples, over all its runs.

    Attributes:
        kept: still classified as labelled, by the user's own model, at every point looked at, ``[n]`` bool.
        end: the last point, ``[n, …]``, of the first run that ended at a wrong label; of the last run where none did.
        ended: whether ``end`` is classified otherwise than labelled, ``[n]`` bool.
    """

    kept: Tensor
    end: Tensor
    ended: Tensor


def walked(
    attack: Walks,
    victim: Victim,
    batch: Batch,
    *,
    seed: int,
    right: Right,
    tick: Callable[[], None] = lambda: None,
) -> Walked:
    """Walk an attack and judge, beside its last point, the first one on its way that the victim took for another class.

    Args:
        attack: what walks.
        victim: the model made ready, in the precision that the attack is to have.
        batch: the samples.
        seed: of its noise.
        right: the user's own model's judgement.
        tick: called after each pass.
    """
    kept = torch.ones(len(batch.x), dtype=torch.bool, device=victim.device)
    ended, end = torch.zeros_like(kept), batch.x
    for run in range(stated(attack).runs(victim.classes)):
        victim.where.begin("attack", run)
        seen, first = torch.zeros_like(kept), batch.x.clone()
        for here in attack(victim, batch, Noise(seed, run)):
            rows = slice(None) if here.rows is None else here.rows.to(kept.device)
            new = fooled(here, None) & ~seen[rows]
            first[rows] = torch.where(column(new, here.x), here.x.detach(), first[rows])
            seen[rows] = seen[rows] | new
            last = here  # of every attack here the last pass is one of all samples
            tick()
        victim.where.end()
        wrong = ~right(last.x.detach(), batch.y)
        end = torch.where(column(ended, end), end, last.x.detach())
        ended = ended | wrong
        kept &= ~wrong & ~(seen & ~right(first, batch.y))
    return Walked(kept, end, ended)
