"""What an immunization's page says in words: one sentence of what was reached, and what it does not protect from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

import numpy as np

from flatlens.records.immunized import ATTACKERS, FINETUNING, Result
from flatlens.report import drawn_immunity as drawn
from flatlens.specs.values import shown

NOT_IMMUNE = 1.05
"""Ceilings below it are 1: both tasks see the features alike."""
SLOWER, MUCH_SLOWER = 2.0, 10.0
"""How many times as much of the loss has to be left to be called so."""
LEARNT = 1e-3
"""A share of the loss below which a task counts as learnt: what is left then makes no difference."""
_UP = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Said(NamedTuple):
    """The first screen: ``sentence`` is HTML; ``below`` and ``numbers`` are texts."""

    sentence: str
    below: str
    numbers: list[tuple[str, str, str]]


def said(found: Result) -> Said:
    """The first screen of an immunization."""
    return Said(_sentence(found), _below(found), _numbers(found))


def number(value: Any) -> float | None:
    """A finite number; None of anything else, for a record may come from elsewhere."""
    able = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if able else None


def short(value: Any) -> str:
    """Three digits, and powers of ten where more zeros would not be read; – where there is no number."""
    known = number(value)
    if known is None:
        return "–"
    if known != 0 and not 1e-3 <= abs(known) < 1e6:
        lead, _, power = f"{known:.1e}".partition("e")
        return f"{lead} · 10{str(int(power)).translate(_UP)}"
    return f"{known:,.0f}" if abs(known) >= 1000 else f"{known:.3g}"


def share(value: float | None) -> str:
    """A share of the loss, in percent."""
    if value is None:
        return "–"
    if value < 1e-5:
        return "< 0.001 %"
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def not_immune(told: Mapping[str, Any]) -> bool:
    """Whether the ceiling says that nothing can be had."""
    bound = number(told.get("bound"))
    return told.get("stop") == "not-immunizable" or (bound is not None and bound < NOT_IMMUNE)


def part(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table in the summary; an empty one where there is none."""
    found = told.get(name)
    return found if isinstance(found, Mapping) else {}


def _sentence(found: Result) -> str:
    told, attackers = found.told, found.tables.get(ATTACKERS)
    if not_immune(told):
        return (
            "Not immunizable: both tasks see these features alike. No linear map has a ratio above "
            f"<em>{escape(short(told.get('bound')))}</em>, and none was made."
        )
    gaps = None if attackers is None else _gaps(attackers, drawn.HARMFUL, drawn.DESCENT)
    if attackers is None or gaps is None:
        return (
            f"The harmful task’s condition number is <em>{short(told.get('i'))} ×</em> what it was, and the primary "
            f"one’s <em>{short(told.get('ii'))} ×</em>: gradient descent on a new head takes so many times as long."
        )
    before, after = gaps
    said = (
        f"{_verdict(before, after)}: after {iterations(attackers)} iterations of plain gradient descent "
        f'<em class="said-attack">{escape(share(after))}</em> of the harmful task’s loss is left, without '
        f"immunization {escape(share(before))}"
    )
    undone = [(drawn.last(attackers, drawn.HARMFUL, drawn.IMMUNIZED, name), name) for name in drawn.UNDOING]
    ways = [drawn.words(name) for value, name in undone if value is not None and value <= LEARNT]
    if ways:
        said += f'. <em class="said-cross">{_capital(_listed(ways))} learn it as before</em>'
    useful = _gaps(attackers, drawn.PRIMARY, drawn.DESCENT)
    if useful is not None and useful[1] > max(SLOWER * useful[0], LEARNT):
        now, then = (escape(share(useful[k])) for k in (1, 0))
        said += f". The primary task is slower, too: {now} left, without immunization {then}"
    return said + "."


def _verdict(before: float, after: float) -> str:
    times = after / before if before > 0 else math.inf
    if after <= LEARNT or times < SLOWER:
        return "Not slower"
    return "Much slower" if times >= MUCH_SLOWER else "A little slower"


def _gaps(attackers: Mapping[str, Any], task: str, attacker: str) -> tuple[float, float] | None:
    before, after = (drawn.last(attackers, task, of, attacker) for of in (drawn.IDENTITY, drawn.IMMUNIZED))
    return None if before is None or after is None else (before, after)


def iterations(attackers: Mapping[str, Any]) -> str:
    """After how many iterations the attackers end."""
    there = attackers["iteration"][np.isfinite(attackers["iteration"])]
    return f"{there.max():,.0f}" if len(there) else "?"


def _below(found: Result) -> str:
    told = found.told
    model, data = part(told, "model"), part(told, "data")
    of = f"Features: the inputs of {shown(model.get('layer') or 'the model')} of {shown(model.get('uri', '?'))}. " if (
        model) else ""  # fmt: skip
    names = [f"{task} {_data(part(data, task))}" for task in (drawn.HARMFUL, drawn.PRIMARY) if part(data, task)]
    unmeasured = "Fine-tuning of the whole network is not bound by it, and was not measured here."
    whole = _whole(found) or unmeasured
    tasks = _capital("; ".join(names)) + "." if names else ""
    return (
        "The features are multiplied by an invertible matrix θ, which removes nothing: it costs time, and only those "
        f"who take the plain gradient on a new head. {whole} {of}{tasks}"
    ).strip()


def _whole(found: Result) -> str:
    """What fine-tuning the whole network reaches on the harmful task, by the optimizer that reaches most."""
    rows = found.tables.get(FINETUNING)
    if rows is None:
        return ""
    ends = []
    for optimizer in dict.fromkeys(rows["optimizer"].tolist()):
        bands = [drawn.spread(rows, optimizer, drawn.HARMFUL, of) for of in (drawn.IMMUNIZED, drawn.IDENTITY)]
        if bands[0] is not None and bands[1] is not None:
            ends.append((bands[0][2][-1], bands[1][2][-1], bands[0][0][-1], optimizer))
    if not ends:
        return ""
    after, before, epochs, optimizer = max(ends)
    return (
        f"Who fine-tunes the whole network by {drawn.optimizer_words(optimizer)} has {100 * after:.0f} % of the "
        f"harmful task right after {epochs:g} epochs, without immunization {100 * before:.0f} %."
    )


def _data(of: Mapping[str, Any]) -> str:
    classes = of.get("classes")
    told = isinstance(classes, list) and classes
    which = f", classes {', '.join(map(str, classes or ()))}" if told else ""
    return f"{shown(of.get('uri', '?'))}{which}"


def _numbers(found: Result) -> list[tuple[str, str, str]]:
    told, held = found.told, part(found.told, "heldout")
    aside = {name: f"held out {short(held.get(name))}" if held else "nothing held out" for name in ("i", "ii")}
    numbers = [
        (short(told.get("i")), "i, harmful κ ×", aside["i"]),
        (short(told.get("ii")), "ii, primary κ ×", aside["ii"]),
        (short(told.get("rir")), "RIR = i / ii", f"ceiling {short(told.get('bound'))}"),
    ]
    attackers = found.tables.get(ATTACKERS)
    gaps = None if attackers is None else _gaps(attackers, drawn.HARMFUL, drawn.DESCENT)
    if gaps is not None:
        numbers.append((share(gaps[1]), "harmful loss left", f"before {share(gaps[0])}"))
    return numbers


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
