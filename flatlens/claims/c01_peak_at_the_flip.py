"""C1: along an attack the head's relative flatness measure rises until the label flips, and falls from there."""

from __future__ import annotations

import numpy as np

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.paths import along
from flatlens.claims.statistics import Table, median, share

STEPS = 40

CLAIM = Claim(
    name="C1",
    title="κ rises to the flip, then falls",
    source="Walter et al., arXiv 2405.16918",
    reported="the surface around the example gets sharper until the label flips, then flatter",
    question="Is the largest κ of the head on an attack's path within one step of the flip?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": f"PGD, linf, eps 0.3, {STEPS} steps of eps/10",
        "statistic": "share of the samples that flip whose κ has its peak at most 1 step from the flip",
    },
    parts=(
        Part("near", "κ peaks within a step of the flip", share("near", "flipped"), Region(low=0.9)),
        Part("rises", "κ at the peak is above κ at the clean input", share("rises", "flipped"), Region(low=0.9)),
        Part(
            "near_margin",
            "κ peaks within a step of where the label is nearest to losing",
            share("near_margin", "flipped"),
        ),
        Part("lag", "steps from the flip to the peak", median("lag", "flipped")),
        Part("decades", "decades that κ rises", median("decades", "flipped")),
    ),
    caveats=(
        "The head's κ is ‖a‖² times a spread under p(1 − p), which is largest where classes tie: that it peaks at the "
        "flip is nearly the same fact twice. For two classes it is so by construction; for more, the third part "
        "shows it.",
    ),
)


def measure(case: Case) -> Table:
    """Where each sample's κ has its peak, and where it flips."""
    trace = along(case, steps=STEPS, step_size=case.eps / 10)
    valley = trace.valley()
    margin = np.abs(trace.matrix("margin").values)
    closest = np.nanargmin(margin, axis=1)
    with np.errstate(divide="ignore"):
        decades = np.log10(valley.rise)
    return {
        "sample": valley.sample,
        "flipped": valley.flipped,
        "near": np.abs(valley.lag) <= 1,
        "rises": valley.rise > 1,
        "near_margin": np.abs(valley.peak_step - closest) <= 1,
        "lag": valley.lag.astype(float),
        "decades": np.where(np.isfinite(decades), decades, np.nan),
    }
