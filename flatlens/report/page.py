"""Traces -> one HTML file that needs no network: plotly, styles, scripts and numbers are inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flatlens.errors import RunError
from flatlens.records.trajectory import Trace
from flatlens.report import html_file, page_data
from flatlens.report.html_file import save_plotly as save_plotly
from flatlens.specs.values import shown

SCRIPTS = ("data.js", "look.js", "path.js", "compare.js", "inspector.js", "header.js", "page.js")
"""In this order they make up the page's program."""


def write(traces: Sequence[Trace], file: Path, *, plotly: str | None = None) -> Path:
    """Draw the traces on one page and return where it is.

    The page is written under a temporary name and renamed when it is complete.

    Args:
        traces: what to draw.
        file: where to.
        plotly: the URL, relative to the page, of a plotly.min.js (`save_plotly`) that many pages share; None puts
            plotly into the page, which then needs no other file.

    Raises:
        RunError: there is no trace, or one without rows.
        ResourceError: the file cannot be written.
    """
    return html_file.save(document(traces, plotly=plotly), Path(file))


def document(traces: Sequence[Trace], *, plotly: str | None = None) -> str:
    """The page as text.

    Raises:
        RunError: there is no trace, or one without rows.
    """
    if not traces:
        raise RunError("a report needs at least one run")
    if not all(trace.steps.num_rows and trace.layers.num_rows for trace in traces):
        raise RunError("a run without measured samples cannot be drawn")
    return html_file.document(
        "page.html",
        title=title(traces[0].spec),
        css=html_file.asset("page.css"),
        data=page_data.to_json(page_data.pages(traces)),
        script=html_file.asset(*SCRIPTS),
        plotly=plotly,
    )


def title(spec: Mapping[str, Any]) -> str:
    """What the browser's tab says."""
    named = [shown(spec[key]) for key in ("name", "attack", "model") if spec.get(key)]
    return " · ".join([*named, "flatlens"])
