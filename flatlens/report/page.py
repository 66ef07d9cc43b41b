"""Traces -> one HTML file that needs no network: plotly, styles, scripts and numbers are inside."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from flatlens.errors import ResourceError, RunError
from flatlens.report import payload
from flatlens.trajectory import Trace

SCRIPTS = ("data.js", "look.js", "path.js", "compare.js", "inspector.js", "header.js", "page.js")
"""In this order they make up the page's program."""


def write(traces: Sequence[Trace], file: Path, *, plotly: str | None = None) -> Path:
    """Draw the traces on one page and return where it is.

    The page is written under a temporary name and renamed when it is complete.

    Raises:
        RunError: there is no trace, or one without rows.
        ResourceError: the file cannot be written.
    """
    file = Path(file)
    text = document(traces)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ResourceError(f"cannot write {file}: {error.strerror or error}") from error
    return file


def document(traces: Sequence[Trace]) -> str:
    """The page as text.

    Raises:
        RunError: there is no trace, or one without rows.
    """
    if not traces:
        raise RunError("a report needs at least one run")
    if not all(trace.steps.num_rows and trace.layers.num_rows for trace in traces):
        raise RunError("a run without measured samples cannot be drawn")
    first = traces[0].spec
    return Template(_asset("page.html")).substitute(
        title=html.escape(title(first)),
        css=_asset("page.css"),
        plotly=_inline(get_plotlyjs()),
        data=payload.to_json(payload.pages(traces)),
        script=_inline("\n".join(_asset(name) for name in SCRIPTS)),
    )


def title(spec: Mapping[str, Any]) -> str:
    """What the browser's tab says."""
    parts = [payload.plain_text(spec[key]) for key in ("attack", "model") if spec.get(key)]
    return " · ".join([*parts, "flatlens"])


def _asset(name: str) -> str:
    return (files("flatlens.report") / "assets" / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    # Inside a script element only these two sequences end or disturb it; both occur in strings at most.
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def save_plotly(folder: Path) -> Path:
    """To come."""
    return folder
