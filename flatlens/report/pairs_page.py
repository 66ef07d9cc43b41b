"""All ordered pairs of a data set's classes -> one HTML file: a heat map of what can be immunized against what.

The heat map is a table: it stands without a script, and a screen reader reads it as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from flatlens.records.immunized import PAIRS, Result
from flatlens.report import drawn_pairs, html_file, packing
from flatlens.report.immunity_parts import KIND, card, key_number, program, table
from flatlens.report.immunity_words import number, part, short
from flatlens.report.packing import Plain
from flatlens.report.roles import colours, styles
from flatlens.specs.values import shown
from flatlens.version import __version__

WEAKEST, STRONGEST = 4, 52
"""Percent of the attack's colour in cells: of more than that a number could not be read."""
MEASURES: Mapping[str, tuple[str, str, int]] = {
    "rir": ("ln RIR", "Both together, RIR = i / ii: high is wanted.", 1),
    "i": ("ln i", "By how much the harmful class is worse conditioned: above 0 is wanted.", 1),
    "ii": ("ln ii", "The same of the primary class: below 0 is wanted.", -1),
    "heldout_rir": ("ln RIR, held out", "RIR on samples that no extractor has seen.", 1),
}
"""Column -> what it is called, what it says, and whether high (1) or low (−1) is wanted."""

_COLUMNS = {
    "i": "i", "ii": "ii", "rir": "RIR", "bound": "ceiling",
    "heldout_i": "i, held out", "heldout_ii": "ii, held out", "heldout_rir": "RIR, held out",
}  # fmt: skip


def document(found: Result) -> str:
    """The page as text."""
    told, pairs = found.told, found.tables[PAIRS]
    name = f"{shown(part(told, 'data').get('uri', '?'))} · pairs immunized, {shown(told.get('method', '?'))}"
    figure = drawn_pairs.scatter(pairs)
    figures: dict[str, Plain] = {} if figure is None else {"scatter": figure}
    shown_maps = [column for column in MEASURES if np.isfinite(_logs(pairs[column])).any()]
    return html_file.document(
        "pairs.html",
        title=f"{name} · flatlens",
        css=styles() + "\n" + html_file.asset("shell.css", "run.css", "training.css", "immunity.css"),
        data=packing.compressed(packing.to_json({"colours": colours(), "figures": packing.figure(figures)})),
        script=program(),
        kind=KIND,
        without="The tables and the figure stand without a script; one map at a time needs one.",
        packed=True,
        what=escape(name),
        sentence=_sentence(pairs),
        below=escape(_below(told, pairs)),
        numbers="".join(key_number(*one) for one in _numbers(pairs)),
        buttons="".join(_button(column) for column in shown_maps),
        maps="".join(_map(pairs, column) for column in shown_maps) or '<p class="note">No pair has a ratio.</p>',
        figures="" if figure is None else _scatter_card(figure, pairs),
        table=_table(pairs),
        note=escape("Logarithms are natural: 2.3 is ten times. In the table the ratios themselves."),
        footer=escape(f"flatlens {__version__}: this file needs no network."),
    )


def _sentence(pairs: Mapping[str, Any]) -> str:
    n = len(pairs["rir"])
    both = int(((pairs["i"] > 1) & (pairs["ii"] < 1)).sum())
    logs = _logs(pairs["rir"])
    logs = logs[np.isfinite(logs)]
    said = (
        f'In <em class="said-attack">{both:,} of {n:,}</em> ordered pairs of classes the harmful one is worse '
        "conditioned and the primary one better"
    )
    return said + (f": ln RIR {logs.mean():.1f} on average, at least {logs.min():.1f}." if len(logs) else ".")


def _below(told: Mapping[str, Any], pairs: Mapping[str, Any]) -> str:
    model = part(told, "model")
    of = f"Features: the inputs of {shown(model.get('layer') or 'the model')} of {shown(model.get('uri', '?'))}." if (
        model) else "Features: the pixels themselves."  # fmt: skip
    unseen = np.isfinite(pairs["heldout_i"]) & np.isfinite(pairs["heldout_ii"])
    both = int(((pairs["heldout_i"] > 1) & (pairs["heldout_ii"] < 1) & unseen).sum())
    held = (
        f"On samples that no extractor has seen it is so in {both:,} of {int(unseen.sum()):,}. " if unseen.any() else ""
    )
    return held + (
        "Condition numbers alone: they say how slow plain gradient descent on a new head becomes. Conjugate gradients, "
        f"least squares and whitening are as fast as before, in every pair. {of} Ridge {short(told.get('ridge'))}."
    )


def _numbers(pairs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    found = []
    for column, name, wanted in (
        ("i", "i, median", "above 1"),
        ("ii", "ii, median", "below 1"),
        ("rir", "RIR, median", ""),
    ):
        values = pairs[column][np.isfinite(pairs[column])]
        ends = f"{short(float(values.min()))} to {short(float(values.max()))}" if len(values) else "–"
        found.append(
            (short(float(np.median(values))) if len(values) else "–", f"{name}{', ' + wanted if wanted else ''}", ends)
        )
    return found


def _button(column: str) -> str:
    return f'<button type="button" data-show="{column}">{escape(MEASURES[column][0])}</button>'


def _map(pairs: Mapping[str, Any], column: str) -> str:
    """One heat map: a row a primary class, a column a harmful one."""
    name, says, sign = MEASURES[column]
    classes = list(dict.fromkeys([*pairs["primary"].tolist(), *pairs["harmful"].tolist()]))
    logs = _logs(pairs[column])
    cells = {
        (a, b): (k, float(value))
        for k, (a, b, value) in enumerate(zip(pairs["primary"].tolist(), pairs["harmful"].tolist(), logs, strict=True))
    }
    wanted = sign * logs[np.isfinite(logs)]
    low, high = float(wanted.min()), float(wanted.max())
    head = "".join(f'<th scope="col">{escape(shown(one))}</th>' for one in classes)
    lines = []
    for primary in classes:
        inside = "".join(_cell(pairs, cells.get((primary, harmful)), sign, low, high) for harmful in classes)
        lines.append(f'<tr><th scope="row">{escape(shown(primary))}</th>{inside}</tr>')
    return (
        f'<section class="map" data-map="{column}" aria-label="{escape(name)}"><h3>{escape(name)} <small>{escape(says)}'
        f'</small></h3><div class="scroll" tabindex="0" role="region" aria-label="Heat map of {escape(name)}">'
        f'<table class="heat"><thead><tr><th scope="col">primary ↓ harmful →</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _cell(pairs: Mapping[str, Any], found: tuple[int, float] | None, sign: int, low: float, high: float) -> str:
    if found is None or not math.isfinite(found[1]):
        return '<td class="none">–</td>'
    k, value = found
    share = (sign * value - low) / (high - low) if high > low else 1.0
    strength = round(WEAKEST + (STRONGEST - WEAKEST) * share)
    title = f"i {short(float(pairs['i'][k]))}, ii {short(float(pairs['ii'][k]))}, RIR {short(float(pairs['rir'][k]))}"
    return f'<td style="--s:{strength}%" title="{escape(title)}">{_one(value)}</td>'


def _one(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _scatter_card(figure: Plain, pairs: Mapping[str, Any]) -> str:
    said = f"Each of {len(pairs['i']):,} pairs by its two ratios. The numbers are in the table below."
    caption = (
        "Right and low is what is wanted: the harmful class worse conditioned, the primary one better. Right and high, "
        "both are slow. Amber, where there is any: on samples that no extractor has seen."
    )
    rows = [
        [name, short(float(np.nanmedian(pairs[column])))] for column, name in (("i", "i, median"), ("ii", "ii, median"))
    ]
    return card("scatter", "Who pays", caption, figure, said, table(["ratio", "value"], rows))


def _table(pairs: Mapping[str, Any]) -> str:
    columns = {name: title for name, title in _COLUMNS.items() if np.isfinite(pairs[name]).any()}
    rows = [
        [f"{shown(a)} against {shown(b)}", *(short(number(float(pairs[column][k]))) for column in columns)]
        for k, (a, b) in enumerate(zip(pairs["primary"].tolist(), pairs["harmful"].tolist(), strict=True))
    ]
    return table(["primary against harmful", *columns.values()], rows)


def _logs(values: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
    return np.where(np.isfinite(logs), logs, np.nan)
