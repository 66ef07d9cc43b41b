"""C3: of an adversarially trained network κ peaks later and its valley is shallower: at one radius, and at its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import ROBUST, STANDARD, Claim, Part, Region
from flatlens.claims.distances import nearest, radius
from flatlens.claims.nets import Case
from flatlens.claims.paths import along, to_peak
from flatlens.claims.statistics import Table, difference, median, ratio_of_medians, share

STEPS = 40
OWN = 3.0
"""How many times a sample's own distance to the boundary the radius of the control is."""
KINDS = (STANDARD, ROBUST)

CLAIM = Claim(
    name="C3",
    title="Adversarial training: later and shallower",
    source="Walter et al., arXiv 2405.16918",
    reported="in adversarially trained networks the peak comes later, and the valley is less pronounced",
    question="At the same radius, and at radii that are equal multiples of each sample's distance to the boundary: is "
    "κ's peak further out and its fall smaller than in the network that was trained as usual?",
    protocol={
        "nets": "flatlens:cnn, five seeds, each trained as usual and by PGD, linf eps 0.1; quick: digits-cnn and "
        "digits-cnn-robust",
        "data": "flatlens:digits, test split, samples that both networks are right at",
        "attack": f"PGD, linf, eps 0.3 at both, {STEPS} steps of eps/10",
        "control": f"PGD, l2, {STEPS} steps of 2.5·eps/{STEPS}, eps of each sample {OWN:g} × its distance to the "
        "boundary by DDN: the standard network's at both, and the attacked network's own",
        "statistic": "l2 from the clean input to κ's peak; decades from the peak to the end; both of the same samples, "
        "where both flip",
    },
    parts=(
        Part(
            "later", "l2 to the peak, robust over standard, medians",
            ratio_of_medians("peak_robust", "peak_standard", "both"), Region(low=1),
        ),
        Part("shallower", "decades that the robust network's κ falls less, median", median("less", "both"),
             Region(low=0)),
        Part("fewer", "more valleys of the standard network, both flipped",
             difference("valley_standard", "valley_robust", "both")),
        Part("distance", "distance to the boundary, robust over standard, medians",
             ratio_of_medians("distance_robust", "distance_standard")),
        Part("later_l2", "l2 to the peak at the same l2 radius, robust over standard",
             ratio_of_medians("peak_same", "peak_own_standard", "both_same")),
        Part("shallower_l2", "decades less at the same l2 radius", median("less_same", "both_same")),
        Part("later_own", "l2 to the peak over the own distance, robust over standard, at the own radius",
             ratio_of_medians("share_robust", "share_standard", "both_own")),
        Part("shallower_own", "decades less at the own radius", median("less_own", "both_own")),
        Part("fewer_own", "more valleys of the standard network at the own radius",
             difference("valley_own_standard", "valley_own_robust", "both_own")),
        *(Part(f"flips_{kind}", f"samples of the {kind} network that flip", share(f"flipped_{kind}"))
          for kind in KINDS),
        *(Part(f"depth_{kind}", f"decades that κ falls, {kind}", median(f"depth_{kind}", f"flipped_{kind}"))
          for kind in KINDS),
        *(Part(f"depth_own_{kind}", f"decades that κ falls at the own radius, {kind}",
               median(f"depth_own_{kind}", f"flipped_own_{kind}")) for kind in KINDS),
        *(Part(f"rise_{kind}", f"decades that κ rises, {kind}", median(f"rise_{kind}", f"flipped_{kind}"))
          for kind in KINDS),
    ),
    caveats=(
        "At the same radius the attack on the robust network ends nearer to its boundary: a path that is cut short is "
        "shallower whatever the surface is like. What remains at the own radius is the surface's.",
        "κ does not compare between networks; decades along a path do, and still depend on how confident each is.",
    ),
    kinds=KINDS,
)  # fmt: skip


class Walked(NamedTuple):
    """Of each sample ``[n]``: whether it flips and has a valley, l2 to κ's peak, and decades that κ rises and falls."""

    flipped: NDArray[np.bool_]
    valley: NDArray[np.bool_]
    peak: NDArray[np.float64]
    rise: NDArray[np.float64]
    depth: NDArray[np.float64]


def measure(case: Case) -> Table:
    """Where κ peaks and how far it falls, of both networks, at one radius and at radii of the samples' own."""
    x, y, ids = case.right(*KINDS)
    columns: dict[str, NDArray[np.generic]] = {"sample": ids.numpy()}
    distance = {kind: nearest(case, case.model(kind), x, y).distance for kind in KINDS}
    found = ~np.isnan(distance[STANDARD]) & ~np.isnan(distance[ROBUST])
    radii = {kind: OWN * np.where(np.isnan(far), radius(far), far) for kind, far in distance.items()}
    same, own = {}, {}
    for kind in KINDS:
        same[kind], own[kind] = walked(case, kind), walked(case, kind, radii[kind])
        columns |= {f"{name}_{kind}": values for name, values in same[kind]._asdict().items()}
        columns |= {f"{name}_own_{kind}": values for name, values in own[kind]._asdict().items()}
        columns[f"distance_{kind}"] = distance[kind]
        columns[f"share_{kind}"] = own[kind].peak / distance[kind]
    beside = walked(case, ROBUST, radii[STANDARD])
    columns["peak_same"] = beside.peak
    with np.errstate(invalid="ignore"):  # two ends at κ = 0 are no difference that is known
        columns["less"] = same[STANDARD].depth - same[ROBUST].depth
        columns["less_own"] = own[STANDARD].depth - own[ROBUST].depth
        columns["less_same"] = own[STANDARD].depth - beside.depth
    columns["both"] = same[STANDARD].flipped & same[ROBUST].flipped
    columns["both_own"] = own[STANDARD].flipped & own[ROBUST].flipped & found
    columns["both_same"] = own[STANDARD].flipped & beside.flipped & found
    return columns


def walked(case: Case, kind: str, radii: NDArray[np.float64] | None = None) -> Walked:
    """PGD on one of the networks: in linf of the case's radius, or in l2 with a radius of each sample ``[n]``."""
    from flatlens import attacks

    attack = None if radii is None else attacks.PGD(eps=radii.tolist(), norm="l2", steps=STEPS)
    trace = along(case, attack, kind=kind, kinds=KINDS, steps=STEPS, step_size=case.eps / 10)
    valley = trace.valley()
    with np.errstate(divide="ignore"):
        rise = np.log10(valley.rise)
    return Walked(valley.flipped, valley.is_valley, to_peak(trace), rise, valley.depth)
