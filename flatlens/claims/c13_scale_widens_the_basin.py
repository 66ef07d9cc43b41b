"""C13: scaled weights make the network flatter and hardly raise the loss: of most samples, not of those that matter."""

from __future__ import annotations

import numpy as np

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.distances import nearest, radius
from flatlens.claims.nets import Case
from flatlens.claims.statistics import Table, mean, median, ratio_of_medians, share

SCALES = {"quarter": 0.25, "one": 1.0, "five": 5.0, "fifty": 50.0}
"""Name in the columns -> by what the head's weight and bias are multiplied."""
STEPS = 25
LOWEST = 1e-300
"""κ below this counts as this: it has a logarithm."""

CLAIM = Claim(
    name="C13",
    title="Flatness by scale widens the basin of low loss",
    source="arXiv 2510.14231, experiment 1",
    reported="as reported in notes on the paper: head × 0.25 … 50, PGD l2 0.025, 25 steps: with the scale κ falls, and "
    "the rise of the loss goes to 0; 90 % robust at scale 1",
    question="With the head's weight and bias × 50 instead of × 0.25, does an attack raise the loss less?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": f"PGD, l2, {STEPS} steps of eps/{STEPS} on the cross-entropy; eps is half of the network's median "
        "distance to the boundary by DDN, about 0.25 on digits; and the same on the margin",
        "scales": "weight and bias × 0.25, 1, 5, 50, one after the other on the same samples",
        "statistic": "nats that the loss has risen at the end; l2 distance by DDN on the margin",
    },
    parts=(
        Part(
            "median", "median rise of the loss at × 50, over that at × 0.25",
            ratio_of_medians("rise_fifty", "rise_quarter"), Region(high=0.1),
        ),
        Part(
            "mean", "mean rise at × 50, less that at × 0.25, of the attack that raises it more", mean("more"),
            Region(high=0),
        ),
        Part(
            "distance", "distance to the boundary at × 50, over that at × 0.25, medians",
            ratio_of_medians("distance_fifty", "distance_quarter"), Region(0.99, 1.01),
            forced="DDN on the margin sees the direction of its gradient and the label, and the scale changes neither",
        ),
        Part("apart", "samples whose distance is not the same to 0.1 % at all four", share("apart")),
        *(Part(f"rise_{name}", f"median rise at × {s:g}, nats", median(f"rise_{name}")) for name, s in SCALES.items()),
        *(Part(f"mean_{name}", f"mean rise at × {s:g}, nats", mean(f"rise_{name}")) for name, s in SCALES.items()),
        *(Part(f"kept_{name}", f"keep their label at × {s:g}", share(f"kept_{name}")) for name, s in SCALES.items()),
        Part("kept_margin", "keep their label at × 50 under the margin", share("margin_kept_fifty")),
        Part("mean_margin", "mean rise at × 50 under the margin, nats", mean("margin_rise_fifty")),
        Part("zero", "have an all-zero first gradient at × 50", share("zero_fifty")),
        Part("decades", "decades that κ of the clean input falls from × 0.25 to × 50, median", median("decades")),
    ),
    caveats=(
        "The scale changes no decision and so no distance: whatever κ does, the network is as robust as before.",
        "The loss of a sample that does flip is multiplied by the scale; the median does not see it where less than "
        "half of them flip.",
        "At × 50 the cross-entropy's gradient is zero for most samples in float32, so that its attack does not move; "
        "the one on the margin does. So the mean is of the attack that raises the loss of a sample more.",
    ),
)  # fmt: skip


def measure(case: Case) -> Table:
    """How far the loss rises at each scale, who keeps the label, and how far the boundary is."""
    from flatlens import attacks
    from flatlens.measure.trace import trace
    from flatlens.models.scaled import scaled

    x, y, ids = case.right()
    plain = case.model()
    networks = {name: scaled(plain, s, x[:8]) for name, s in SCALES.items()}
    columns = {"sample": ids.numpy()}
    columns |= {f"distance_{name}": nearest(case, model, x, y).distance for name, model in networks.items()}
    eps, kappa = radius(columns["distance_one"]) / 2, {}
    for name, model in networks.items():
        for prefix, objective in (("", "ce"), ("margin_", "margin")):
            attack = attacks.PGD(eps, "l2", STEPS, eps / STEPS, objective=objective)
            found = trace(model, x, y, attack=attack, seed=case.seed, images="none", bounds=case.data.bounds)
            loss = found.matrix("loss").values
            columns[f"{prefix}rise_{name}"] = loss[:, -1] - loss[:, 0]
            columns[f"{prefix}kept_{name}"] = ~found.matrix("flipped").values[:, -1].astype(bool)
            if objective == "ce":
                columns[f"zero_{name}"] = found.matrix("grad_zero_share").values[:, 0] == 1
                kappa[name] = np.maximum(found.matrix("relative_flatness").values[:, 0], LOWEST)
    distances = np.array([columns[f"distance_{name}"] for name in SCALES])
    columns["apart"] = ~(np.ptp(distances, axis=0) <= 1e-3 * distances[0])  # also where at one none was found
    worst = {name: np.maximum(columns[f"rise_{name}"], columns[f"margin_rise_{name}"]) for name in SCALES}
    columns["more"] = worst["fifty"] - worst["quarter"]
    columns["decades"] = np.log10(kappa["quarter"]) - np.log10(kappa["fifty"])
    return columns
