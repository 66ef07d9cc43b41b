"""The card of a sweep's page that holds its defences against each other: sentence, figure's place, and the table.

The table is there without a script; the page's program draws the figure and sorts the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from flatlens.report.flat_or_robust import judged_by, verdict
from flatlens.report.html_file import asset_of
from flatlens.report.packing import Plain

MOST_ROWS = 500
"""Rows of the table: so many as the table of all runs has without a script."""
_PERCENT = 100.0


def card(found: Mapping[str, Any] | None) -> str:
    """The card as HTML; nothing where no cell was trained by recipe.

    Args:
        found: what `flatlens.report.defences.folded` makes; its texts are any texts.
    """
    if found is None:
        return ""
    said = verdict(found)
    return asset_of(
        "defences.html",
        sentence=escape(said.sentence),
        below=escape(said.below),
        table=_table(found["rows"][:MOST_ROWS]),
        note=escape(_note(found)),
    )


def _table(rows: list[Plain]) -> str:
    head = "".join(
        f'<th scope="col">{escape(title)}</th>' for title in ("defence", *(c[0] for c in _COLUMNS), "masked")
    )
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(_line(i, row) for i, row in enumerate(rows))}</tbody>"


def _line(place: int, row: Plain) -> str:
    mark = '<i class="mark attacked" aria-hidden="true">◆</i>' if row["attacked"] else (
        '<i class="mark" aria-hidden="true">●</i>')  # fmt: skip
    alarms = "".join(f'<small class="alarm">{escape(code.replace("-", " "))}</small>' for code in row["alarms"]
                     if code != "masked")  # fmt: skip
    cells = "".join(_cell(of(row), write) for _, of, write in _COLUMNS)
    masked, seeds = row["masked"], row["seeds"]
    told = "–" if not masked else "yes" if seeds == 1 else f"{masked} of {seeds}"
    last = f'<td data-value="{masked / seeds}"{" class=alarmed" if masked else ""}>{told}</td>'
    return f'<tr data-row="{place}"><th scope="row">{mark} {escape(row["name"])}{alarms}</th>{cells}{last}</tr>'


def _cell(of: list[float | None], write: Callable[[float], str]) -> str:
    """A mean and its spread over seeds."""
    value, deviation, _ = of
    if value is None:
        return '<td class="empty">–</td>'
    spread = "" if deviation is None else f"<small> ± {(_two if write is _three else write)(deviation)}</small>"
    return f'<td data-value="{value!r}">{write(value)}{spread}</td>'


def _three(value: float) -> str:
    """Three digits, without an exponent while it is no long number."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _two(value: float) -> str:
    """A deviation: more digits of it would be noise."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.2g}"


def _share(value: float) -> str:
    return f"{_PERCENT * value:.1f}"


_Column = tuple[str, Callable[[Plain], list[float | None]], Callable[[float], str]]
_COLUMNS: tuple[_Column, ...] = (
    ("seeds", lambda row: [row["seeds"], None, row["seeds"]], lambda value: f"{value:.0f}"),
    ("clean, %", lambda row: row["clean"], _share),
    ("worst case, %", lambda row: row["worst"], _share),
    ("loss gap, nats", lambda row: row["loss_gap"], _three),
    ("κ, clean", lambda row: row["kappa"], _three),
    ("Lipschitz bound", lambda row: row["lipschitz"], _three),
    ("valleys, % of the flipped", lambda row: row["valleys"], _share),
    ("a step, × standard", lambda row: row["cost"], lambda value: f"{value:.2f}"),
)


def _note(found: Mapping[str, Any]) -> str:
    left = len(found["rows"]) - MOST_ROWS
    return " ".join(filter(None, (
        f"Means ± standard deviations over seeds. Worst case: the share of test samples that stay right under each of "
        f"{judged_by(found)}. Loss gap: how much the attack raises the loss; small logits make it small, too. κ: the "
        "head's median relative flatness at clean inputs, high is sharp. Lipschitz bound: the product of the layers' "
        "spectral norms, loose. Valleys: along the sweep's attack, at the first layer. A step's time is that of the "
        "machine while it trained, with whatever else it did.",
        "Masked: attacks that follow the cross-entropy overstate the model." if any(
            row["masked"] for row in found["rows"]) else "",
        f"{left:,} more defences are not in the table." if left > 0 else "",
    )))  # fmt: skip
