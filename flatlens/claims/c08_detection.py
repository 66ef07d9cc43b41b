"""C8: the head's relative sharpness tells adversarial inputs from clean ones, with a threshold alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.statistics import Table, accuracy, advantage, auc, caught, median, transfer

SCORES = ("kappa", "entropy", "gap")
FOLD = "fold"


def _pair(score: str, attack: str) -> tuple[str, str]:
    return f"{score}_clean", f"{score}_{attack}"


CLAIM = Claim(
    name="C8",
    title="κ detects adversarial inputs",
    source="arXiv 2510.14231, experiment 4",
    reported="as reported in notes on the paper: a stump on relative sharpness, 5 folds, WRN-28-4 on CIFAR-10: "
    "accuracy 0.92 to 0.93; the attack is not named",
    question="Does a threshold on κ tell PGD's results from their clean inputs, better than entropy does, on an attack "
    "that it was not set on, and where the attack knows of it?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": "linf, eps 0.3: PGD, 40 steps of eps/10; APGD-CE and APGD-DLR, 40 steps; FGSM; MI-FGSM, 20 steps; "
        "DDN on the margin, 100 steps, in l2; and the point between the clean input and PGD's end whose κ is nearest "
        "to one drawn from the κ of clean inputs",
        "pairs": "a sample's clean input and its adversarial one, where the attack turned it",
        "statistic": "accuracy of a stump, its threshold and side set on four fifths of the pairs and tried on the "
        "rest; the two of a pair are never parted",
    },
    parts=(
        Part(
            "pgd", "accuracy of a stump on κ against PGD", accuracy(*_pair("kappa", "pgd"), FOLD), Region(low=0.9)
        ),
        Part(
            "beats", "by how much it beats a stump on entropy",
            advantage(_pair("kappa", "pgd"), _pair("entropy", "pgd"), FOLD), Region(low=0.01),
        ),
        Part(
            "to_ddn", "accuracy of the stump that was set on PGD, against DDN",
            transfer(*_pair("kappa", "pgd"), "kappa_ddn", FOLD), Region(low=0.8),
        ),
        Part(
            "to_dlr", "accuracy of the stump that was set on PGD, against APGD-DLR",
            transfer(*_pair("kappa", "pgd"), "kappa_apgd_dlr", FOLD), Region(low=0.8),
        ),
        Part(
            "matched", "accuracy against flipped points with the κ of clean inputs",
            accuracy(*_pair("kappa", "kappa_matched"), FOLD), Region(low=0.8),
        ),
        Part("decades", "decades between their κ and the κ wanted", median("decades_matched")),
        *(
            Part(f"auc_{score}_{attack}", f"AUC of {said} against {name}", auc(*_pair(score, attack)))
            for attack, name in (
                ("pgd", "PGD"), ("apgd_dlr", "APGD-DLR"), ("fgsm", "FGSM"), ("ddn", "DDN"),
                ("kappa_matched", "κ-matched points"),
            )
            for score, said in (("kappa", "κ"), ("entropy", "entropy"), ("gap", "the top-2 gap"))
        ),
        Part("ddn", "accuracy of a stump on κ against DDN", accuracy(*_pair("kappa", "ddn"), FOLD)),
        Part("ddn_entropy", "the same on entropy", accuracy(*_pair("entropy", "ddn"), FOLD)),
        *(
            Part(f"caught_{attack}_{100 * rate:g}", f"{name}'s results that κ finds at {100 * rate:g} % false alarms",
                 caught(*_pair("kappa", attack), rate))
            for attack, name in (("pgd", "PGD"), ("ddn", "DDN"))
            for rate in (0.01, 0.05)
        ),
    ),
    caveats=(
        "An AUC above 0.5 means that adversarial inputs are sharper, one below that they are flatter: attacks that "
        "stop at the boundary end sharp, attacks that go on end flat.",
        "The κ-matched points are the weakest attack that knows of the detector: what is left against them is an upper "
        "bound of what detection can keep.",
        "The paper's networks and data are other ones; what holds there is settled with --model and --data.",
    ),
)  # fmt: skip


def measure(case: Case) -> Table:
    """Each score at each sample's clean input, and where each attack has led it."""
    from flatlens.trials import detectors

    x, y, ids = case.right()
    found = detectors.detect(case.model(), x, y, eps=case.eps, bounds=case.data.bounds, seed=case.seed).samples
    read = {name: found[name].to_numpy(zero_copy_only=False) for name in found.column_names}
    attack: NDArray[np.object_] = read["attack"]

    def rows(name: str) -> NDArray[np.intp]:
        at = np.flatnonzero(attack == name)
        return at[np.argsort(read["sample"][at])]

    clean = rows("clean")
    columns = {"sample": ids.numpy()[read["sample"][clean]], FOLD: read["fold"][clean]}
    columns |= {f"{score}_clean": read[score][clean].astype(float) for score in SCORES}
    for name in dict.fromkeys(attack):
        if name != "clean":
            at = rows(name)
            for score in SCORES:
                columns[f"{score}_{name}"] = np.where(read["success"][at], read[score][at].astype(float), np.nan)
    if (attack == "kappa_matched").any():
        columns["decades_matched"] = read["decades"][rows("kappa_matched")].astype(float)
    return columns
