"""The picture of a trace as a file for a paper or a slide: SVG, PNG or PDF."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from flatlens import extras
from flatlens.errors import ResourceError, RunError, UsageError, one_line
from flatlens.files.atomic import clear_leftovers, write_file
from flatlens.records.trajectory import Trace
from flatlens.report import figures, page
from flatlens.report.roles import colour

WIDTH, HEIGHT = 1000, 520
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_ENVIRONMENT = "BROWSER_PATH"


class NoBrowserError(UsageError):
    """Figures are drawn by a browser, and there is none."""


def write(trace: Trace, file: Path, format: str) -> Path:
    """Draw the picture of a trace into a file, and return where it is.

    SVG needs nothing else: where kaleido or its browser is missing, it is the still picture that a page begins with.

    Args:
        trace: what is drawn, by `flatlens.report.figures.valley`.
        file: where to.
        format: ``svg``, ``png`` or ``pdf``.

    Raises:
        UsageError: kaleido or a browser is missing; says how to get it.
        RunError: the trace has no rows.
        ResourceError: the file cannot be written, or the browser failed.
    """
    if not (trace.steps.num_rows and trace.layers.num_rows):
        raise RunError("a run without measured samples cannot be drawn")
    try:
        content = _rendered(trace, format)
    except UsageError:
        if format != "svg":
            raise
        content = static(trace)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(file.parent, file.name)
        write_file(file, content)
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror or error}") from error
    return file


def static(trace: Trace) -> bytes:
    """The still picture as an SVG file of its own."""
    drawn = page.picture(trace, variables=False)
    start = drawn.index(">") + 1
    return f'{drawn[:start]}<rect width="100%" height="100%" fill="{colour("card")}"/>{drawn[start:]}\n'.encode()


def _rendered(trace: Trace, format: str) -> bytes:
    kaleido = extras.need("kaleido", "pictures", f"pictures as {format}", UsageError)
    browser = _browser()
    before = os.environ.get(_ENVIRONMENT)
    os.environ[_ENVIRONMENT] = browser
    options = {"format": format, "width": WIDTH, "height": HEIGHT, "scale": 2 if format == "png" else 1}
    try:
        # Without MathJax, which would be asked for from the network: no text of ours is TeX.
        found: Any = kaleido.calc_fig_sync(figures.valley(trace), opts=options, kopts={"mathjax": False})
    except Exception as error:  # a browser fails in its own ways
        raise ResourceError(f"the browser '{browser}' could not draw it: {one_line(error, kind=True)}") from error
    finally:
        if before is None:
            os.environ.pop(_ENVIRONMENT, None)
    return bytes(found)


def _browser() -> str:
    """Where a browser is: what the user says, or what is found on the path."""
    said = os.environ.get(_ENVIRONMENT)
    if said:
        if shutil.which(said) is None:
            raise NoBrowserError(f"{_ENVIRONMENT} names '{said}', which is no program; name a Chrome or Chromium")
        return said
    found = next((place for name in BROWSERS if (place := shutil.which(name))), None)
    if found is None:
        raise NoBrowserError(
            f"pictures are drawn by a browser, and none is found: install chromium, or name one by {_ENVIRONMENT}"
        )
    return found
