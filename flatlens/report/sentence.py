"""The result of a run in one sentence, and four key numbers: made from its statistics, with their intervals.

Four templates: the attack has more valleys than a straight line to another class, as many, fewer, or there was no line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flatlens.records.digest import Accuracy
from flatlens.records.intervals import Mean, paired
from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Fraction, Median, Valley
from flatlens.report.roles import looks

ALIKE = 0.1
"""Shares that differ by less are told as alike, whatever their interval."""


class Part(NamedTuple):
    """A piece of the sentence: ``role`` is ``attack`` or ``cross`` where it is a path's number, else empty."""

    text: str
    role: str = ""


class Lead(NamedTuple):
    """What stands on top of a page.

    Attributes:
        sentence: the result, in pieces.
        below: what it rests on, in one or two sentences.
        numbers: four key numbers, each ``(value, what it is, its interval)``.
    """

    sentence: tuple[Part, ...]
    below: str
    numbers: tuple[tuple[str, str, str], ...]


def lead(trace: Trace, found: Mapping[str, Valley], accuracy: Accuracy) -> Lead:
    """The result for one measure at one layer.

    Args:
        trace: of which paths there are.
        found: path -> its valleys.
        accuracy: clean and attacked.
    """
    summary = found[ATTACK].summary()
    numbers = (
        (_percent(accuracy.clean), "right, clean", _interval(accuracy.clean)),
        (_percent(accuracy.attacked), "right, attacked", _interval(accuracy.attacked)),
        (times(summary.rise), "rise to the peak", _times(summary.rise)),
        (fall(summary.depth), "fall to the end", _falls(summary.depth)),
    )
    share = summary.valley_of_flipped
    if not share.n:
        return Lead((Part("The attack flips none of the samples."),), _said_of(summary.flipped, trace), numbers)
    lines = [path for path, look in looks(trace.paths).items() if look.role == "cross"]
    control = next((path for path in lines if found[path].summary().valley_of_flipped.n), None)
    mine = Part(_share(share), ATTACK)
    end = " flipped samples ends" if share.n == 1 else " of the flipped samples end"
    end += " in a flat valley under attack"
    if control is None:
        why = "No sample flips on a straight line: without" if lines else "Without"
        below = f"{why} a control nothing of it can be attributed to the attack. 95 %: {_span(share)}."
        return Lead((mine, Part(f"{end}.")), below, numbers)
    other = found[control].summary().valley_of_flipped
    theirs, name = Part(_share(other), "cross"), _LINES[control]
    apart = difference(found[ATTACK], found[control])
    if not apart.n:
        than, below = "and", "No sample flips on both paths, so that nothing compares them."
    elif abs(apart.value) < ALIKE:
        than, below = "and", _HARDLY if max(share.value, other.value) < ALIKE else _ENOUGH[control]
    elif apart.low <= 0 <= apart.high:
        than, below = "and", "The difference may be chance."
    elif apart.value > 0:
        than = "but only"
        below = f"Of what the attack does, {_points(apart)} are not owed to crossing a boundary alone."
    else:
        than = "fewer than the"
        below = f"A straight line has more valleys, by {_points(apart)}: a path that ends near the boundary has none."
    sentence = (mine, Part(f"{end}, {than} "), theirs, Part(f" on {name}."))
    return Lead(sentence, f"{below} 95 %: {_span(share)}, {_span(other)}.", numbers)


_LINES = {"line-to-other-class": "a straight line to another class", "line-to-end": "a straight line to its end"}
"""What the controls are called that cross a boundary."""
_ENOUGH = {
    "line-to-other-class": "Crossing a boundary confidently is enough: the line knows nothing of the attack.",
    "line-to-end": "Where the path ends is enough: the straight line there has not taken the attack's way.",
}
"""What it means that the control has as many valleys as the attack."""
_HARDLY = "Crossing the boundary is not enough for a valley here, neither by the attack nor straight."
"""What it means that both have next to none."""


def difference(attack: Valley, control: Valley) -> Mean:
    """By how much the attack's share of valleys is above the control's, with its 95 % interval.

    Paired: over the samples that flip on both paths; where there are none, nothing is known: 0, from −1 to 1.
    """
    _, mine, theirs = np.intersect1d(attack.sample, control.sample, return_indices=True)
    both = attack.flipped[mine] & control.flipped[theirs]
    if not both.any():
        return Mean(0.0, -1.0, 1.0, 0)
    return paired(attack.is_valley[mine][both], control.is_valley[theirs][both])


def times(found: Median) -> str:
    """``×9,220``."""
    if not found.n or np.isnan(found.value):
        return "–"
    return "×∞" if np.isinf(found.value) else f"×{rounded(found.value)}"


def fall(found: Median) -> str:
    """``÷18,200``, from a depth in decades."""
    if not found.n or np.isnan(found.value):
        return "–"
    return "÷∞" if np.isinf(found.value) else f"÷{rounded(10.0 ** min(found.value, 300))}"


def rounded(value: float) -> str:
    """Three digits, with a power of ten where it is long."""
    if value >= 1e7 or value < 0.01:
        exponent = int(np.floor(np.log10(value)))
        return f"{value / 10.0**exponent:.1f}·10{str(exponent).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return f"{float(f'{value:.3g}'):,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _times(found: Median) -> str:
    if np.isnan(found.low):
        return f"n = {found.n}"
    return "–".join("∞" if np.isinf(v) else rounded(v) for v in (found.low, found.high))


def _falls(found: Median) -> str:
    if np.isnan(found.low):
        return f"n = {found.n}"
    return "–".join("∞" if np.isinf(v) else rounded(10.0 ** min(v, 300)) for v in (found.low, found.high))


def _percent(share: Fraction) -> str:
    return f"{100 * share.value:.1f} %" if share.n else "–"


def _interval(share: Fraction) -> str:
    return f"{100 * share.low:.1f}–{100 * share.high:.1f}" if share.n else "n = 0"


def _span(share: Fraction) -> str:
    return f"{_interval(share)} of {share.n:,}"


def _share(share: Fraction) -> str:
    """In the sentence: of a single sample no percentage is said."""
    return f"{share.count} of 1" if share.n == 1 else _percent(share)


def _said_of(flipped: Fraction, trace: Trace) -> str:
    never = "is wrong" if trace.spec.get("targeted") is None else "is taken for its target"
    return (
        f"Of the {flipped.n:,} that are right at the clean input none {never} on its path."
        if flipped.n
        else ("No sample is right at the clean input, so none can flip.")
    )


def _points(apart: Mean) -> str:
    ends = sorted((abs(100 * apart.low), abs(100 * apart.high)))
    return f"{abs(100 * apart.value):.0f} points, {ends[0]:.0f}–{ends[1]:.0f}"
