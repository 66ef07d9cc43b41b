"""Which sample is in which row of which call: what a hook saw of an attack, sorted into one path per sample.

A library calls the model on batches of its own making: it drops the samples that are fooled, takes them one at a
time, or makes several calls a step. Every row is given to the sample that it lies nearest to; where that is not
beyond doubt, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

MARGIN = 1.25
"""The nearest sample must be nearer by this factor than the next one."""
SLACK = 1.5
"""The rows of the call before stay theirs unless another sample is nearer by this factor."""


class Call(NamedTuple):
    """One call of the model: its input on the CPU, and whether the attack took a gradient on it."""

    x: Tensor
    gradient: bool


class UnmappableError(Exception):
    """Rows that cannot be given to samples; the message says which and why."""


@dataclass
class _Near:
    """Where each sample was seen: its clean input and its latest iterate, flattened ``[n, d]``."""

    clean: Tensor
    latest: Tensor

    def distances(self, rows: Float[Tensor, "m d"]) -> Float[Tensor, "m n"]:
        """The distance of each row to each sample; inf where a row is not finite."""
        # Exact differences: the usual expansion of the square loses those of almost equal images.
        exact = "donot_use_mm_for_euclid_dist"
        near = torch.cdist(rows, self.clean, compute_mode=exact)
        if self.latest is not self.clean:
            near = torch.minimum(near, torch.cdist(rows, self.latest, compute_mode=exact))
        return near.nan_to_num(nan=torch.inf)


def paths(
    calls: Sequence[Call], clean: Float[Tensor, "n ..."], *, calls_per_step: int = 1
) -> list[list[Float[Tensor, ...]]]:
    """The iterates of each sample, the clean input left out.

    Args:
        calls: in the order in which they were made; those without a gradient are probes, not steps.
        clean: the batch, on the CPU.
        calls_per_step: of the calls with a gradient, the first of every so many is the iterate; 0: calls on the
            same inputs, one after the other, are one step.

    Raises:
        UnmappableError: a row could be of more than one sample.
    """
    steps = [call.x for call in calls if call.gradient]
    if calls_per_step == 0:
        moves = [k for k in range(len(steps)) if k == 0 or not torch.equal(steps[k], steps[k - 1])]
        steps, calls_per_step = [steps[k] for k in moves], 1
    if len(steps) % calls_per_step:
        raise UnmappableError(
            f"{len(steps)} calls with a gradient are no multiple of calls_per_step = {calls_per_step}"
        )
    out: list[list[Tensor]] = [[] for _ in clean]
    flat = clean.flatten(1).double()
    near, before = _Near(flat, flat), torch.arange(len(clean))
    for number, x in enumerate(steps[::calls_per_step]):
        rows = x.flatten(1).double()
        if len(clean) == 1:
            # Alone: every row is of this sample. Of several in one call (copies, neighbours) the first is taken, unless
            # it is the clean input, which some attacks pass beside the iterate.
            out[0].append(next((row for row in x if not torch.equal(row, clean[0])), x[0]))
            continue
        before = owners(rows, near, before, number)
        if len(before) == len(clean):
            near.latest = rows
        else:
            near.latest = near.latest.index_copy(0, before, rows)
        for row, sample in enumerate(before.tolist()):
            out[sample].append(x[row])
    # A first gradient is usually taken at the clean input, which is there already.
    return [path[1:] if path and torch.equal(path[0], clean[i]) else path for i, path in enumerate(out)]


def owners(rows: Float[Tensor, "m d"], near: _Near, before: Int[Tensor, " k"], number: int) -> Int[Tensor, " m"]:
    """The sample of each row, ascending.

    Raises:
        UnmappableError: more rows than samples, rows out of order, or two samples about equally near.
    """
    n, m = len(near.clean), len(rows)
    if m > n:
        raise UnmappableError(f"step {number} calls the model on {m} rows for {n} samples")
    distance = near.distances(rows)
    nearest, best = distance.argmin(1), distance.amin(1)
    for same in (before, torch.arange(n)):
        # The same samples as in the call before, or all of them: their number and their order say so, and so,
        # if less sharply, do their distances. Without this, wide random starts could not be told apart.
        if m == len(same) and (distance[torch.arange(m), same] <= SLACK * best).all():
            return same
    if m == n:
        raise UnmappableError(f"step {number} calls the model on the samples in another order")
    if (nearest[1:] <= nearest[:-1]).any():
        raise UnmappableError(f"step {number} calls the model on {m} of {n} samples in an order that cannot be told")
    second = distance.scatter(1, nearest[:, None], torch.inf).amin(1)
    if not (second > MARGIN * best).all():
        unclear = int((second <= MARGIN * best).sum())
        raise UnmappableError(f"step {number}: {unclear} of {m} rows lie about equally near to two samples")
    return nearest
