"""C2: an attack that goes on behind the flip ends in a flat valley, beside its peak and beside its clean input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.paths import along
from flatlens.claims.statistics import Table, difference, median, share
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Valley, judge

LENGTHS = (10, 40, 100)
TAUS = {"hundredth": 0.01, "half": 0.5}
"""Name in the columns -> another threshold than a tenth."""
LINE, TO_END = "line-to-other-class", "line-to-end"

CLAIM = Claim(
    name="C2",
    title="It goes on into a flat valley",
    source="Walter et al., arXiv 2405.16918",
    reported="after the label has flipped the surface gets flatter, and adversarial examples lie in flat regions",
    question="Does an attack that goes on end flat: beside its own peak, and beside its own clean input?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": f"PGD, linf, eps 0.3, {LENGTHS[-1]} steps of eps/10; what it is after {LENGTHS[0]} and {LENGTHS[1]} "
        "steps is the same path, cut",
        "controls": "the straight line to an image of another class, and to the attack's own end",
        "valley": "the path flips, stays flipped, has its largest κ within, and ends at a tenth of that or less",
        "statistic": "share of valleys among the samples that flip; share of these that end flatter than their clean "
        "input",
    },
    parts=(
        Part("valley", f"valleys after {LENGTHS[-1]} steps", share("valley_100", "flipped_100"), Region(low=0.5)),
        Part("flatter", "end flatter than their own clean input", share("flatter", "flipped_100"), Region(low=0.5)),
        Part("valley_10", "valleys after 10 steps", share("valley_10", "flipped_10")),
        Part("valley_40", "valleys after 40 steps", share("valley_40", "flipped_40")),
        Part(
            "later", "more valleys after 100 steps than after 40, of the same samples",
            difference("valley_100", "valley_40", "flipped_40"),
        ),
        Part("hundredth", "valleys, were the end to lie at a hundredth", share("valley_hundredth", "flipped_100")),
        Part("half", "valleys, were half enough", share("valley_half", "flipped_100")),
        Part("settled", "flipped at the end, of those that ever flip", share("settled", "flipped_100")),
        Part("line", "valleys of the line to another class", share("valley_line", "flipped_line")),
        Part("more", "more valleys of the attack than of that line, both flipped",
             difference("valley_100", "valley_line", "both")),
        Part("line_flatter", "that line ends flatter than its start", share("flatter_line", "flipped_line")),
        Part("to_end", "valleys of the line to the attack's own end", share("valley_to_end", "flipped_to_end")),
        Part("percentile", "where the end's κ stands among those of clean inputs, 0 to 1",
             median("percentile", "flipped_100")),
        Part("decades", "decades of κ from the clean input to the end", median("decades", "flipped_100")),
        Part("depth", "decades that κ falls from its peak to the end", median("depth", "flipped_100")),
    ),
    caveats=(
        "That κ is small at the end says that the softmax is saturated there, as it is at clean inputs.",
        "A tenth is flatlens' choice and carries the number: the shares at a hundredth and at half stand beside it.",
        "The line's end is a clean image of another class: that it is flat is the flatness of clean images.",
    ),
)  # fmt: skip


def measure(case: Case) -> Table:
    """What each path is after so many steps, and what the lines beside it are."""
    trace = along(case, steps=LENGTHS[-1], step_size=case.eps / 10, controls=(LINE, TO_END))
    attack, line, to_end = trace.valley(), trace.valley(path=LINE), trace.valley(path=TO_END)
    columns: dict[str, NDArray[np.generic]] = {"sample": attack.sample}
    for length in LENGTHS:
        found = cut(trace, length)
        columns[f"flipped_{length}"], columns[f"valley_{length}"] = found.flipped, found.is_valley
    for name, tau in TAUS.items():
        columns[f"valley_{name}"] = trace.valley(tau=tau).is_valley
    with np.errstate(divide="ignore"):
        decades = np.log10(attack.end_vs_clean)
    return columns | {
        "flatter": attack.flatter_than_clean,
        "settled": attack.settled,
        "percentile": attack.clean_percentile,
        "decades": decades,
        "depth": attack.depth,
        "flipped_line": line.flipped,
        "valley_line": line.is_valley,
        "flatter_line": line.flatter_than_clean,
        "both": attack.flipped & line.flipped,
        "flipped_to_end": to_end.flipped,
        "valley_to_end": to_end.is_valley,
    }


def cut(trace: Trace, length: int) -> Valley:
    """What the attack's path was after its first ``length`` steps."""
    kappa, flips = trace.matrix("relative_flatness"), trace.matrix("flipped")
    until = slice(0, length + 1)
    return judge(kappa.values[:, until], flips.values[:, until].astype(bool), kappa.sample)
