"""The attack's paths of a few samples, walked once more with all their points.

A run keeps its inputs at a few steps only. An attack's noise belongs to its samples, and the batch is the same one, so
that the points are those which the tables tell of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from flatlens.attacks.protocol import Walks
from flatlens.measure.job import Job, other_image
from flatlens.records.schema import ATTACK, BEST
from flatlens.victims.noise import Noise
from flatlens.victims.precision import exact_arithmetic
from flatlens.victims.protocol import Batch, Pass

LINE = "line-to-other-class"


class Point(NamedTuple):
    """A point of a path, on the CPU, in the victim's dtype.

    The input ``[…]``, the logits ``[K]``, and the input of the layer that was asked for, ``[i]``; None where none was.
    """

    x: Tensor
    logits: Tensor
    features: Tensor | None


class Walked(NamedTuple):
    """One sample's paths.

    Its row in the job's data, the attack's points, those of `LINE` where it is walked, and the index in the pool of the
    image that it leads to.
    """

    row: int
    attack: list[Point]
    line: list[Point]
    other: int | None


def rewalk(job: Job, rows: Sequence[int], layer: str | None) -> Iterator[Walked]:
    """Walk the first run of the attack, and `LINE` where it is a control, on the batches that have these samples.

    Args:
        job: prepared.
        rows: of the job's data, ascending.
        layer: whose inputs are kept; None keeps none.

    Yields:
        what was walked for each of the samples, in their order.
    """
    job.fit()
    for index, group in groupby(rows, lambda row: row // job.batch_size):
        wanted = list(group)
        local = torch.tensor(wanted) - index * job.batch_size
        job.victim.where.batch = index + 1
        batch = job.batch(index)
        walks, _ = job.attack.walker(job.model, batch, job.victim.bounds)
        with exact_arithmetic(job.victim.device):
            paths = _points(job, walks, batch, local, ATTACK, layer)
            lines: Mapping[int, list[Point]] = {}
            if LINE in job.controls:
                # A point of the line depends on its own sample alone: no more than these are needed.
                few = Batch(batch.x[local], batch.y[local], batch.ids[local], other=_of(batch.other, local))
                lines = _points(job, job.controls[LINE], few, torch.arange(len(local)), LINE, None)
        for i, row in enumerate(wanted):
            other = None
            if LINE in job.controls:
                other = other_image(job.pool_y, int(job.y[row]), int(job.ids[row]), Noise(job.seed))
            yield Walked(row, paths[i], lines.get(i, []), other)


def _of(values: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if values is None else values[rows.to(values.device)]


def _points(
    job: Job, walks: Walks, batch: Batch, local: Tensor, path: str, layer: str | None
) -> dict[int, list[Point]]:
    """Of the samples ``local`` of a batch, all points of one path, by their place in ``local``."""
    found: dict[int, list[Point]] = {i: [] for i in range(len(local))}
    job.victim.where.begin(path, 0)
    for here in walks(job.victim, batch, Noise(job.seed)):
        if here.kind == BEST:
            continue
        for i, at in _there(here, local):
            features = None if layer is None else here.taps[layer].input[at].detach().cpu().clone()
            found[i].append(Point(here.x[at].detach().cpu().clone(), here.logits[at].detach().cpu().clone(), features))
    job.victim.where.end()
    return found


def _there(here: Pass, local: Tensor) -> Iterator[tuple[int, int]]:
    """Which of the samples ``local`` of the batch are in a pass, and where."""
    if here.rows is None:
        yield from enumerate(local.tolist())
        return
    place = {row: at for at, row in enumerate(here.rows.tolist())}
    yield from ((i, place[row]) for i, row in enumerate(local.tolist()) if row in place)
