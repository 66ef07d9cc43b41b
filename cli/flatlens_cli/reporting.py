"""`flatlens report`: draw runs, or a sweep, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flatlens.errors import UsageError
from flatlens_cli import options, terminal


def report(
    run: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs, or of one sweep.", metavar="RUN…", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page to write.", metavar="FILE", show_default="RUN/report.html; report.html for several runs"
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a run's report again, several runs on one page, or a sweep, finished or not."""
    from flatlens.sweeps.folder import is_sweep, load_sweep
    from flatlens.sweeps.opening import demand

    for path in run:
        demand(path)
    sweeps = [path for path in run if is_sweep(path)]
    if sweeps and len(run) > 1:
        raise UsageError(f"'{sweeps[0]}' is a sweep, which is drawn on a page of its own; name it alone")
    file = load_sweep(sweeps[0]).report(out) if sweeps else _runs(run, out)
    if json:
        terminal.emit({"report": file, "runs": run})
    elif not quiet:
        terminal.say(f"report   {file}")


def _runs(run: list[Path], out: Path | None) -> Path:
    from flatlens.records import runs
    from flatlens.report import page

    traces = [runs.load(path).trace(whole=False) for path in run]
    return page.write(traces, out or (run[0] / "report.html" if len(run) == 1 else Path("report.html")))
