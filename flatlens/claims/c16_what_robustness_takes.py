"""C16: flatness makes robust together with a low Lipschitz constant and a bounded third derivative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.paths import along
from flatlens.claims.statistics import Table, explained_by_ways, partial_of_ways

if TYPE_CHECKING:
    from torch import nn

EPS, EPOCHS, STEPS = 0.1, 15, 20
LEARNT = 0.9
"""Share of clean samples from which on a network has learnt."""
LOWEST = 1e-300
"""What is below is taken for this: its logarithm must be finite."""
WAYS: dict[str, dict[str, str]] = {
    "none": {},
    "sam": {"defence": "sam"},
    "sam 0.2": {"perturb_weights": "sam?rho=0.2"},
    "asam": {"defence": "asam"},
    "fam 0.01": {"penalty": "fam?weight=0.01"},
    "fam 0.03": {"penalty": "fam?weight=0.03"},
    "fam 0.1": {"penalty": "fam?weight=0.1"},
    "fam 0.3": {"penalty": "fam?weight=0.3"},
    "gradient 0.3": {"penalty": "gradient?weight=0.3"},
    "gradient": {"defence": "gradient"},
    "gradient 3": {"penalty": "gradient?weight=3"},
    "spectral": {"defence": "spectral"},
    "spectral 0.05": {"penalty": "spectral?weight=0.05"},
    "flat-lipschitz": {"defence": "flat-lipschitz"},
    "flat-spectral": {"defence": "flat-spectral"},
    "fgsm": {"defence": "fgsm"},
    "free": {"defence": "free"},
    "pgd": {"defence": "pgd"},
    "mix": {"defence": "mix"},
    "trades 2": {"adversarial": "pgd", "loss": "trades?beta=2"},
    "trades": {"defence": "trades"},
    "mart": {"defence": "mart"},
    "awp": {"defence": "awp"},
    "trades-awp": {"defence": "trades-awp"},
    "fam-pgd": {"defence": "fam-pgd"},
    "gan": {"defence": "gan"},
}
"""Ways of training by name: all recipes of `flatlens defences`, some of them more and less strongly."""
WAY = "way"
FLAT, LIPSCHITZ, THIRD, SLOPE, GAP, ROBUST = "flat", "low_lipschitz", "low_third", "low_slope", "gap", "robust"

CLAIM = Claim(
    name="C16",
    title="Robust is flat, with a low Lipschitz constant and a bounded third derivative",
    source="arXiv 2510.14231, its conclusion",
    reported="as reported in notes on the paper: flatness bounds how the loss grows only together with the Lipschitz "
    "constant of the features and the third derivative",
    question="Over many ways of training, are networks more robust the flatter they are, where the bound on the "
    "Lipschitz constant and the third derivative along the attack are the same; and likewise of these two?",
    protocol={
        "nets": f"flatlens:cnn trained in {len(WAYS)} ways, {EPOCHS} epochs, five seeds each",
        "data": "flatlens:digits, test split, all 450 samples",
        "robust": f"share of the samples that stay right under PGD, APGD-CE, APGD-T and Square, linf, eps {EPS}",
        "flat": "median of the head's κ at clean inputs; Lipschitz: product of the spectral norms of all layers",
        "third": f"third derivative of the loss along the step, its largest size on PGD's path ({STEPS} steps of "
        "eps/10); median over 100 right samples",
        "statistic": "partial rank correlation over ways of training, each the mean over its seeds; Fisher's interval",
    },
    parts=(
        Part(
            "flat", "rank correlation of robustness with flatness, given the Lipschitz bound and the third derivative",
            partial_of_ways(ROBUST, FLAT, LIPSCHITZ, THIRD, way=WAY), Region(low=0),
        ),
        Part(
            "lipschitz", "with a low Lipschitz bound, given flatness and the third derivative",
            partial_of_ways(ROBUST, LIPSCHITZ, FLAT, THIRD, way=WAY), Region(low=0),
        ),
        Part(
            "third", "with a small third derivative, given flatness and the Lipschitz bound",
            partial_of_ways(ROBUST, THIRD, FLAT, LIPSCHITZ, way=WAY), Region(low=0),
        ),
        Part(
            "together", "share of the robustness (of ranks) that the three explain",
            explained_by_ways(ROBUST, FLAT, LIPSCHITZ, THIRD, way=WAY), Region(low=0.5),
        ),
        # The next three were added after the figures, when two ways were seen to have learnt little: none decides.
        Part(
            "flat_learnt", f"with flatness, given the other two, of networks right at {LEARNT:.0%} and more, clean "
            "(added after the figures)", partial_of_ways(ROBUST, FLAT, LIPSCHITZ, THIRD, way=WAY, among="learnt"),
        ),
        Part(
            "lipschitz_learnt", "with a low Lipschitz bound, of these (likewise)",
            partial_of_ways(ROBUST, LIPSCHITZ, FLAT, THIRD, way=WAY, among="learnt"),
        ),
        Part(
            "third_learnt", "with a small third derivative, of these (likewise)",
            partial_of_ways(ROBUST, THIRD, FLAT, LIPSCHITZ, way=WAY, among="learnt"),
        ),
        Part("alone", "rank correlation with flatness alone", partial_of_ways(ROBUST, FLAT, way=WAY)),
        Part("lipschitz_alone", "with a low Lipschitz bound alone", partial_of_ways(ROBUST, LIPSCHITZ, way=WAY)),
        Part("third_alone", "with a small third derivative alone", partial_of_ways(ROBUST, THIRD, way=WAY)),
        Part("slope_alone", "with a small slope of the margin", partial_of_ways(ROBUST, SLOPE, way=WAY)),
        Part("gap_alone", "with a large top-2 gap", partial_of_ways(ROBUST, GAP, way=WAY)),
        Part(
            "flat_slope", "with flatness, given slope and gap", partial_of_ways(ROBUST, FLAT, SLOPE, GAP, way=WAY)
        ),
        Part(
            "slope_flat", "with a small slope, given flatness and gap",
            partial_of_ways(ROBUST, SLOPE, FLAT, GAP, way=WAY),
        ),
        Part(
            "slope_gap", "share of the robustness that slope and gap explain",
            explained_by_ways(ROBUST, SLOPE, GAP, way=WAY),
        ),
        Part("flat_gap", "rank correlation of flatness with the top-2 gap", partial_of_ways(FLAT, GAP, way=WAY)),
    ),
    caveats=(
        "The ways of training are those that there are, some of them at several strengths, and no random sample of all "
        "networks. Networks of one way are much alike: ways are counted, not networks.",
        "A rank correlation is no cause: adversarial training changes all of these at once.",
        "The product of spectral norms is far above the true Lipschitz constant, of the logits and not the features; "
        "the third derivative is exact only where the network is linear along a step.",
    ),
    kinds=tuple(WAYS),
    sizes=(100, 100),
    units=("seed", "way"),
    trainings={name: {"epochs": EPOCHS, "eps": EPS, **axes} for name, axes in WAYS.items()},
    full_only=f"trains {len(WAYS)} networks for each seed",
    own_models="it compares ways of training; a robustness of one's own model is measured by flatlens robustness",
)  # fmt: skip


def measure(case: Case) -> Table:
    """A row for each way of training: how robust its network is, and how flat, steep and bent."""
    rows: list[dict[str, Any]] = []
    for index, kind in enumerate(case.net.uris):
        known: Mapping[str, Any] = case.loaded(kind).reached or {}
        found = known["robustness"]
        bound = found["lipschitz"]
        rows.append({
            "sample": index,
            WAY: index,
            "name": kind,
            "clean": found["clean"]["value"],
            "learnt": found["clean"]["value"] >= LEARNT,
            ROBUST: found["worst"]["value"],
            FLAT: _low(found["kappa"]["value"]),
            LIPSCHITZ: np.nan if bound is None else _low(bound),
            THIRD: _low(_third(case, kind)),
            SLOPE: _low(found["slope"]["value"]),
            GAP: _gap(case, case.model(kind)),
        })  # fmt: skip
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _low(value: float) -> float:
    """−log₁₀: large where the value is small."""
    return -float(np.log10(max(value, LOWEST)))


def _third(case: Case, kind: str) -> float:
    """The largest third derivative of the loss on PGD's path, in nats per step³: the median over right samples."""
    trace = along(case, kind=kind, steps=STEPS, step_size=EPS / 10, eps=EPS)
    return float(np.median(np.nanmax(np.abs(trace.matrix("path_third").values), axis=1)))


def _gap(case: Case, model: nn.Module) -> float:
    """The median top-2 gap at the clean inputs."""
    import torch

    with torch.no_grad():
        first, second = model(torch.from_numpy(case.data.x)).topk(2, dim=1).values.unbind(1)
    return float(np.median((first - second).numpy()))
