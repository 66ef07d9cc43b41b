"""Results in a notebook: of a trace a still picture with the paths' table, or its page in a frame; of others, a table.

All but the frame need no program.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from html import escape

import numpy as np

from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Fraction
from flatlens.report import series
from flatlens.report.roles import colour, looks
from flatlens.report.sentence import fall, times
from flatlens.specs.values import shown

MOST_BYTES = 60_000
"""Of what is kept in a notebook's file for each trace that it shows."""
POINTS, FEWER = 160, 60
"""Steps of a curve that are drawn; fewer where there are so many paths that it would be too much."""
LONGEST, MOST_PATHS, MOST_CAUTIONS, MOST_ROWS = 200, 24, 8, 40


class View:
    """The page of a trace in a frame of the notebook.

    The frame has no access to the notebook, and the page none to the network.
    """

    def __init__(self, trace: Trace, height: int = 900) -> None:
        self.trace: Trace = trace
        self.height: int = int(height)

    def _repr_html_(self) -> str:
        from flatlens.report import page

        text = page.document([self.trace])
        title = _short(page.title(self.trace.spec))
        return (
            f'<iframe srcdoc="{escape(text)}" title="{escape(title)}" sandbox="allow-scripts allow-downloads" '
            f'style="width:100%;height:{self.height}px;border:0;background:#fff"></iframe>'
        )

    def __repr__(self) -> str:
        """What is shown where there is no browser."""
        return f"{self.trace!r}\n(in a notebook: its page; trace.report('report.html') writes it)"


def static(trace: Trace) -> str:
    """A picture and a table as HTML of at most `MOST_BYTES`, with colours of its own: on light and dark pages alike.

    A trace without rows is its `repr` alone.
    """
    words = f'<p style="margin:0 0 6px;font-weight:600">{_what(trace)}</p>{_cautions(trace)}'
    if not (trace.steps.num_rows and trace.layers.num_rows):
        return _framed(words)
    table = _table(trace)
    for points in (POINTS, FEWER):
        text = _framed(words + _picture(trace, points) + table)
        if len(text.encode()) <= MOST_BYTES:
            return text
    return _framed(words + table)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table of texts as HTML under a title, in the colours of `static`; long ones are cut, and so are long tables.

    Args:
        title: above it.
        head: its columns' names; the first column's texts are those of the rows.
        rows: a text for each column.
        note: below it.
    """
    words = f'<p style="margin:0;font-weight:600">{escape(_short(title))}</p>'
    told = [[_short(text) for text in row] for row in rows[:MOST_ROWS]]
    if (left := len(rows) - MOST_ROWS) > 0:
        told.append([f"and {left:,} more"])
    return _framed(words + _rows(head, told, _short(note)))


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, strong: Sequence[bool] = ()) -> str:
    """Of texts that are short already; ``strong`` are the rows whose name is bold."""
    cell = f"padding:2px 12px 2px 0;text-align:left;border-top:1px solid {colour('line')};background:{colour('card')}"
    cell += f";color:{colour('ink')}"
    lines = ["".join(_cell("th", cell, text) for text in head)]
    for place, (first, *rest) in enumerate(rows):
        weight = 700 if place < len(strong) and strong[place] else 500
        name = _cell("th", f"{cell};font-weight:{weight}", first)
        lines.append(name + "".join(_cell("td", cell, text) for text in rest))
    drawn = "".join(f'<tr style="background:{colour("card")}">{line}</tr>' for line in lines)
    style = f"caption-side:bottom;text-align:left;color:{colour('muted')}"
    note = f'<caption style="{style}">{escape(caption)}</caption>' if caption else ""
    return f'<table style="border-collapse:collapse;margin-top:6px">{note}{drawn}</table>'


def _picture(trace: Trace, points: int) -> str:
    from flatlens.report import page

    drawn = page.picture(trace, variables=False, points=points)
    # A notebook holds many pictures, and an id is the whole notebook's.
    own = sha256(drawn.encode()).hexdigest()[:12]
    drawn = drawn.replace('id="inside"', f'id="flatlens-{own}"').replace("url(#inside)", f"url(#flatlens-{own})")
    return f'<div style="max-width:980px">{drawn}</div>'


def _framed(content: str) -> str:
    style = (
        f"background:{colour('card')};color:{colour('ink')};border:1px solid {colour('line')};border-radius:8px;"
        "padding:10px 14px;max-width:1010px;font:13px/1.45 sans-serif;color-scheme:light;overflow-x:auto"
    )
    return f'<div style="{style}">{content}</div>'


def _what(trace: Trace) -> str:
    named = [_short(shown(trace.spec[key])) for key in ("name", "attack", "model", "data") if trace.spec.get(key)]
    samples = len(np.unique(trace.steps["sample"].to_numpy())) if trace.steps.num_rows else 0
    return escape(
        " · ".join([*named, f"{samples:,} {'prompt' if trace.of_language else 'sample'}{'s' * (samples != 1)}"])
    )


def _cautions(trace: Trace) -> str:
    style = (
        f"margin:0 0 6px;padding:2px 8px;background:{colour('caution')};border-left:3px solid {colour('caution-line')}"
    )
    said = [f"{one.code.replace('-', ' ')}: {one.message}" for one in trace.cautions]
    more = [f"and {len(said) - MOST_CAUTIONS} more cautions"] if len(said) > MOST_CAUTIONS else []
    return "".join(f'<p style="{style}">{escape(_short(text))}</p>' for text in [*said[:MOST_CAUTIONS], *more])


def _table(trace: Trace) -> str:
    measures, layer = series.measures(trace), trace.layer_names[0]
    measure = measures[0] if measures else "relative_flatness"
    seen = looks(trace.paths)
    head = ("path", "valleys of the flipped", "flipped", "rise to the peak", "fall to the end")
    rows = []
    for path in trace.paths[:MOST_PATHS]:
        found = trace.valley(measure, layer=layer, path=path).summary()
        rows.append(
            [
                _short(seen[path].name),
                _share(found.valley_of_flipped),
                f"{found.flipped.count:,} of {found.flipped.n:,}",
                times(found.rise),
                fall(found.depth),
            ]
        )
    strong = [path == ATTACK for path in trace.paths[:MOST_PATHS]]
    if (left := len(trace.paths) - MOST_PATHS) > 0:
        rows.append([f"and {left:,} more paths"])
    return _rows(head, rows, f"{_short(layer)}; shares with 95 % intervals, medians over the flipped", strong)


def _cell(name: str, style: str, text: str) -> str:
    return f'<{name} style="{style}">{escape(text)}</{name}>'


def _share(share: Fraction) -> str:
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]" if share.n else "–"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
