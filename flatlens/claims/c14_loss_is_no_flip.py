"""C14: a loss that rises much flips the label; a flip need not raise the loss much (a reviewer of 2510.14231)."""

from __future__ import annotations

import numpy as np

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.paths import along
from flatlens.claims.statistics import Table, exceptions, median, share

STEPS = 40

CLAIM = Claim(
    name="C14",
    title="A rise of the loss is not a flip",
    source="OpenReview, a review of 2510.14231",
    reported="a sample can flip while its loss hardly rises, or falls: bounds of the loss say little of flips",
    question="How many flips happen at a rise of the loss below log K, which alone forces one?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": f"PGD, linf, eps 0.3, {STEPS} steps of eps/10",
        "statistic": "share of the first flips at which the loss has risen by less than log K",
    },
    parts=(
        Part("below", "first flips at a rise below log K", share("below", "flipped"), Region(low=0.5)),
        Part(
            "forced",
            "samples with a step whose loss is above log K and whose label has not flipped",
            exceptions("all_above_flipped", "ever_above"),
            Region(high=0),
            forced="a loss above log K leaves the label less than 1/K, so another class has more",
        ),
        Part("rise", "nats that the loss has risen by at the first flip", median("rise", "flipped")),
    ),
    caveats=("At a flip the loss itself is at least log 2, for the label has at most half of the probability.",),
)


def measure(case: Case) -> Table:
    """How far the loss has risen where each sample first flips."""
    trace = along(case, steps=STEPS, step_size=case.eps / 10)
    loss, flips = trace.matrix("loss").values, trace.matrix("flipped").values.astype(bool)
    classes = case.data.classes
    flipped = flips.any(1)
    first = np.argmax(flips, axis=1)
    rise = np.take_along_axis(loss, first[:, None], 1)[:, 0] - loss[:, 0]
    above = loss > np.log(classes)
    return {
        "sample": trace.matrix("loss").sample,
        "flipped": flipped,
        "rise": np.where(flipped, rise, np.nan),
        "below": rise < np.log(classes),
        "ever_above": above.any(1),
        "all_above_flipped": (flips | ~above).all(1),
    }
