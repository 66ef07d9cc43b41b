"""The card of a sweep's page that holds its immunizations against each other; it stands without a script."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from flatlens.records.schema import ATTACK
from flatlens.report.immunity_words import LEARNT, SLOWER, number, share, short
from flatlens.report.packing import Plain
from flatlens.report.sweep_data import DrawnCell
from flatlens.specs import wording
from flatlens.specs.immunize import NONE
from flatlens.specs.wording import IMMUNIZE, METHOD, varying

MOST_ROWS = 200
RATIOS = ("i", "ii", "rir", "bound", "heldout_rir")
LEFT = ("harmful_left", "primary_left")


def folded(cells: Sequence[DrawnCell]) -> list[Plain]:
    """A row for each way of immunizing, its seeds together; first the models that were not immunized, where there are.

    Args:
        cells: of a sweep. Those with the same immunization but other attacks are one immunization.

    Returns:
        Rows of ``name``, ``method``, ``seeds``, and of each of `RATIOS`, of `LEFT` and of ``valleys`` (the share of the
        flipped) ``[median, lowest, highest]`` over the seeds, Nones where nothing is told. Nothing where no cell is
        immunized.
    """
    able = [cell for cell in cells if cell.spec.get(IMMUNIZE) and isinstance(cell.immunized, Mapping)]
    if not able:
        return []
    groups: dict[str, list[DrawnCell]] = {}
    for cell in able:
        groups.setdefault(_key(cell, seeds=False), []).append(cell)
    specs = [_seedless(group[0]) for group in groups.values()]
    apart = [key for key in varying(specs) if key != METHOD and key.partition(".")[0] in ("model", "train", IMMUNIZE)]
    rows = []
    for spec, group in zip(specs, groups.values(), strict=True):
        method = str((spec.get(IMMUNIZE) or {}).get("method", "?"))
        name = ", ".join([method, *(f"{key.removeprefix('immunize.')} {wording.value_of(spec, key)}" for key in apart)])
        rows.append(_row(name, method, group))
    plain = [cell for cell in cells if not cell.spec.get(IMMUNIZE) and cell.digest is not None]
    if plain:
        nothing: Plain = {name: _spread([]) for name in RATIOS}
        before = {name: _spread(_told(cell, f"{name}_before") for cell in able) for name in LEFT}
        valleys = _spread([statistics.mean(found)] if (found := _valleys(plain)) else [])
        rows.insert(0, {"name": "not immunized", "method": NONE, "seeds": 1, **nothing, **before, "valleys": valleys})
    return rows


def card(cells: Sequence[DrawnCell]) -> str:
    """The card as HTML; nothing where no cell was immunized."""
    rows = folded(cells)
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in ("immunized by", "seeds", *_COLUMNS))
    lines = "".join(_line(row) for row in rows[:MOST_ROWS])
    left = len(rows) - MOST_ROWS
    note = (
        "Medians over seeds, and their range. i, ii: condition numbers of the harmful and the primary task against "
        "what they were. Loss left: what plain gradient descent on a new head has not learnt after the last "
        "iteration. Conjugate gradients, least squares and whitening are not slowed down by any of these. Valleys: "
        "along the sweep’s attack, at the first layer."
    ) + (f" {left:,} more rows are not in the table." if left > 0 else "")
    return (
        '<section class="card" id="immunity-card" aria-labelledby="immunity-title"><h2 id="immunity-title">'
        f'Immunization: method by method</h2><p class="verdict">{escape(_verdict(rows))}</p><div class="scroll" '
        'tabindex="0" role="region" aria-label="Table of immunizations; the arrow keys scroll it"><table '
        f'id="immunity-table"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="note">{escape(note)}</p></section>'
    )


def _verdict(rows: Sequence[Plain]) -> str:
    """Which leaves most of the harmful loss among those that spare the primary task, and what is left without any."""
    told = [row for row in rows if row["method"] != NONE and row["harmful_left"][0] is not None]
    if not told:
        return "No targets were given, so that no loss is told: condition numbers are not speed."
    before = next((row for row in rows if row["method"] == NONE), None)
    useful = None if before is None else before["primary_left"][0]
    most = max(LEARNT, SLOWER * (useful or 0.0))
    sparing = [row for row in told if row["primary_left"][0] is not None and row["primary_left"][0] <= most]
    best = max(sparing or told, key=lambda row: float(row["harmful_left"][0]))
    where = "Where the primary task is spared, most" if sparing else "No method spares the primary task; most"
    said = (
        f"{where} of the harmful loss is left by {best['name']}: {share(best['harmful_left'][0])} to plain gradient "
        f"descent, with {share(best['primary_left'][0])} of the primary one"
    )
    if before is None or before["harmful_left"][0] is None:
        return f"{said}."
    return f"{said}; not immunized {share(before['harmful_left'][0])} and {share(useful)}."


def _row(name: str, method: str, group: Sequence[DrawnCell]) -> Plain:
    by_seed: dict[str, list[DrawnCell]] = {}
    for cell in group:
        by_seed.setdefault(_key(cell, seeds=True), []).append(cell)
    firsts = [same[0] for same in by_seed.values()]
    shares = [statistics.mean(found) for same in by_seed.values() if (found := _valleys(same))]
    figures = {key: _spread(_told(cell, key) for cell in firsts) for key in (*RATIOS, *LEFT)}
    return {"name": name, "method": method, "seeds": len(firsts), **figures, "valleys": _spread(shares)}


def _key(cell: DrawnCell, *, seeds: bool) -> str:
    spec = cell.spec if seeds else _seedless(cell)
    return json.dumps([spec.get(key) for key in ("model", "train", IMMUNIZE)], sort_keys=True, default=str)


def _seedless(cell: DrawnCell) -> dict[str, Any]:
    tables = {key: cell.spec.get(key) for key in ("train", IMMUNIZE)}
    plain = {
        key: {name: value for name, value in table.items() if name != "seed"}
        for key, table in tables.items()
        if isinstance(table, Mapping)
    }
    return {"model": cell.spec.get("model"), **plain}


def _told(cell: DrawnCell, name: str) -> float | None:
    return number((cell.immunized or {}).get(name))


def _valleys(cells: Sequence[DrawnCell]) -> list[float]:
    """The share of the flipped that end in a valley, at the first layer, of each cell where some flip."""
    return [
        row["valley_of_flipped"]["value"]
        for cell in cells
        for row in (cell.digest or {"rows": ()})["rows"][:1]
        if row["path"] == ATTACK and row["valley_of_flipped"]["n"]
    ]


def _spread(values: Iterable[float | None]) -> list[float | None]:
    there = [value for value in values if value is not None and math.isfinite(value)]
    return [statistics.median(there), min(there), max(there)] if there else [None, None, None]


def _line(row: Plain) -> str:
    cells = [f'<td data-value="{row["seeds"]}">{row["seeds"]}</td>']
    for kind, key in _COLUMNS.values():
        middle, low, high = row[key]
        write = {"ratio": short, "loss": share, "share": _percent}[kind]
        if middle is None:
            cells.append('<td class="empty">–</td>')
            continue
        ends = f"<small> {escape(write(low))} to {escape(write(high))}</small>" if low != high else ""
        cells.append(f'<td data-value="{middle!r}">{escape(write(middle))}{ends}</td>')
    return f'<tr><th scope="row">{escape(row["name"])}</th>{"".join(cells)}</tr>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


_COLUMNS: Mapping[str, tuple[str, str]] = {
    "i, harmful κ ×": ("ratio", "i"),
    "ii, primary κ ×": ("ratio", "ii"),
    "RIR": ("ratio", "rir"),
    "its ceiling": ("ratio", "bound"),
    "RIR, held out": ("ratio", "heldout_rir"),
    "harmful loss left": ("loss", "harmful_left"),
    "primary loss left": ("loss", "primary_left"),
    "valleys, % of the flipped": ("share", "valleys"),
}
"""Title -> how it is written, and the column of `folded`."""
