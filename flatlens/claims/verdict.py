"""A verdict by rule: what the intervals of a claim's parts say of it.

A part holds where its interval lies wholly inside its region, fails where wholly outside, and is open otherwise. All
parts that decide hold: reproduced. All fail: not reproduced. Some hold and some fail: partly. Else: inconclusive; and
so with fewer networks or samples than the claim asks for, whatever the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from flatlens.claims.claim import Claim, Part
from flatlens.claims.statistics import Estimate, Table, over_nets

REPRODUCED, NOT, PARTLY, INCONCLUSIVE, NOT_RUN = (
    "reproduced", "not reproduced", "partly", "inconclusive", "not run",
)  # fmt: skip
VERDICTS = (REPRODUCED, NOT, PARTLY, INCONCLUSIVE, NOT_RUN)
HOLDS, FAILS, OPEN, SHOWN = "holds", "fails", "open", "shown"


class Outcome(NamedTuple):
    """One part's number, the networks' own, and whether it ``holds``, ``fails``, is ``open`` or only ``shown``."""

    part: Part
    estimate: Estimate
    nets: list[float]
    outcome: str


class Judged(NamedTuple):
    """A claim's verdict, why, and what it rests on. ``forced``: an identity forces a part of it."""

    claim: Claim
    verdict: str
    why: str
    outcomes: list[Outcome]
    nets: int
    samples: int

    @property
    def forced(self) -> bool:
        """Whether a part that decides, and holds, does so by construction; not told of a claim that fails."""
        holding = (found for found in self.outcomes if found.outcome == HOLDS)
        return self.verdict != NOT and any(found.part.forced for found in holding)


def judge(claim: Claim, tables: Sequence[Table]) -> Judged:
    """The verdict of a claim on its networks' tables."""
    outcomes = [_outcome(part, tables) for part in claim.parts]
    nets = len(tables)
    # A table may have several rows of one sample, such as a clean one and an attacked one; it says so then.
    samples = sum(len(set(table["sample"].tolist())) if "sample" in table else _rows(table) for table in tables)
    # What an identity forces to hold is no evidence; where it does not hold, something is wrong, and is told.
    deciding = [one for one in outcomes if one.outcome != SHOWN and not (one.part.forced and one.outcome == HOLDS)]
    said = {word: [found.part.says for found in deciding if found.outcome == word] for word in (HOLDS, FAILS, OPEN)}
    case, row = claim.units
    if nets < claim.least:
        few = f"1 {case}" if nets == 1 else f"{nets} {case}s"
        return Judged(
            claim, INCONCLUSIVE, f"{few} of the {claim.least} that the rule asks for", outcomes, nets, samples
        )
    if samples < claim.samples:
        why = f"{samples} {row}s of the {claim.samples} that the rule asks for"
        return Judged(claim, INCONCLUSIVE, why, outcomes, nets, samples)
    verdict, why = _verdict(said)
    forced = [found.part.says for found in outcomes if found.part.forced and found.outcome == HOLDS]
    if verdict == NOT and forced:
        why = f"no part holds but by construction: {'; '.join(forced)}"
    return Judged(claim, verdict, why, outcomes, nets, samples)


def _verdict(said: dict[str, list[str]]) -> tuple[str, str]:
    """The verdict, and why, of the parts' words by their outcome."""
    holds, fails, undecided = said[HOLDS], said[FAILS], said[OPEN]
    if holds and fails:
        return PARTLY, f"Holds: {'; '.join(holds)}. Does not: {'; '.join(fails)}" + (
            f". Open: {'; '.join(undecided)}" if undecided else ""
        )
    if undecided or not (holds or fails):
        return INCONCLUSIVE, f"open: {'; '.join(undecided)}" if undecided else "nothing was measured that decides"
    return (REPRODUCED, "every part holds") if holds else (NOT, "no part holds")


def _outcome(part: Part, tables: Sequence[Table]) -> Outcome:
    able = [table for table in tables if all(name in table for name in part.statistic.columns)]
    estimate, nets = over_nets(part.statistic, able)
    if part.region is None:
        return Outcome(part, estimate, nets, SHOWN)
    low, high = estimate.low, estimate.high
    if math.isnan(low) or math.isnan(high):
        return Outcome(part, estimate, nets, OPEN)
    if part.region.low <= low and high <= part.region.high:
        return Outcome(part, estimate, nets, HOLDS)
    return Outcome(part, estimate, nets, FAILS if high < part.region.low or low > part.region.high else OPEN)


def _rows(table: Table) -> int:
    return max((len(values) for values in table.values()), default=0)
