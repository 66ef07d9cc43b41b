"""C9: the basin of low loss is twenty times as wide in an adversarially trained network; in l2, not in steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import ROBUST, STANDARD, Claim, Part, Region
from flatlens.claims.distances import nearest, radius
from flatlens.claims.nets import Case
from flatlens.claims.paths import to_peak
from flatlens.claims.statistics import Table, length, median, ratio_of_lengths, ratio_of_medians, share
from flatlens.records.trajectory import Trace

STEPS = 60
PER_DISTANCE = 10
"""Steps that a network's median distance to the boundary is long."""
RISE = 0.1
"""Nats that the loss has risen by where the basin of low loss ends."""
KINDS = (STANDARD, ROBUST)


def _over(name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (f"{name}_robust", f"{name}_robust_met"), (f"{name}_standard", f"{name}_standard_met")


CLAIM = Claim(
    name="C9",
    title="Robust training widens the basin 20 ×",
    source="arXiv 2510.14231, experiment 3",
    reported="as reported in notes on the paper: PGD l2 0.5, 50 steps of 0.01: the basin of the adversarially trained "
    "network is about 20 × as wide in iterations, at a similar trace of the Hessian",
    question="How far from a clean input does the loss stay low, in a network trained by PGD, over the same without?",
    protocol={
        "nets": "flatlens:cnn, five seeds, each trained as usual and by PGD, linf eps 0.1; quick: digits-cnn and "
        "digits-cnn-robust",
        "data": "flatlens:digits, test split, samples that both networks are right at",
        "attack": f"PGD, l2, {STEPS} steps of 1/{PER_DISTANCE} of the network's median distance to the boundary by DDN "
        "(0.05 on digits), no radius, clipped to the images' bounds; control: not clipped",
        "statistic": f"l2 at which the loss has first risen by {RISE} nats, median over samples; the product-limit "
        "estimate, for paths may end before",
    },
    parts=(
        Part("size", f"l2 to a rise of {RISE} nats, robust over standard", ratio_of_lengths(*_over("rise")),
             Region(low=10)),
        Part("direction", "the same: wider at all", ratio_of_lengths(*_over("rise")), Region(low=1)),
        Part("flip", "l2 to the first flip, robust over standard", ratio_of_lengths(*_over("flip"))),
        Part("log_k", "l2 to a rise of log K, robust over standard", ratio_of_lengths(*_over("log_k"))),
        Part("peak", "l2 to κ's peak, robust over standard", ratio_of_medians("peak_robust", "peak_standard")),
        Part("distance", "distance to the boundary by DDN, robust over standard",
             ratio_of_medians("distance_robust", "distance_standard")),
        Part("free", f"l2 to a rise of {RISE} nats, not clipped, robust over standard",
             ratio_of_lengths(*_over("free_rise"))),
        Part("free_flip", "l2 to the first flip, not clipped, robust over standard",
             ratio_of_lengths(*_over("free_flip"))),
        *(Part(f"rise_{kind}", f"l2 to a rise of {RISE} nats, {kind}",
               length(f"rise_{kind}", f"rise_{kind}_met")) for kind in KINDS),
        *(Part(f"met_{kind}", f"samples whose loss rises by {RISE} nats at all, {kind}",
               share(f"rise_{kind}_met")) for kind in KINDS),
        *(Part(f"flip_{kind}", f"l2 to the first flip, {kind}", length(f"flip_{kind}", f"flip_{kind}_met"))
          for kind in KINDS),
        Part("trace", "trace of the head's Hessian at clean inputs, robust over standard, medians",
             ratio_of_medians("trace_robust", "trace_standard")),
        *(Part(f"trace_{kind}", f"median trace of the head's Hessian, {kind}", median(f"trace_{kind}"))
          for kind in KINDS),
    ),
    caveats=(
        "A width in iterations depends on the step, and a count that ends at 50 is no width: here it is l2, and paths "
        "that end before the event count as longer.",
        "What robust training gains depends on its radius and on the data: 20 × was reported for CIFAR-10, and these "
        "are digits of 64 pixels.",
    ),
    kinds=KINDS,
)  # fmt: skip


def measure(case: Case) -> Table:
    """How far each sample's paths are from it where the loss has risen, where they flip, and where κ peaks."""
    from flatlens import attacks
    from flatlens.measure.trace import trace

    x, y, ids = case.right(*KINDS)
    columns: dict[str, NDArray[np.generic]] = {"sample": ids.numpy()}
    low, high = case.data.bounds
    for kind in KINDS:
        model = case.model(kind)
        distance = nearest(case, model, x, y).distance
        step = radius(distance) / PER_DISTANCE
        # No path is longer than all its steps: this radius is none, and these bounds are none.
        reach = STEPS * step
        attack = attacks.PGD(eps=reach, norm="l2", steps=STEPS, step_size=step)
        walks = {
            prefix: trace(model, x, y, attack=attack, seed=case.seed, images="none", bounds=bounds)
            for prefix, bounds in {"": (low, high), "free_": (low - reach, high + reach)}.items()
        }
        for prefix, walk in walks.items():
            for name, met in events(walk, case.data.classes).items():
                far, came = first(walk.matrix("l2").values, met)
                columns[f"{prefix}{name}_{kind}"], columns[f"{prefix}{name}_{kind}_met"] = far, came
        columns[f"peak_{kind}"] = to_peak(walks[""])
        columns[f"distance_{kind}"] = distance
        columns[f"trace_{kind}"] = walks[""].matrix("trace").values[:, 0]
    return columns


def events(walk: Trace, classes: int) -> dict[str, NDArray[np.bool_]]:
    """Name -> where along a path it has happened, ``[n, T+1]``."""
    loss = walk.matrix("loss").values
    rise = loss - loss[:, :1]
    return {
        "rise": rise > RISE,
        "log_k": rise > np.log(classes),
        "flip": walk.matrix("flipped").values.astype(bool),
    }


def first(length: NDArray[np.float64], met: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How far each path is out where something first happens, and whether it does, ``[n]`` each.

    Where it does not, it is as far as the path ever is.

    Args:
        length: l2 along the paths, ``[n, T+1]``.
        met: where it happens, ``[n, T+1]``.
    """
    came: NDArray[np.bool_] = np.asarray(met.any(1))
    at = np.take_along_axis(length, met.argmax(1)[:, None], 1)[:, 0]
    return np.where(came, at, length.max(1)), came
