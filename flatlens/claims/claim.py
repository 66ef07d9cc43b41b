"""`Claim`: what is claimed, how it is tried, and what would settle it; fixed before any figure (no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flatlens.claims.statistics import Statistic

STANDARD, ROBUST, TEXT = "standard", "robust", "text"
"""Kinds of networks: trained as usual, its twin trained against an attack, and a language model."""


class Region(NamedTuple):
    """Where a number must lie for its part of the claim to hold: a closed interval."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        """``≥ 0.9``, ``≤ 0.02``, or ``0.5 … 2``."""
        if math.isinf(self.high):
            said = f"≥ {self.low:g}"
        elif math.isinf(self.low):
            said = f"≤ {self.high:g}"
        else:
            said = f"{self.low:g} … {self.high:g}"
        return said.replace("-", "−")


@dataclass(frozen=True)
class Part:
    """A number that a claim rests on, or that stands beside it.

    Attributes:
        name: short, for tables.
        says: what the number is, in words.
        statistic: how it is made of a network's table.
        region: where it must lie; None for a control, which decides nothing.
        forced: why it cannot come out otherwise, where an identity forces it; such a part decides nothing by itself.
    """

    name: str
    says: str
    statistic: Statistic
    region: Region | None = None
    forced: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes:
        name: ``C1`` … ``C16``.
        title: the claim in one line.
        source: where it is made.
        reported: what is reported there.
        question: what is asked of the networks here.
        protocol: what is done, a line each under its name: ``nets``, ``data``, ``attack``, ``n``, ``seeds``.
        parts: the numbers; the first one decides, and is what a table of claims shows.
        caveats: what a reader must know beside the verdict.
        kinds: the kinds of networks that one case takes, the first one is what it is about.
        least: networks below which the verdict is ``inconclusive``, whatever the numbers.
        samples: fewer right samples than this, over all networks, are inconclusive too.
        sizes: samples of a network, quick and in full.
        units: what a case is, and what a row of its table is, in one word each.
        needs: a module that must be installed -> how to get it.
        trainings: a kind of network of this claim's own -> how it is trained, fields of a `TrainSpec`; ``model`` is the
            name of what is trained, with ``{seed}`` in it, the usual architecture when left out.
        seeds: that its networks are trained from in full; the usual five when left out.
        full_only: why it is not run by ``--quick``; empty where it is.
        own_models: why it cannot be run on models of the user's; empty where it can.
    """

    name: str
    title: str
    source: str
    reported: str
    question: str
    protocol: Mapping[str, str]
    parts: Sequence[Part]
    caveats: Sequence[str] = ()
    kinds: Sequence[str] = (STANDARD,)
    least: int = 5
    samples: int = 100
    sizes: tuple[int, int] = (150, 400)
    units: tuple[str, str] = ("network", "sample")
    needs: Mapping[str, str] | None = None
    trainings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    full_only: str = ""
    own_models: str = ""
