"""What the defences of a sweep say of flatness and robustness, in one sentence made from their numbers.

Cases: the sharper are the more robust, the flatter are, no order is seen, all are as robust, too few, other eps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flatlens.report.defences import ENOUGH, FEWEST
from flatlens.report.packing import Plain
from flatlens.specs.values import radius

ALIKE = 4.0
"""Points of the worst case within which fewer than five seeds tell nothing apart."""
CHANCE = 0.05
"""A correlation that shuffling reaches more often is not told from chance."""


class Verdict(NamedTuple):
    """The sentence, and what it rests on."""

    sentence: str
    below: str


def verdict(found: Mapping[str, Any]) -> Verdict:
    """Whether the flatter defences are the more robust ones.

    Args:
        found: what `flatlens.report.defences.folded` makes.
    """
    rows = [row for row in found["rows"] if row["kappa"][0] is not None and row["worst"][0] is not None]
    reserve = _reserve(found)
    if found["eps"] is None:
        return Verdict(
            "These trainings were judged at different eps: their worst cases cannot be compared.",
            f"A sweep over defences at one eps can. {reserve}",
        )
    if len(rows) < FEWEST:
        many = {0: "No defence", 1: "One defence"}.get(len(rows), f"{len(rows)} defences")
        tail = " are too few" if len(rows) > 1 else " is too few" if rows else " with a closed-form κ is too few"
        return Verdict(f"{many}{tail} to tell whether flat is robust.", f"It takes {FEWEST} or more. {reserve}")
    flat, robust = min(rows, key=lambda row: row["kappa"][0]), max(rows, key=lambda row: row["worst"][0])
    spread = 100 * (robust["worst"][0] - min(row["worst"][0] for row in rows))
    known = found["correlation"]
    if spread < ALIKE or known is None:
        return Verdict(
            "These defences are about as robust, or as flat, as each other: neither can follow from the other.",
            f"From the least to the most robust it is {spread:.1f} points, and κ goes from {_kappa(flat)} to "
            f"{_kappa(max(rows, key=lambda row: row['kappa'][0]))}. {reserve}",
        )
    value, chance = known
    order = f"Rank correlation of κ and the worst case over {len(rows)} defences: {_signed(value)}, {_odds(chance)}."
    if chance > CHANCE:
        sentence = f"Flat or sharp does not tell robust here: {_both(flat, robust)}."
        below = f"{order} That is no order that chance would not make, and no proof that there is none. {reserve}"
    elif value > 0:
        sentence = f"Flat is not robust, and robust is not flat: {_both(flat, robust)}."
        below = (
            f"{order} The sharper a defence leaves the loss at clean inputs, the more attacks it withstands. {reserve}"
        )
    else:
        sentence = f"Here the flatter defences are the more robust ones: {_both(flat, robust)}."
        below = f"{order} What goes together need not follow from each other. {reserve}"
    return Verdict(sentence, below)


def _both(flat: Plain, robust: Plain) -> str:
    if flat is robust:
        return f"{flat['name']} is both the flattest (κ {_kappa(flat)}) and the most robust ({_points(flat)})"
    return (
        f"the flattest, {flat['name']} (κ {_kappa(flat)}), reaches {_points(flat)} in the worst case; "
        f"the most robust, {robust['name']} (κ {_kappa(robust)}), {_points(robust)}"
    )


def _reserve(found: Mapping[str, Any]) -> str:
    """What so many seeds allow, and what else is to be borne in mind."""
    rows: Sequence[Plain] = found["rows"]
    seeds = min(row["seeds"] for row in rows)
    said = []
    if seeds < ENOUGH:
        some = "one seed" if seeds == 1 else f"{seeds} seeds"
        said.append(f"With {some} of a defence nothing within ±{ALIKE:.0f} points is told apart; it takes five.")
    masked = sum(row["masked"] > 0 for row in rows)
    if masked:
        how = "masks its gradients: its" if masked == 1 else "mask their gradients: their"
        said.append(f"{masked} of the {len(rows)} defences {how} worst case may be worse still.")
    little = sum("not-learnt" in row["alarms"] for row in rows)
    if little:
        holds = "holds a training" if little == 1 else "hold trainings"
        said.append(f"{little} of the {len(rows)} defences {holds} with little learnt, as the table marks.")
    if found["models"] > 1:
        said.append(f"κ of {found['models']} different models may differ for reasons that are not robustness.")
    return " ".join(said)


def judged_by(found: Mapping[str, Any]) -> str:
    """The attacks that the worst case is over, in words."""
    where = "" if found["eps"] is None else f", {found['norm']}, eps {radius(found['eps'])}"
    return f"PGD-20, APGD-CE, APGD-T and Square{where}"


def _kappa(row: Plain) -> str:
    return f"{row['kappa'][0]:.3g}"


def _points(row: Plain) -> str:
    return f"{100 * row['worst'][0]:.1f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _odds(chance: float) -> str:
    return (
        "and fewer than 1 in 1,000 shufflings reach it"
        if chance < 0.001
        else f"which {_share(chance)} of shufflings reach"
    )


def _share(chance: float) -> str:
    return f"{100 * chance:.2g} %" if chance < 0.1 else f"{100 * chance:.0f} %"
