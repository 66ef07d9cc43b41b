"""`flatlens report`: runs, a sweep or an immunization drawn again: a page, a folder for a web server, or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flatlens.errors import UsageError
from flatlens_cli import completing, options, terminal

PAGE = "html"


def report(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs, or of one sweep, or of one immunization.",
            metavar="RUN…",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write.",
            metavar="FILE",
            show_default="RUN/report.html, .svg, …; report.html for several runs",
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="html, or the picture of one run as svg, png or pdf.",
            metavar="NAME",
            autocompletion=completing.PAGE_FORMAT,
        ),
    ] = PAGE,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Write a folder for a web server instead: index.html, plotly.min.js, a sweep's cells.",
            metavar="DIR",
        ),
    ] = None,
    redact: Annotated[
        bool,
        typer.Option(
            "--redact",
            help="Of language models: ▮ for every letter of prompts, slots, targets and tokens; numbers are kept.",
        ),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a run's report again, several runs on one page, a sweep, finished or not, or an immunization."""
    from flatlens.records import immunized
    from flatlens.sweeps.folder import is_sweep, load_sweep
    from flatlens.sweeps.opening import demand

    _check(run, out, format, folder)
    if immune := [path for path in run if immunized.is_one(path) and not is_sweep(path)]:
        file = _immunity(run, immune[0], out, format, folder)
        if json:
            terminal.emit({"report": file, "runs": run})
        elif not quiet:
            terminal.say(f"report   {file}")
        return
    for path in run:
        demand(path)
    sweeps = [path for path in run if is_sweep(path)]
    if sweeps and redact:
        raise UsageError("--redact is of the page of runs; name a sweep's cells, or leave it out")
    if sweeps and len(run) > 1:
        raise UsageError(f"'{sweeps[0]}' is a sweep, which is drawn on a page of its own; name it alone")
    if format != PAGE:
        file = _still(run, sweeps, out, format)
    elif folder is not None:
        file = _hosted(run, sweeps, folder, redact)
    else:
        file = load_sweep(sweeps[0]).report(out) if sweeps else _runs(run, out, redact)
    if json:
        terminal.emit({"report": file, "runs": run})
    elif not quiet:
        terminal.say(f"report   {file}")


def _check(run: list[Path], out: Path | None, format: str, folder: Path | None) -> None:
    from flatlens.report import formats

    formats.check(format)
    if format != PAGE and len(run) > 1:
        raise UsageError(f"--format {format} is the picture of one run; name one, or draw a page of them all")
    if folder is not None and format != PAGE:
        raise UsageError(f"--folder is of pages; leave --format {format} out, or write the picture with --out")
    if folder is not None and out is not None:
        raise UsageError("--folder and --out are two places; name one of them")


def _immunity(run: list[Path], one: Path, out: Path | None, format: str, folder: Path | None) -> Path:
    from flatlens.records import immunized
    from flatlens.report import immunity_page
    from flatlens.sweeps import hosting

    if len(run) > 1:
        raise UsageError(f"'{one}' is an immunization, which is drawn on a page of its own; name it alone")
    if format != PAGE:
        raise UsageError(f"'{one}' is an immunization; --format {format} is the picture of a run, leave it out")
    found = immunized.result(one)
    if folder is None:
        return immunity_page.write(found, out or one / immunized.PAGE)
    hosting.demand_free(folder)
    return immunity_page.write(found, folder / hosting.INDEX)


def _runs(run: list[Path], out: Path | None, redact: bool) -> Path:
    from flatlens.records import runs
    from flatlens.report import page

    traces = [runs.load(path).trace(whole=False) for path in run]
    file = out or (run[0] / "report.html" if len(run) == 1 else Path("report.html"))
    return page.write(traces, file, redact=redact)


def _hosted(run: list[Path], sweeps: list[Path], folder: Path, redact: bool) -> Path:
    from flatlens.records import runs
    from flatlens.report import html_file, page
    from flatlens.sweeps import hosting
    from flatlens.sweeps.folder import load_sweep

    if sweeps:
        return hosting.save(load_sweep(sweeps[0]), folder)
    hosting.demand_free(folder)
    traces = [runs.load(path).trace(whole=False) for path in run]
    file = page.write(traces, folder / hosting.INDEX, plotly=html_file.PLOTLY, redact=redact)
    html_file.save_plotly(folder)
    return file


def _still(run: list[Path], sweeps: list[Path], out: Path | None, format: str) -> Path:
    from flatlens.records import runs
    from flatlens.report import stills

    if sweeps:
        raise UsageError(
            f"'{run[0]}' is a sweep; --format {format} is the picture of one run, such as one of its cells"
        )
    trace = runs.load(run[0]).trace(whole=False)
    return stills.write(trace, out or run[0] / f"report.{format}", format)
