"""C12: training on adversarial inputs makes a network robust, and one step of the attack is enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.statistics import Table, difference, share

EPS, STEPS = 0.2, 20
WIDE = 0.3
"""The radius at which training by one step from the clean input is known to break down."""
NONE, FGSM, RANDOM, PGD, BROKEN = "none", "fgsm", "rs-fgsm", "pgd", "fgsm-wide"
TRAINED = {NONE: "no", FGSM: "FGSM", RANDOM: "random-start FGSM", PGD: "PGD-7"}


def _recipe(epochs: int, **attack: Any) -> dict[str, Any]:
    return {"epochs": epochs, "lr": 0.003, "batch_size": 32, "weight_decay": 0.05, "eps": EPS} | attack


CLAIM = Claim(
    name="C12",
    title="Adversarial training makes robust, and one step is enough",
    source="Goodfellow et al. 2015, arXiv 1412.6572; Madry et al. 2018, arXiv 1706.06083; tutorials on attacks",
    reported="networks that were trained on adversarial inputs keep most labels under that attack; tutorials train and "
    "test with FGSM",
    question="How many more test samples are right under PGD after training on adversarial inputs, and does FGSM "
    "training hold against PGD what it holds against FGSM?",
    protocol={
        "nets": "flatlens:cnn, five seeds, each trained five times: on clean inputs, and against FGSM from the clean "
        f"input, FGSM from a random start, PGD-7 (15 epochs, eps {EPS}), and FGSM at eps {WIDE} (60 epochs)",
        "data": "flatlens:digits, test split, all 450 samples: one that is wrong before the attack is wrong",
        "attack": f"PGD, linf, eps {EPS}, {STEPS} steps from a random start; FGSM, one step of eps",
        "statistic": "share of the samples that are right at the attack's end, paired between trainings",
    },
    parts=(
        Part(
            "pgd", "more are right under PGD after PGD training than after none", difference("pgd_pgd", "none_pgd"),
            Region(low=0.2),
        ),
        Part(
            "fgsm", "more are right under PGD after FGSM training than after none", difference("fgsm_pgd", "none_pgd"),
            Region(low=0.2),
        ),
        Part(
            "rs-fgsm", "more are right under PGD after random-start FGSM training than after none",
            difference("rs-fgsm_pgd", "none_pgd"), Region(low=0.2),
        ),
        Part(
            "own", "after FGSM training, more are right under FGSM than under PGD", difference("fgsm_fgsm", "fgsm_pgd"),
            Region(high=0.05),
        ),
        Part("steps", "more are right under PGD after PGD training than after FGSM", difference("pgd_pgd", "fgsm_pgd")),
        *(
            Part(f"{kind}_{attack}", f"right {under} after {said} adversarial training", share(f"{kind}_{attack}"))
            for kind, said in TRAINED.items()
            for attack, under in (("clean", "before any attack"), ("fgsm", "under FGSM"), ("pgd", "under PGD"))
        ),
        *(
            Part(f"{kind}_{attack}", f"the same under PGD at eps {eps}, {said}", share(f"{kind}_{attack}"))
            for kind, said in TRAINED.items()
            for attack, eps in (("near", EPS / 2), ("far", WIDE))
        ),
        Part(
            "overfitting", f"after FGSM training at eps {WIDE}, more are right under FGSM of that eps than under PGD",
            difference(f"{BROKEN}_fgsm", f"{BROKEN}_pgd"),
        ),
        Part(f"{BROKEN}_pgd", "of these, right under PGD", share(f"{BROKEN}_pgd")),
        Part(f"{BROKEN}_clean", "of these, right before any attack", share(f"{BROKEN}_clean")),
    ),
    caveats=(
        "A network that keeps its labels under the attack that it was trained on need not be robust: FGSM training is "
        "to be judged by PGD, and PGD itself is no proof; docs/results/defences.md has the worst of four attacks.",
        "Catastrophic overfitting (FGSM training that holds against FGSM alone) depends on eps, length of training and "
        "network: it is shown at one setting where it is known to happen.",
    ),
    kinds=(*TRAINED, BROKEN),
    sizes=(150, 450),
    trainings={
        NONE: _recipe(15),
        FGSM: _recipe(15, adversarial="fgsm?start=clean"),
        RANDOM: _recipe(15, adversarial="fgsm"),
        PGD: _recipe(15, adversarial="pgd", steps=7),
        BROKEN: _recipe(60, adversarial="fgsm?start=clean", eps=WIDE),
    },
    full_only="trains five networks for each seed",
    own_models="it trains its networks itself, each in five ways; flatlens train and flatlens robustness do it step by "
    "step for one's own",
)  # fmt: skip


def measure(case: Case) -> Table:
    """Which samples each network has right: clean, under FGSM, and under PGD."""
    from flatlens import attacks
    from flatlens.claims.nets import predicted
    from flatlens.measure.trace import trace

    x, y, ids = case.samples()
    columns = {"sample": ids.numpy()}

    def right(kind: str, attack: Any) -> NDArray[np.bool_]:
        model = case.model(kind)
        found = trace(model, x, y, attack=attack, seed=case.seed, images="key", bounds=case.data.bounds)
        return (predicted(model, x.new_tensor(found.x_adv)) == y).numpy()

    def pgd(eps: float) -> Any:
        return attacks.PGD(eps, steps=STEPS, random_start=True)

    for kind in CLAIM.kinds:
        eps = WIDE if kind == BROKEN else EPS
        columns[f"{kind}_clean"] = (predicted(case.model(kind), x) == y).numpy()
        columns[f"{kind}_fgsm"] = right(kind, attacks.FGSM(eps))
        columns[f"{kind}_pgd"] = right(kind, pgd(eps))
        if kind != BROKEN:
            columns |= {f"{kind}_near": right(kind, pgd(EPS / 2)), f"{kind}_far": right(kind, pgd(WIDE))}
    return columns
