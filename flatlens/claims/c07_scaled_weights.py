"""C7: scaling the head's weights makes a network look robust; the cross-entropy's gradient has underflown."""

from __future__ import annotations

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.statistics import Table, difference, exceptions, share

SCALE = 100.0
STEPS = 10

CLAIM = Claim(
    name="C7",
    title="Scaled weights stop first-order attacks",
    source="arXiv 2510.14231, experiment 2",
    reported="as reported in notes on the paper: PGD linf 8/255, 10 steps, scale 1 to 100: 0 to 93 % robust; examples "
    "of the unscaled network transfer wholly",
    question="With the head's weight and bias × 100, does PGD on the cross-entropy fail, and what does not?",
    protocol={
        "nets": "flatlens:cnn, five seeds; quick: digits-cnn",
        "data": "flatlens:digits, test split, samples that are right",
        "attack": f"PGD, linf, eps 0.3, {STEPS} steps of 2.5·eps/{STEPS}; on cross-entropy, margin, DLR; float32, and "
        "cross-entropy in float64",
        "statistic": "share of the samples that keep their label, paired between the scaled network and the plain one",
    },
    parts=(
        Part(
            "rise", "more samples keep their label under float32 cross-entropy", difference("ce_scaled", "ce"),
            Region(low=0.8),
        ),
        Part(
            "margin", "more of them under the margin", difference("margin_scaled", "margin"), Region(-0.02, 0.02)
        ),
        Part("dlr", "more of them under DLR", difference("dlr_scaled", "dlr"), Region(-0.02, 0.02)),
        Part(
            "underflow", "samples for which keeping the label and an all-zero first gradient differ, float32",
            exceptions("same"), Region(high=0),
        ),
        Part("wide", "keep their label under cross-entropy in float64", share("ce64_scaled")),
        Part("underflow64", "the same in float64", exceptions("same64")),
        Part(
            "transfer", "examples of the plain network that fool the scaled one", share("transfers", "fooled"),
            forced="the largest of s·z is the largest of z",
        ),
    ),
    caveats=(
        "What looks like robustness is floating-point underflow: the gradient of the cross-entropy is zero to the last "
        "bit. Objectives that the scale does not change find every example.",
        "float64 postpones the underflow and does not end it.",
    ),
)  # fmt: skip


def measure(case: Case) -> Table:
    """Who keeps the label, under each objective, with the plain head and with the scaled one."""
    import torch

    from flatlens import attacks
    from flatlens.measure.trace import trace
    from flatlens.models.scaled import scaled

    x, y, ids = case.right()
    plain = case.model()
    large = scaled(plain, SCALE, x[:8])

    def ends(model: torch.nn.Module, objective: str, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, ...]:
        attack = attacks.PGD(eps=case.eps, steps=STEPS, objective=objective)
        found = trace(model, x, y, attack=attack, seed=case.seed, images="key", bounds=case.data.bounds, dtype=dtype)
        flipped = torch.from_numpy(found.matrix("flipped").values[:, -1].astype(bool))
        zero = torch.from_numpy(found.matrix("grad_zero_share").values[:, 0] == 1.0)
        return ~flipped, zero, torch.from_numpy(found.x_adv)

    columns = {"sample": ids}
    columns["ce"], _, adversarial = ends(plain, "ce")
    columns["ce_scaled"], zero, _ = ends(large, "ce")
    columns["ce64_scaled"], zero64, _ = ends(large, "ce", torch.float64)
    for objective in ("margin", "dlr"):
        columns[objective] = ends(plain, objective)[0]
        columns[f"{objective}_scaled"] = ends(large, objective)[0]
    columns["zero"], columns["zero64"] = zero, zero64
    columns["same"] = columns["ce_scaled"] == zero
    columns["same64"] = columns["ce64_scaled"] == zero64
    columns["fooled"] = ~columns["ce"]
    with torch.no_grad():
        columns["transfers"] = large(adversarial).argmax(1) != y
    return {name: values.numpy() for name, values in columns.items()}
