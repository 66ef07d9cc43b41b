"""C6: the loss rises by no more than flatness allows; the paper's bound, and one without a constant to be guessed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.paths import along
from flatlens.claims.statistics import Table, exceptions, mean, ratio_of_medians, share
from flatlens.records.trajectory import Trace

STEPS = 40
PATHS = ("attack", "gaussian-noise", "line-to-other-class")
ROUNDING = 1e-9, 1e-12
"""A bound is exceeded where the loss is beyond it by more than this share of it and by more than this many nats."""

Floats = NDArray[np.float64]

CLAIM = Claim(
    name="C6",
    title="Flatness bounds the rise of the loss",
    source="arXiv 2510.14231, theorem 1",
    reported="as reported in notes on the paper: Δℓ ≤ δ²L²κ/(2r²) + δ³KmL⁶/(24r³) at a local minimum, where the "
    "features φ are L-Lipschitz and ‖φ(x)‖ ≥ r",
    question="Along an attack and two paths that are none: is the bound kept, and is it flatness that keeps it?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": f"PGD, linf, eps 0.3, {STEPS} steps of eps/10",
        "controls": f"a ray of Gaussian noise of that radius, and the line to an image of another class, {STEPS} steps",
        "L": "of each sample, the largest ‖φ(x) − φ(x₀)‖ / ‖x − x₀‖ of all its points: at most the true constant",
        "statistic": "samples with any point beyond a bound; for the term with κ the share of the attack's points "
        "within it, averaged over samples",
    },
    parts=(
        Part("kept", "samples with a point beyond the paper's bound", exceptions("kept"), Region(high=0)),
        Part(
            "flatness", "share of the attack's points within the bound's term with κ alone", mean("flatness"),
            Region(low=0.95),
        ),
        Part(
            "certificate", "samples with a point beyond flatlens' certificate, with the largest eigenvalue",
            exceptions("certificate"), Region(high=0), forced="a theorem: log-sum-exp is generalised self-concordant",
        ),
        Part(
            "certificate_kappa", "the same, with κ", exceptions("certificate_kappa"), Region(high=0),
            forced="as before, for κ/‖φ‖² is the sum of those eigenvalues",
        ),
        Part("kept_widest", "samples with a point beyond the paper's bound, L being the largest of all samples",
             exceptions("kept_widest")),
        Part(
            "slack", "how many times the loss's rise the paper's bound is at the first step, medians",
            ratio_of_medians("bound_first", "rise_first"),
        ),
        Part(
            "slack_certificate", "how many times the certificate is, at the first step",
            ratio_of_medians("certificate_first", "rise_first"),
        ),
        Part(
            "slack_flip", "how many times the certificate is, at the flip",
            ratio_of_medians("certificate_flip", "rise_flip", "flipped"),
        ),
        Part("says", "first steps at which the paper's bound is below log K, so that it says anything", share("says")),
        Part("says_certificate", "the same of the certificate", share("says_certificate")),
    ),
    caveats=(
        "The theorem asks for a local minimum, which no sample is at, and for L, of which only a lower bound is seen: "
        "a point beyond the bound does not refute it. The largest L of all samples of a network is a lower bound too, "
        "and a better one.",
        "The certificate has a term with the gradient and needs neither; it bounds the loss by how far the features "
        "have moved, not by how far the input has.",
        "Where the term with κ is not enough by itself, what keeps the bound is the term with L⁶, in which no flatness "
        "stands.",
    ),
)  # fmt: skip


class Bounds(NamedTuple):
    """Along one path, ``[n, T]``, the clean input left out: the rise of the loss, and what bounds it; all in nats."""

    rise: Floats
    paper: Floats
    flatness: Floats
    eigenvalue: Floats
    kappa: Floats


def measure(case: Case) -> Table:
    """Whether each sample's points are within the bounds, and how wide these are."""
    from flatlens.measure.features import features

    x, _, _ = case.right()
    width = features(case.model(), x[:8]).x.shape[1]
    trace = along(case, steps=STEPS, step_size=case.eps / 10, controls=PATHS[1:])
    slope, classes = lipschitz(trace), case.data.classes
    every = [bounds(trace, path, slope, classes, width) for path in PATHS]
    widest = [bounds(trace, path, np.full_like(slope, slope.max()), classes, width).paper for path in PATHS]
    rise, paper, _, eigenvalue, kappa = (np.concatenate(parts, axis=1) for parts in zip(*every, strict=True))
    flips = trace.matrix("flipped").values.astype(bool)
    flipped = flips.any(1)
    rows, at = np.arange(len(flips)), np.where(flipped, flips.argmax(1) - 1, 0)
    # Of many classes there is no eigenvalue.
    tightest = np.where(np.isnan(eigenvalue), kappa, eigenvalue)
    most = np.log(classes)
    return {
        "sample": trace.matrix("loss").sample,
        "kept": all_within(rise, paper),
        "kept_widest": all_within(rise, np.concatenate(widest, axis=1)),
        "flatness": within(every[0].rise, every[0].flatness).mean(1),
        "certificate": all_within(rise, eigenvalue),
        "certificate_kappa": all_within(rise, kappa),
        "flipped": flipped,
        # The attack's points are the first ones.
        "rise_first": rise[:, 0],
        "bound_first": paper[:, 0],
        "certificate_first": tightest[:, 0],
        "rise_flip": rise[rows, at],
        "certificate_flip": tightest[rows, at],
        "says": paper[:, 0] < most,
        "says_certificate": tightest[:, 0] < most,
    }


def lipschitz(trace: Trace) -> Floats:
    """Of each sample the largest ‖φ(x) − φ(x₀)‖ / ‖x − x₀‖ of all its points, ``[n]``."""
    found = []
    for path in PATHS:
        moved, length = (trace.matrix(name, path=path).values[:, 1:] for name in ("feature_distance", "l2"))
        found.append(np.divide(moved, length, out=np.zeros_like(moved), where=length > 0).max(1))
    return np.asarray(np.max(found, axis=0))


def bounds(trace: Trace, path: str, slope: Floats, classes: int, width: int) -> Bounds:
    """The bounds along a path, from what is known at its clean input.

    Args:
        trace: with the path.
        path: its name.
        slope: L of each sample, ``[n]``.
        classes: K.
        width: how many features the head is given.
    """

    def column(name: str) -> Floats:
        return np.asarray(trace.matrix(name, path=path).values[:, 1:])

    kappa, square = (trace.matrix(name, path=path).values[:, :1] for name in ("relative_flatness", "feature_norm_sq"))
    flatness, rest = theorem(column("l2"), slope[:, None], kappa, square, classes, width)
    return Bounds(
        column("loss_change"), flatness + rest, flatness, column("certificate_bound_eigenvalue"),
        column("certificate_bound_kappa"),
    )  # fmt: skip


def theorem(
    length: Floats, slope: Floats, kappa: Floats, square: Floats, classes: int, width: int
) -> tuple[Floats, Floats]:
    """The two terms of the paper's bound, in nats: δ²L²κ/(2r²) and δ³KmL⁶/(24r³).

    Args:
        length: δ, how far the input has moved in l2.
        slope: L.
        kappa: κ of the head at the clean input.
        square: r² = ‖φ(x₀)‖².
        classes: K.
        width: m, how many features there are.
    """
    return length**2 * slope**2 * kappa / (2 * square), length**3 * classes * width * slope**6 / (24 * square**1.5)


def within(rise: Floats, limit: Floats) -> NDArray[np.bool_]:
    """Where a rise is within its bound, but for rounding."""
    return rise <= limit * (1 + ROUNDING[0]) + ROUNDING[1]


def all_within(rise: Floats, limit: Floats) -> Floats:
    """Of each sample 1 where all its points are within the bound, else 0; NaN where there is no bound."""
    return np.where(np.isnan(limit).any(1), np.nan, within(rise, limit).all(1))
