"""An immunization -> one HTML file: what was reached, who learns the harmful task all the same, and all figures."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from flatlens.records.immunized import ATTACKERS, FINETUNING, HISTORY, PAIRS, Result
from flatlens.report import drawn_immunity as drawn
from flatlens.report import html_file, immunity_words, packing, pairs_page
from flatlens.report.immunity_parts import KIND, card, key_number, pill, program, save, table, table_card
from flatlens.report.immunity_words import number, part, share, short
from flatlens.report.packing import Plain
from flatlens.report.roles import colours, styles
from flatlens.specs.values import shown
from flatlens.version import __version__

AT = (0, 1, 2, 5, 10, 20, 50, 100)
"""Iterations and steps that a figure's table tells, besides the last."""
MOST_OPTIMIZERS = 8
CAPTIONS = {
    drawn.HARMFUL: "Blue is whom immunization is made against. Amber takes the same features and the same data and is "
    "not slowed down; grey is between. At the lower edge 10⁻¹⁰ or less is left.",
    drawn.PRIMARY: "The same attackers on the useful task, whose learning is to stay easy.",
}


def write(found: Result, file: Path) -> Path:
    """Draw an immunization and return where its page is; a page of an earlier one there is replaced.

    Args:
        found: what its folder holds.
        file: where to.

    Raises:
        ResourceError: the file cannot be written, or is something else than such a page.
    """
    return save(document(found), file)


def document(found: Result) -> str:
    """The page as text; that of the pairs of a data set's classes where it holds them."""
    if PAIRS in found.tables:
        return pairs_page.document(found)
    told, said = found.told, immunity_words.said(found)
    made, cards = _figures(found)
    name = _name(told)
    cautions = [one for one in told.get("cautions") or () if isinstance(one, dict)]
    return html_file.document(
        "immunity.html",
        title=f"{name} · flatlens",
        css=styles() + "\n" + html_file.asset("shell.css", "run.css", "training.css", "immunity.css"),
        data=packing.compressed(packing.to_json({"colours": colours(), "figures": packing.figure(made)})),
        script=program(),
        kind=KIND,
        without="The figures stand without a script; values under the pointer need one.",
        packed=True,
        what=escape(name),
        sentence=said.sentence,
        below=escape(said.below),
        cautions="".join(pill(str(one.get("code", "")), str(one.get("message", ""))) for one in cautions),
        numbers="".join(key_number(*one) for one in said.numbers),
        figures=cards,
        conditions=_conditions(told),
        note=escape(_note(told)),
        tables=_left_table(found) + _tuned_table(found),
        footer=escape(f"flatlens {__version__}: this file needs no network."),
    )


def _name(told: dict[str, Any]) -> str:
    model = part(told, "model").get("uri")
    method = shown(told.get("method", "?"))
    return f"{shown(model)} · immunized, {method}" if model else f"two tables · immunized, {method}"


def _figures(found: Result) -> tuple[dict[str, Plain], str]:
    """The figures by name, and their cards as HTML."""
    made: dict[str, Plain] = {}
    cards: list[str] = []

    def add(name: str, figure: Plain | None, title: str, caption: str, rows: Callable[[], str]) -> None:
        if figure is not None:
            made[name] = figure
            cards.append(card(name, title, caption, figure, _said(title, figure), rows()))

    if (attackers := found.tables.get(ATTACKERS)) is not None:
        for task in (drawn.HARMFUL, drawn.PRIMARY):
            title = f"The {task} task, iteration by iteration"
            made_of = drawn.convergence(attackers, task)
            add(task, made_of, title, CAPTIONS[task], lambda of=made_of: _points("iteration", of))  # type: ignore[misc]
        for task in (drawn.HARMFUL, drawn.PRIMARY):
            title = f"The {task} task: what θ changes, attacker by attacker"
            caption = (
                "A long way to the right is time gained. Where both points are at the left, nothing is."
                if task == drawn.HARMFUL
                else "The useful task is to stay where it was, or to move to the left."
            )
            made_of = drawn.left(attackers, task)
            add(f"left-{task}", made_of, title, caption, lambda t=task: _ends(attackers, t))  # type: ignore[misc]
    if (tuned := found.tables.get(FINETUNING)) is not None:
        for place, optimizer in enumerate(list(dict.fromkeys(tuned["optimizer"].tolist()))[:MOST_OPTIMIZERS]):
            title = f"The whole network, fine-tuned by {drawn.optimizer_words(optimizer)}"
            caption = (
                f"All of it is trained on the harmful task: the median of {_seeds(tuned)} seeds, and from the lowest "
                "to the highest. Where blue is as high as the dashed line of the harmful task, nothing was gained."
            )
            made_of = drawn.tuned(tuned, optimizer)
            add(f"tuned-{place}", made_of, title, caption, lambda of=made_of: _points("epoch", of))  # type: ignore[misc]
    if (rows := found.tables.get(HISTORY)) is not None:
        made_of = drawn.history(rows, number(found.told.get("bound")))
        caption = (
            "Ratios to what they were without θ, by step of the search, on the samples that it sees. The ceiling is "
            "what no linear map exceeds: the defender’s upper limit, and no promise against attackers."
        )
        add("history", made_of, "The search", caption, lambda: _points("step", made_of))
    return made, "".join(cards)


def _seeds(tuned: dict[str, Any]) -> int:
    return len(np.unique(tuned["seed"][np.isfinite(tuned["seed"])]))


def _said(title: str, figure: Plain) -> str:
    """A figure in words: each line's last value."""
    lines = [line for line in figure["data"] if line["name"] not in ("seeds", "between") and "text" not in line]
    ends = "; ".join(f"{line['name']} ends at {line['y'][-1]:.2g}" for line in lines)
    return f"{title}. {ends + '. ' if ends else ''}The numbers are below."


def _points(along: str, figure: Plain | None) -> str:
    """Some points of each line as a table."""
    lines = [line for line in (figure or {"data": ()})["data"] if line["name"] != "seeds"]
    ends = {float(line["x"][-1]) for line in lines}
    at = sorted({x for line in lines for x in line["x"].tolist() if x in AT or x in ends})
    rows = []
    for x in at:
        values = [dict(zip(line["x"].tolist(), line["y"].tolist(), strict=True)).get(x) for line in lines]
        rows.append([f"{x:g}", *("–" if value is None else f"{value:.3g}" for value in values)])
    # Names in a figure are escaped for plotly already.
    return table([along, *(_unescaped(line["name"]) for line in lines)], rows)


def _unescaped(name: str) -> str:
    return name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _ends(attackers: dict[str, Any], task: str) -> str:
    rows = [
        [drawn.words(name), *(_gap(drawn.last(attackers, task, of, name)) for of in (drawn.IDENTITY, drawn.IMMUNIZED))]
        for name in drawn.names(attackers, task)
    ]
    return table(["attacker", "left without θ", "left with θ"], rows)


def _gap(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _conditions(told: dict[str, Any]) -> str:
    held = part(told, "heldout")

    def row(name: str, task: str, ratio: str, wanted: str) -> list[str]:
        of = part(told, task)
        ratios = [short(told.get(ratio)), short(held.get(ratio)) if held else "–"]
        return [name, short(of.get("before")), short(of.get("after")), *ratios, wanted]

    bound = short(told.get("bound"))
    limit = f"ceiling {bound}" + (": not immunizable" if immunity_words.not_immune(told) else "")
    last = ["RIR = i / ii", "", "", short(told.get("rir")), short(held.get("rir")) if held else "–", limit]
    rows = [row("harmful: i", "harmful", "i", "above 1"), row("primary: ii", "primary", "ii", "below 1"), last]
    return table(["task", "κ without θ", "κ with θ", "ratio", "ratio, held out", "wanted"], rows)


def _note(told: dict[str, Any]) -> str:
    samples, model = told.get("samples"), part(told, "model")
    many = f", of {samples[0]:,} primary and {samples[1]:,} harmful samples" if _are_two(samples) else ""
    moved = number(model.get("logits"))
    method, steps, stop = (shown(told.get(key, "?")) for key in ("method", "steps", "stop"))
    return " ".join(filter(None, (
        f"κ: condition number of the probe’s Hessian with ridge {short(told.get('ridge'))}{many}. Method "
        f"{method}, {steps} steps; ended: {stop}.",
        f"The model’s own logits move by at most {moved:.2g}." if moved is not None else "",
        f"It loads as {shown(model['appended'])}." if isinstance(model.get("appended"), str) else "",
        "The ceiling is the largest RIR that any linear map has on the samples that θ was found on. Condition numbers "
        "are not speed: the loss that is left is.",
    )))  # fmt: skip


def _are_two(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, int) for one in value)


def _left_table(found: Result) -> str:
    if (attackers := found.tables.get(ATTACKERS)) is None:
        return (
            '<section class="card"><h2>Attackers</h2><p class="note">Nobody could be let learn these tasks: no targets '
            "were given, only features. Condition numbers are not speed.</p></section>"
        )
    tasks = (drawn.HARMFUL, drawn.PRIMARY)
    head = ["attacker", *(f"{task}, {of}" for task in tasks for of in ("without θ", "with θ"))]
    rows = [
        [
            drawn.words(name),
            *(share(drawn.last(attackers, t, of, name)) for t in tasks for of in (drawn.IDENTITY, drawn.IMMUNIZED)),
        ]
        for name in dict.fromkeys(attackers["attacker"].tolist())
    ]
    title = f"Loss left after {immunity_words.iterations(attackers)} iterations"
    return table_card("left", title, table(head, rows), "Shares of the loss above its minimum, on all features alike.")


def _tuned_table(found: Result) -> str:
    if (tuned := found.tables.get(FINETUNING)) is None:
        return ""
    rows = []
    for optimizer in list(dict.fromkeys(tuned["optimizer"].tolist()))[:MOST_OPTIMIZERS]:
        for task in (drawn.HARMFUL, drawn.PRIMARY):
            for extractor in (drawn.IDENTITY, drawn.IMMUNIZED):
                if (bands := drawn.spread(tuned, optimizer, task, extractor)) is not None:
                    epochs, low, middle, high = bands
                    at = (0, min(1, len(epochs) - 1), -1)
                    told = [f"{100 * middle[k]:.1f} [{100 * low[k]:.1f}, {100 * high[k]:.1f}]" for k in at]
                    which = "immunized" if extractor == drawn.IMMUNIZED else "as it was"
                    rows.append([f"{drawn.optimizer_words(optimizer)}, {task}, {which}", *told, f"{epochs[-1]:g}"])
    head = ["fine-tuning", "right before, %", "after one epoch, %", "at the end, %", "epochs"]
    return table_card("tuned", "Fine-tuning the whole network", table(head, rows),
                       f"Medians of {_seeds(tuned)} seeds, and in brackets the lowest and the highest.")  # fmt: skip
