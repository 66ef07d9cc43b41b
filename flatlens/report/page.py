"""Traces -> one HTML file that needs no network: plotly, styles, scripts and numbers are inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from flatlens.errors import RunError
from flatlens.records.schema import ATTACK
from flatlens.records.trajectory import Trace
from flatlens.report import drawn, html_file, packing, page_data, series, static_svg
from flatlens.report.drawn_text import worded
from flatlens.report.html_file import save_plotly as save_plotly
from flatlens.report.modules import joined
from flatlens.report.redaction import redacted
from flatlens.report.roles import looks, styles
from flatlens.specs.values import shown
from flatlens.version import __version__

PROGRAM = "pages/run.js"
"""The module that is the page."""


def write(traces: Sequence[Trace], file: Path, *, plotly: str | None = None, redact: bool = False) -> Path:
    """Draw the traces on one page and return where it is.

    The page is written under a temporary name and renamed when it is complete.

    Args:
        traces: what to draw.
        file: where to.
        plotly: the URL, relative to the page, of a plotly.min.js (`save_plotly`) that many pages share; None puts
            plotly into the page, which then needs no other file.
        redact: leave out the texts of language models' prompts (`flatlens.report.redaction`).

    Raises:
        RunError: there is no trace, or one without rows.
        ResourceError: the file cannot be written.
    """
    drawn_of = [redacted(trace) for trace in traces] if redact else traces
    return html_file.save(document(drawn_of, plotly=plotly), Path(file))


def document(traces: Sequence[Trace], *, plotly: str | None = None) -> str:
    """The page as text.

    Raises:
        RunError: there is no trace, or one without rows.
    """
    if not traces:
        raise RunError("a report needs at least one run")
    if not all(trace.steps.num_rows and trace.layers.num_rows for trace in traces):
        raise RunError("a run without measured samples cannot be drawn")
    data = page_data.pages(traces)
    first = data["runs"][0]
    said = first["lead"][0]
    return html_file.document(
        "page.html",
        title=title(traces[0].spec),
        css=styles() + "\n" + html_file.asset("shell.css", "run.css"),
        data=packing.compressed(packing.to_json(data)),
        script=program(),
        kind="of-run",
        without="The picture and the table stand without a script; samples and figures need one.",
        plotly=plotly,
        packed=True,
        sentence="".join(_spoken(text, role) for text, role in said["sentence"]),
        below=escape(said["below"]),
        numbers="".join(f"<li><b>{escape(a)}</b>{_span(b)}{_span(c)}</li>" for a, b, c in said["numbers"]),
        cautions="".join(_pill(code, message) for code, message in first["cautions"]),
        picture=picture(traces[0]),
        table=_table(first),
        footer=escape(f"flatlens {__version__}: this file needs no network."),
    )


@cache
def program() -> str:
    """The page's program: the same for every run."""
    return joined(PROGRAM) + "\nopen();"


def picture(trace: Trace, *, variables: bool = True, points: int | None = None) -> str:
    """The picture without a program, as SVG: sharpness along the path, aligned at the flip where something flips.

    Args:
        trace: what is drawn.
        variables: colours are the page's variables; else as they are.
        points: of a longer curve only so many are drawn, its peak among them.
    """
    measures, layer = series.measures(trace), trace.layer_names[0]
    measure = measures[0] if measures else "relative_flatness"
    curves = {path: series.curves(trace, measure, layer, path) for path in trace.paths}
    aligned = bool(curves[ATTACK].aligned.n.any())
    made = drawn.sharpness(curves, looks(trace.paths), measure, aligned=aligned)
    made = worded(trace)(made)
    if points is not None:
        made["data"] = static_svg.thinned(made["data"], points)
    said = "Sharpness along the path: medians and quartiles of the attack and its controls."
    return static_svg.svg(made, variables=variables, label=said)


def _spoken(text: str, role: str) -> str:
    return f'<em class="said-{role}">{escape(text)}</em>' if role else escape(text)


def _pill(code: str, message: str) -> str:
    return f"<details><summary>{escape(code.replace('-', ' '))}</summary>{escape(message)}</details>"


def _span(text: str) -> str:
    return f"<span>{escape(text)}</span>"


def _table(run: dict[str, Any]) -> str:
    """The paths' statistics, for who has no script."""
    found: list[Any] = next(iter(run["results"][0].values()), [])
    rows = []
    for path, of in zip(run["paths"], found, strict=False):
        share, flipped = of["summary"]["valley_of_flipped"], of["summary"]["flipped"]
        told = (
            f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]" if share["n"] else "–"
        )
        many = f"{flipped['count']:,} of {flipped['n']:,}"
        rows.append(f'<tr><th scope="row">{escape(path["words"])}</th><td>{told}</td><td>{many}</td></tr>')
    head = "<tr><th>path</th><th>valleys of the flipped</th><th>flipped</th></tr>"
    return f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody>"


def title(spec: Mapping[str, Any]) -> str:
    """What the browser's tab says."""
    named = [shown(spec[key]) for key in ("name", "attack", "model") if spec.get(key)]
    return " · ".join([*named, "flatlens"])
