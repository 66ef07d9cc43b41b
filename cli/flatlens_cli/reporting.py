"""`flatlens report`: draw runs again, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flatlens_cli import options, terminal


def report(
    run: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", metavar="RUN…", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page to write.", metavar="FILE", show_default="RUN/report.html; report.html for several runs"
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a run's report again, or several runs on one page."""
    from flatlens import runs
    from flatlens.report import page

    traces = [runs.load(path).trace() for path in run]
    file = page.write(traces, out or (run[0] / "report.html" if len(run) == 1 else Path("report.html")))
    if json:
        terminal.emit({"report": file, "runs": run})
    elif not quiet:
        terminal.say(f"report   {file}")


COMMANDS = (report,)
