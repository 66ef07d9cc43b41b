"""Runs beside each other: what one has more of than the first, sample by sample where both attack the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flatlens.records import intervals
from flatlens.records.intervals import Median, median
from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Valley

Plain = dict[str, Any]


class Difference(NamedTuple):
    """Of a run to the first one.

    Attributes:
        paired: the same samples are compared, each with itself; else the shares of two different sets.
        n: how many samples it is over: those that flip in both runs, or in this one.
        share: by how much the share of valleys among the flipped is larger: value, low, high.
        depth: the median of the differences of depth, in decades, where they are paired.
    """

    paired: bool
    n: int
    share: tuple[float, float, float]
    depth: Median


def paired(first: Trace, other: Trace) -> bool:
    """Whether two runs are of the same samples: of the same data, with the same labels or prompts and targets."""
    if str(first.spec.get("data")) != str(other.spec.get("data")):
        return False
    if first.of_language or other.of_language:
        mine, theirs = ({(p["sample"], p["prompt"], p["target"]) for p in t.prompts or ()} for t in (first, other))
        return bool(mine & theirs)
    one, two = first.matrix("label"), other.matrix("label")
    ids, a, b = np.intersect1d(one.sample, two.sample, return_indices=True)
    return bool(len(ids)) and bool((one.values[a, 0] == two.values[b, 0]).all())


def difference(first: Valley, other: Valley, *, same: bool) -> Difference:
    """What ``other`` has more of than ``first``.

    Args:
        first: the run that is compared with.
        other: the run that is compared.
        same: they are of the same samples.
    """
    if not same:
        a, b = first.summary().valley_of_flipped, other.summary().valley_of_flipped
        return Difference(False, b.n, intervals.apart(b, a)[:3], median(np.zeros(0)))
    _, i, j = np.intersect1d(first.sample, other.sample, return_indices=True)
    both = first.flipped[i] & other.flipped[j]
    i, j = i[both], j[both]
    share = intervals.paired(other.is_valley[j], first.is_valley[i])[:3]
    with np.errstate(invalid="ignore"):
        deeper = other.depth[j] - first.depth[i]
    return Difference(True, len(i), share, median(deeper[np.isfinite(deeper)]))


def comparison(traces: Sequence[Trace], measures: Sequence[str]) -> Plain:
    """For each measure that all runs have, at each run's first layer: each run's difference to the first."""
    if len(traces) < 2:
        return {}
    same = [paired(traces[0], trace) for trace in traces]
    out: Plain = {}
    for measure in measures:
        found = [trace.valley(measure, layer=trace.layer_names[0], path=ATTACK) for trace in traces]
        out[measure] = [difference(found[0], one, same=alike) for one, alike in zip(found[1:], same[1:], strict=True)]
    return out
