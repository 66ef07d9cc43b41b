"""What is asked of a language model's trace alone: a prompt at a step, and κ at equal loss. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from flatlens.errors import RunError, SpecError, unknown
from flatlens.records.intervals import Median, median
from flatlens.records.prompts import AtStep
from flatlens.records.schema import DISCRETE

if TYPE_CHECKING:
    from flatlens.records.trajectory import Trace

KEYS = ("clean", "flip", "peak", "end")


class Matched(NamedTuple):
    """κ of one path where its loss first falls to a value or below.

    Attributes:
        n: prompts that came so far, of ``of``.
        of: prompts of the path.
        median: of κ over these, with its 95 % interval.
        sample: their ids, ``[n]``.
        step: of each, ``[n]``.
        kappa: of each, ``[n]``.
        loss: of each, ``[n]``, in nats.
    """

    n: int
    of: int
    median: Median
    sample: NDArray[np.int64]
    step: NDArray[np.int64]
    kappa: NDArray[np.float64]
    loss: NDArray[np.float64]


def matched(trace: Trace, loss: float, paths: Sequence[str] | None) -> dict[str, Matched]:
    """See `flatlens.records.trajectory.Trace.matched`."""
    if not 0 < loss < float("inf"):
        raise SpecError(f"loss = {loss}: needs a number of nats above 0, for example 0.1")
    found = {}
    for path in trace.paths if paths is None else paths:
        sample, values = trace.matrix("loss", path=path)
        kappa = trace.matrix("relative_flatness", path=path).values
        with np.errstate(invalid="ignore"):
            below = values <= loss
        there = np.flatnonzero(below.any(1))
        step = below.argmax(1)[there]
        at = kappa[there, step]
        found[path] = Matched(len(there), len(sample), median(at), sample[there], step, at, values[there, step])
    return found


def prompt(trace: Trace, sample: int, step: int | str, path: str) -> AtStep:
    """See `flatlens.records.trajectory.Trace.prompt`."""
    if trace.prompts is None or trace.tokens is None:
        raise RunError("this trace is of images and has no prompts; its inputs are in x_adv and images")
    known = {one["sample"]: one for one in trace.prompts}
    if sample not in known:
        raise SpecError(f"no sample {sample}; this trace has: {', '.join(map(str, known))}")
    if path not in trace.paths:
        raise SpecError(unknown("path", path, trace.paths, where="this trace has"))
    number = _step(trace, sample, step, path)
    rows = trace.tokens
    rows = rows.filter(
        pc.and_(pc.and_(pc.equal(rows["path"], path), pc.equal(rows["sample"], sample)), pc.equal(rows["step"], number))
    )
    text = pc.equal(rows["kind"], DISCRETE)
    rows = rows.filter(text) if pc.any(text).as_py() else rows
    one = known[sample]
    ids, pieces = dict(one["ids"]), dict(one["pieces"])
    own = path not in ("ask", "copies")
    if not own:  # another text altogether: all of it is the slot
        ids, pieces = (dict(part, prefix=[], tail=[]) for part in (ids, pieces))
    ids["slot"], pieces["slot"] = rows["token"].to_pylist(), rows["piece"].to_pylist()
    soft = bool((pc.max(rows["nearest_distance"]).as_py() or 0.0) > 0)
    return AtStep(number, ids, pieces, soft)


def _step(trace: Trace, sample: int, step: int | str, path: str) -> int:
    row = int(np.flatnonzero(trace.matrix("flipped", path=path).sample == sample)[0])
    last = int(trace.last_steps(path=path)[row])
    if isinstance(step, str):
        if step not in KEYS:
            raise SpecError(unknown("step", step, [*KEYS, "a number"], where="there are"))
        if step == "flip":
            found = trace.matrix("flipped", path=path).values[row].astype(bool)
            if not found.any():
                raise SpecError(f"sample {sample} does not flip on path '{path}'; ask for its end")
            return int(found.argmax())
        if step == "peak":
            return int(np.nanargmax(trace.matrix("relative_flatness", path=path).values[row]))
        return 0 if step == "clean" else last
    if not 0 <= step <= last:
        raise SpecError(f"no step {step}; path '{path}' of sample {sample} has steps 0 … {last}")
    return int(step)
