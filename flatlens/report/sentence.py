"""The result of a run in one sentence, and four key numbers: made from its statistics, with their intervals.

Four templates: the attack has more valleys than a straight line to another class, as many, fewer, or there was no line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from flatlens.records.digest import Accuracy
from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Fraction, Median, Valley
from flatlens.report.roles import looks

ALIKE = 0.1
"""Shares that differ by less are told as alike, whatever their interval."""
Z = 1.959963984540054


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
        return Lead((Part("The attack flips none of the samples."),), _said_of(summary.flipped), numbers)
    control = next((path for path in looks(trace.paths) if looks(trace.paths)[path].role == "cross"), None)
    mine = Part(_percent(share), ATTACK)
    sentence: tuple[Part, ...]
    if control is None or not found[control].summary().valley_of_flipped.n:
        sentence = (mine, Part(f" of the {_flipped(share)} end in a flat valley under attack."))
        below = f"Without a control nothing of it can be attributed to the attack. 95 %: {_span(share)}."
        return Lead(sentence, below, numbers)
    other = found[control].summary().valley_of_flipped
    name = {"line-to-other-class": "a straight line to another class", "line-to-end": "a straight line to its end"}[
        control
    ]
    theirs = Part(_percent(other), "cross")
    low, middle, high = difference(found[ATTACK], found[control])
    span = f"95 %: {_span(share)}, {_span(other)}."
    if abs(middle) < ALIKE or low <= 0 <= high:
        sentence = (mine, Part(f" of the {_flipped(share)} end in a flat valley under attack, and "), theirs,
                    Part(f" on {name}."))  # fmt: skip
        below = f"{_ENOUGH[control]} {span}"
    elif middle > 0:
        sentence = (mine, Part(f" of the {_flipped(share)} end in a flat valley under attack, but only "), theirs,
                    Part(f" on {name}."))  # fmt: skip
        below = (
            f"Of what the attack does, {_points(low, middle, high)} are not owed to crossing a boundary alone. {span}"
        )
    else:
        sentence = (mine, Part(f" of the {_flipped(share)} end in a flat valley under attack, fewer than the "), theirs,
                    Part(f" on {name}."))  # fmt: skip
        below = (
            f"A straight line has more valleys, by {_points(low, middle, high)}: the attack ends near the boundary. "
        )
        below += span
    return Lead(sentence, below, numbers)


_ENOUGH = {
    "line-to-other-class": "Crossing a boundary confidently is enough: the line knows nothing of the attack.",
    "line-to-end": "Where the path ends is enough: the straight line there has not taken the attack's way.",
}
"""What it means that the control has as many valleys as the attack."""


def difference(attack: Valley, control: Valley) -> tuple[float, float, float]:
    """By how much the attack's share of valleys is above the control's: low, value, high of a 95 % interval.

    Paired: over the samples that flip on both paths.
    """
    _, mine, theirs = np.intersect1d(attack.sample, control.sample, return_indices=True)
    both = attack.flipped[mine] & control.flipped[theirs]
    apart = attack.is_valley[mine][both].astype(float) - control.is_valley[theirs][both]
    if not len(apart):
        return -1.0, 0.0, 1.0
    middle, half = float(apart.mean()), Z * float(apart.std()) / float(np.sqrt(len(apart)))
    return middle - half, middle, middle + half


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


def _flipped(share: Fraction) -> str:
    return "flipped sample" if share.n == 1 else "flipped samples"


def _said_of(flipped: Fraction) -> str:
    return (
        f"Of the {flipped.n:,} that are right at the clean input none is wrong on its path."
        if flipped.n
        else ("No sample is right at the clean input, so none can flip.")
    )


def _points(low: float, middle: float, high: float) -> str:
    ends = sorted((abs(100 * low), abs(100 * high)))
    return f"{abs(100 * middle):.0f} points, {ends[0]:.0f}–{ends[1]:.0f}"
