"""Surfaces of a few samples: κ and the loss on planes of inputs and weights.

What is where in the file stands in docs/run-folder.md. An input plane costs a forward pass of each of its points, and
at other layers than the head K − 1 backward passes as well. The planes of the head's weight are in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flatlens.hessian.any_layer import CLOSED_FORM, AnyLayer
from flatlens.hessian.head import Head
from flatlens.hessian.softmax import cross_entropy, softmax
from flatlens.hessian.weight_plane import eigenvectors, over_plane, squared_distances
from flatlens.measure.job import Job
from flatlens.measure.planes import Plane, axis
from flatlens.measure.prepare import EXAMPLES, instrument
from flatlens.measure.rewalk import Point, Walked, rewalk
from flatlens.models import guard
from flatlens.records.chosen import spread
from flatlens.records.surfaces import (
    NOISE,
    OF_ANOTHER,
    OF_CLASS,
    SECOND_EIGENVECTOR,
    TO_CLEAN,
    TO_END,
    Surfaces,
)
from flatlens.records.trajectory import Trace
from flatlens.victims.images import ImageVictim
from flatlens.victims.memory import batch_that_fits, bytes_per_sample
from flatlens.victims.noise import Noise
from flatlens.victims.precision import exact_arithmetic, wide

SAMPLES = 12
AT_HEAD, ELSEWHERE = 41, 21
"""Points along an axis, at the head and at other layers, where each takes K − 1 backward passes."""
S_POINTS, T_POINTS = (np.arange(AT_HEAD) - 20) / 20, (np.arange(AT_HEAD) - 10) / 20
"""The points of weight planes: along U from −1 to 1 of its reach, along D from −½ to 1½; 0, and 1 of D, are exact."""
POOL = 256
"""Inputs to which distances are taken at a time."""

Arrays = dict[str, Any]


class Seen(NamedTuple):
    """Κ, loss in nats and prediction at some points, ``[n]`` each, on the CPU."""

    kappa: Tensor
    loss: Tensor
    prediction: Tensor


class Cost(NamedTuple):
    """Passes of a batch that the surfaces take, forward and backward."""

    forward: int
    backward: int


def surfaces(job: Job, trace: Trace) -> Surfaces | None:
    """The surfaces of a trace that the job has measured; None where no sample's path is finite.

    Raises:
        ModelError: the model fails at a point of a plane.
        ResourceError: memory ran out.
    """
    found = trace.valley()
    chosen = spread(found, SAMPLES)
    flips = dict(zip(found.sample[chosen].tolist(), found.flip_step[chosen].tolist(), strict=True))
    row_of = {int(sample): row for row, sample in reversed(list(enumerate(job.ids.tolist())))}
    with guard.net("while its surfaces are computed"):
        work = _Work(job)
        rows = sorted(row_of[sample] for sample in flips)
        made = [
            work.sample(walked, flips[int(job.ids[walked.row])])
            for walked in rewalk(job, rows, work.layer if work.closed else None)
            if _is_finite(walked)
        ]
    if not made:
        return None
    made.sort(key=lambda one: int(one["sample"]))
    names = ("way_path", "way_step", "way_at", "way_off")
    ways = {name: np.concatenate([one.pop(name) for one in made]) for name in names}
    counts = [one.pop("ways") for one in made]
    ways["way_row"] = np.repeat(np.arange(len(made), dtype=np.int32), counts)
    return Surfaces({name: np.stack([one[name] for one in made]) for name in made[0]} | ways)


def cost(job: Job) -> Cost:
    """What `surfaces` takes at most."""
    count, batches = min(SAMPLES, len(job.x)), min(SAMPLES, job.batches)
    closed = job.measure.methods[_first(job)].method == CLOSED_FORM
    points = count * (AT_HEAD if closed else ELSEWHERE) ** 2
    grid = -(-points // _chunk(job, closed))
    line = batches * (job.length + 1) if "line-to-other-class" in job.controls else 0
    behind = 0 if closed else grid * (job.victim.classes - 1)
    return Cost(batches * (job.length + 1) + line + grid, batches * job.length + behind)


def _first(job: Job) -> str:
    return next(iter(job.victim.layers))


def _chunk(job: Job, closed: bool) -> int:
    """Points in a pass: at the head, where a pass keeps nothing for backward passes, as many as an attack could have.

    Elsewhere the batch, which somebody may have chosen for its memory, unless it is small because the samples are few.
    """
    if job.batches > 1 and not closed:
        return job.batch_size
    return max(job.batch_size, batch_that_fits(bytes_per_sample(job.victim, job.x, job.y), job.victim.device))


def _is_finite(walked: Walked) -> bool:
    return all(bool(torch.isfinite(point.x).all()) for point in (*walked.attack, *walked.line))


class _Work:
    """What does not depend on the sample: the first layer's victim and measure, and its weight."""

    def __init__(self, job: Job) -> None:
        self.job, self.layer = job, _first(job)
        self.victim, self.measure = _of_one_layer(job, self.layer)
        self.closed = self.measure.methods[self.layer].method == CLOSED_FORM
        self.size = AT_HEAD if self.closed else ELSEWHERE
        self.chunk = _chunk(job, self.closed)
        module = self.victim.layers[self.layer].module
        if self.closed:
            assert isinstance(module, nn.Linear)
            self.head = Head(module)
            self.weight, self.bias = self.head.weight, self.head.bias
            self.distances = squared_distances(self.weight)

    def sample(self, walked: Walked, flip_step: int) -> Arrays:
        """All arrays of one sample."""
        self.victim.where.begin("surfaces", 0)
        # Not around all: a library's attack, walked once more, is to give the numbers that it gives by itself.
        with exact_arithmetic(self.victim.device):
            found = self._sample(walked, flip_step)
        self.victim.where.end()
        return found

    def _sample(self, walked: Walked, flip_step: int) -> Arrays:
        label = int(self.job.y[walked.row])
        clean, end = walked.attack[0], walked.attack[-1]
        sample = int(self.job.ids[walked.row])
        found: Arrays = {"sample": np.int64(sample)}
        third, kind, index = self._third(walked, label, int(end.logits.argmax()))
        found |= {
            "third_kind": np.int32(kind),
            "third_sample": np.int64(index),
            "third_label": np.int32(-1 if kind == NOISE else self.job.pool_y[index]),
            "third_x": third.view_as(clean.x).float().numpy(),
        }
        origin = _flat(clean.x)
        noise = [_flat(self._noise(sample, clean.x, purpose)) for purpose in ("surface", "surface-2")]
        plane = Plane.through(origin, [_flat(end.x) - origin, third - origin, *noise])
        corner_at, _ = plane.at(torch.stack([origin, _flat(end.x), third]))
        paths = [(0, walked.attack), (1, walked.line)]
        beside = [plane.at(torch.stack([_flat(point.x) for point in path])) for _, path in paths if path]
        shown = np.concatenate([corner_at, *(at for at, _ in beside)])
        on = corner_at[1, 0] if corner_at[1, 0] > 0 else corner_at[2, 0]
        u, v = axis(shown[:, 0], self.size, on), axis(shown[:, 1], self.size)
        seen = self._see((points.view(-1, *clean.x.shape) for points in plane.points(u, v, self.chunk)), label)
        grid = {name: values.view(self.size, self.size).numpy() for name, values in seen._asdict().items()}
        found |= {"u": u, "v": v, **grid, "corner_at": corner_at}
        corners = self._corners(clean, end, third.view_as(clean.x), label)
        found |= {f"corner_{name}": values.numpy() for name, values in corners._asdict().items()}
        found |= {
            "ways": sum(len(path) for _, path in paths),
            "way_path": np.repeat(np.array([0, 1], dtype=np.int32), [len(path) for _, path in paths]),
            "way_step": np.concatenate([np.arange(len(path), dtype=np.int32) for _, path in paths]),
            "way_at": np.concatenate([at for at, _ in beside]),
            "way_off": np.concatenate([off for _, off in beside]),
        }
        return found | (self._weights(walked, flip_step, label) if self.closed else {})

    def _third(self, walked: Walked, label: int, predicted: int) -> tuple[Tensor, int, int]:
        """The third point ``[d]``, its kind, and its index in the pool."""
        clean, end = _flat(walked.attack[0].x), _flat(walked.attack[-1].x)
        labels = self.job.pool_y
        if predicted != label and (index := self._nearest(clean, labels == predicted)) is not None:
            return _flat(self.job.pool_x[index]), OF_CLASS, index
        if (index := walked.other) is None:
            index = self._nearest(clean, labels != label)
        if index is not None:
            return _flat(self.job.pool_x[index]), OF_ANOTHER, index
        noise = _flat(self._noise(int(self.job.ids[walked.row]), walked.attack[0].x, "surface"))
        length = (end - clean).norm()
        return clean + (length if length > 0 else 1.0) * noise / noise.norm(), NOISE, -1

    def _nearest(self, clean: Tensor, among: Tensor) -> int | None:
        """The index of the nearest other input in l2; of equally near ones the first."""
        best, found = float("inf"), None
        rows = among.nonzero().squeeze(1)
        for part in rows.split(POOL) if len(rows) else ():
            distance = (self.job.pool_x[part].flatten(1).cpu().double() - clean).norm(dim=1)
            distance = torch.where(distance > 0, distance, torch.inf).nan_to_num(torch.inf)
            if float(distance.min()) < best:
                best, found = float(distance.min()), int(part[distance.argmin()])
        return found

    def _noise(self, sample: int, like: Tensor, purpose: str) -> Tensor:
        return Noise(self.job.seed).normal(torch.tensor([sample]), like[None].double(), purpose)[0]

    def _see(self, points: Iterator[Tensor], label: int) -> Seen:
        """Κ, loss and prediction at points ``[≤ chunk, …]`` each."""
        parts: list[Seen] = []
        for x in points:
            y = torch.full((len(x),), label, device=self.victim.device)
            here = self.victim(self.victim.place(x), y, final=True)
            kappa = self.measure(here)[self.layer].relative_flatness
            parts.append(_seen(kappa.cpu(), wide(here.logits.detach()).cpu(), label))
        return Seen(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _corners(self, clean: Point, end: Point, third: Tensor, label: int) -> Seen:
        if not self.closed:
            return self._see(iter([torch.stack([clean.x.double(), end.x.double(), third])]), label)
        # Of clean and end from the attack's own passes: a pass of other points rounds otherwise.
        logits = wide(torch.stack([clean.logits, end.logits]))
        kappa = self.head(self._features(clean, end)).relative_flatness.cpu()
        own = _seen(kappa, logits, label)
        return Seen(*(torch.cat(both) for both in zip(own, self._see(iter([third[None]]), label), strict=True)))

    def _features(self, *points: Point) -> Tensor:
        held = [point.features for point in points if point.features is not None]
        return wide(torch.stack(held).to(self.victim.device))

    def _weights(self, walked: Walked, flip_step: int, label: int) -> Arrays:
        """The planes of the head's weight around clean, flip and end."""
        last = len(walked.attack) - 1
        steps = [0, flip_step if flip_step <= last else -1, last]
        blank = np.full((self.size, self.size), np.nan)
        line = np.full(self.size, np.nan)
        planes = [None if step < 0 else self._weight_plane(walked.attack, step, label) for step in steps]
        none: Arrays = {"toward": -1, "s": line, "t": line, "kappa": blank, "loss": blank, "length": np.nan}
        held = [none if plane is None else plane for plane in planes]
        steps = [-1 if plane is None else step for plane, step in zip(planes, steps, strict=True)]
        whole = {"step": steps, "toward": [plane["toward"] for plane in held]}
        found: Arrays = {f"weight_{name}": np.array(values, dtype=np.int32) for name, values in whole.items()}
        for name in ("s", "t", "kappa", "loss", "length"):
            found[f"weight_{name}"] = np.stack([plane[name] for plane in held])
        return found

    def _weight_plane(self, path: list[Point], step: int, label: int) -> Arrays | None:
        a, clean, end = self._features(path[step], path[0], path[-1])
        logits = nn.functional.linear(a, self.weight, self.bias)
        soft = softmax(logits[None])
        size = a.norm()
        if not bool(torch.isfinite(logits).all()) or not size > 0:
            return None
        first, second = eigenvectors(soft).T
        slope = soft.p[0] - nn.functional.one_hot(torch.tensor(label, device=a.device), len(logits))
        if float(first @ slope) < 0 or (float(first @ slope) == 0 and float(first[first.abs().argmax()]) < 0):
            first = -first
        toward, change = TO_END, end - a
        if not bool(change.any()):
            toward, change = TO_CLEAN, clean - a
        r, length = self.weight @ change / size, 1.0
        if bool(r.any()) and bool(torch.isfinite(r).all()):
            length = float(r.norm())
            t = T_POINTS
        else:
            toward, r = SECOND_EIGENVECTOR, second
        # As far as D goes; without one, as far as moves the logits by ten.
        reach = 1.5 * (length if toward != SECOND_EIGENVECTOR else 10.0 / float(size))
        s = reach * S_POINTS
        if toward == SECOND_EIGENVECTOR:
            t = s
        axes = (torch.from_numpy(values).to(a.device) for values in (s, t))
        over = over_plane(self.weight, self.bias, a, label, first, r, *axes, distances=self.distances)
        return {
            "toward": toward, "s": s, "t": t, "kappa": over.kappa.cpu().numpy(), "loss": over.loss.cpu().numpy(),
            "length": length,
        }  # fmt: skip


def _seen(kappa: Tensor, logits: Tensor, label: int) -> Seen:
    loss = cross_entropy(logits, torch.full((len(logits),), label))
    return Seen(kappa, loss, logits.argmax(1).to(torch.int32))


def _flat(x: Tensor) -> Tensor:
    return x.detach().cpu().double().flatten()


def _of_one_layer(job: Job, layer: str) -> tuple[ImageVictim, AnyLayer]:
    """The job's victim and measure, or such that look at this layer alone."""
    if len(job.victim.layers) == 1:
        return job.victim, job.measure
    victim, measure, _ = instrument(
        job.model, job.x[:EXAMPLES], [layer], probes=job.measure.probes, seed=job.measure.seed,
        bounds=job.victim.bounds, dtype=job.victim.dtype, device=job.victim.device,
    )  # fmt: skip
    return victim, measure
