"""`flatlens export`: one tidy table over many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flatlens.errors import UsageError
from flatlens.progress import progress_bar
from flatlens_cli import completing, options, terminal

SHOWN = 6
"""Cells that are named one by one."""


def export(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, or a run's.", metavar="DIR", show_default=False)],
    format: Annotated[
        str | None,
        typer.Option(
            help="csv, parquet, or json (jsonl): an object on each line (default: as FILE ends, or csv).",
            metavar="NAME",
            autocompletion=completing.FORMAT,
        ),
    ] = None,
    table: Annotated[
        str,
        typer.Option(
            help="joined (steps and layers), steps, layers, or a sweep's cells.",
            metavar="NAME",
            autocompletion=completing.TABLE,
        ),
    ] = "joined",
    images: Annotated[
        bool, typer.Option("--images", help="Also the clean and the adversarial inputs, as an .npz beside it.")
    ] = False,
    prompts: Annotated[
        bool,
        typer.Option("--prompts", help="Of a language model's run: its prompts and the slots found, as JSON lines."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; - for stdout.", metavar="FILE", show_default="DIR/export.FORMAT"),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """One tidy table over the finished runs of a sweep: a row per run, path, sample, step and layer.

    In front stand the run's key and the settings that vary. What is not known is empty in CSV, what is not a number
    nan or inf; text that begins with = + - @ gets an apostrophe before it in CSV alone, so that no spreadsheet takes
    it for a formula. In JSON both are null.
    """  # fmt: skip
    if prompts:
        _prompts(folder, out, json=json, quiet=quiet)
        return
    piped = out is not None and str(out) == "-"
    from flatlens.export import formats

    format = format or ("csv" if out is None or not out.suffix else out.suffix[1:].lower())
    if piped and (json or formats.ALSO.get(format, format) == "parquet"):
        what = "--json" if json else "--format parquet"
        raise UsageError(f"--out - and {what}: stdout is the table's, in csv or json; name a file")
    from flatlens.export.table import export

    wanted: dict[str, Any] = {"format": format, "table": table, "images": images}
    if piped:
        done = None
        with terminal.stdout_bytes() as stream:
            done = export(folder, out=stream, **wanted)
        if done is None:  # nobody reads on
            return
    else:
        with progress_bar(not quiet) as progress:
            done = export(folder, out=out, progress=progress, **wanted)
    if not quiet:
        for line in _notes(done):
            terminal.complain(f"note: {line}")
    if json:
        terminal.emit(done._asdict())
    elif not quiet and not piped:
        lines = [("export", f"{done.file}"), ("rows", f"{done.rows:,} of {done.runs:,} runs")]
        lines += [("images", f"{done.images}")] if done.images else []
        terminal.show(terminal.columns(lines))


def _prompts(folder: Path, out: Path | None, *, json: bool, quiet: bool) -> None:
    from flatlens.export.prompts import export

    file = out or folder / "prompts.jsonl"
    count = export(folder, file)
    if json:
        terminal.emit({"file": file, "prompts": count})
    elif not quiet:
        terminal.show(terminal.columns([("export", f"{file}"), ("prompts", f"{count:,}")]))


def _notes(done: Any) -> list[str]:
    notes = []
    if done.missing:
        total = done.runs + done.missing
        notes.append(f"{done.missing:,} of {total:,} cells are missing: they are not finished; see `flatlens status`")
    if done.without_images:
        named = [key for key in done.without_images if key]
        which = "" if not named else f": {', '.join(named[:SHOWN])}{', …' if len(named) > SHOWN else ''}"
        notes.append(f'{len(done.without_images):,} of {done.runs:,} runs keep no inputs (images = "none"){which}')
    return notes
