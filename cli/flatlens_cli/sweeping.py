"""`flatlens sweep` and `flatlens status`: many runs, and how far they are."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flatlens.errors import RunError, UsageError
from flatlens.progress import progress_bar
from flatlens_cli import completing, options, planning, terminal
from flatlens_cli.terminal import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flatlens.sweeps.folder import State, Sweep
    from flatlens.sweeps.supervisor import Result

EVERY = 2.0
"""Seconds between two looks of ``status --watch``."""


def _option(flag: str, text: str, metavar: str, parser: Any) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, parser=parser)


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep file.", metavar="FILE.toml", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Results folder; made, or gone on with.", metavar="DIR")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            parser=options.whole,
            help="Cells at the same time (default: one for each GPU, else core).",
            metavar="N",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="local or ray.", metavar="NAME", autocompletion=completing.FOR["engine"])
    ] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Of a Ray cluster.", metavar="A")] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus",
            parser=options.number,
            help="GPUs of a cell, on a Ray cluster; 0.5: two cells on each.",
            metavar="NUMBER",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="Every n-th cell from the i-th: for several machines, one folder.", metavar="i/n"),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Begin again what has failed.", metavar="")] = False,
    timeout: Annotated[
        float | None,
        _option("--timeout", "Give a cell up after so long.", "SECONDS", options.number),
    ] = None,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code", help="Let the file name models that are code: file.py:factory, plug-ins.", metavar=""
        ),
    ] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Many runs from one file, on all cores or on a cluster; what is finished is never lost.

    The same command goes on from there, after `kill -9` too; cells that the file has gained are added. See
    data/sweeps for files to begin with.
    """
    trust = {
        "trust_pickle": bool(trust_pickle),
        "trust_remote_code": bool(trust_remote_code),
        "download": bool(download),
        "trust_code": trust_code,
    }
    if dry_run:
        planning.show(file, trust, workers, json=json)
        return
    if out is None:
        raise UsageError(f"--out is missing; name a folder for the results, for example --out runs/{file.stem}")
    try:
        with _terminable(), terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
            from flatlens.sweeps.supervisor import run_sweep

            result = run_sweep(
                file,
                out,
                workers=workers,
                engine=engine,
                address=address,
                gpus=gpus,
                shard=(1, 1) if shard is None else options.shard(shard),
                retry=retry,
                timeout=timeout,
                progress=progress,
                **trust,
            )
            page = result.sweep.report()
    except KeyboardInterrupt:
        terminal.complain(_interrupted(out))
        raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        for note in result.notes:
            terminal.complain(f"note: {note}")
        if result.new == 0 and not result.failed:
            terminal.complain(f"nothing to do: '{out}' holds all of these cells, finished")
        terminal.show(_ended(file, result, page), err=json)
    elif result.failed:
        _complain_of_failures(result)
    if json:
        terminal.emit(_facts(result.sweep, result.sweep.state()) | {"new": result.new, "report": page})
    if result.failed:
        raise typer.Exit(FAILED)


def status(
    folder: Annotated[Path, typer.Argument(help="A sweep's folder, or a run's.", metavar="DIR", show_default=False)],
    watch: Annotated[
        bool, typer.Option("--watch", help="Again and again, while somebody is at work on it.", metavar="")
    ] = False,
    json: options.Json = False,
) -> None:
    """What of a sweep is done, running, failed, and why; or how far a run is."""
    from flatlens.sweeps.folder import is_sweep, load_sweep
    from flatlens.sweeps.opening import demand

    if not is_sweep(folder) and (folder / "manifest.json").is_file():
        _run_status(folder, json=json)
        return
    demand(folder)
    found = load_sweep(folder)
    state = found.state()
    if json:
        terminal.emit(_facts(found, state))
        return
    if not watch:
        terminal.show(_told(found, state))
        return
    try:
        with terminal.live() as show:
            while state.supervisors:
                show(_told(found, state))
                time.sleep(EVERY)
                found = load_sweep(folder)
                state = found.state()
    except KeyboardInterrupt:
        return
    terminal.show(_told(found, state))


def _run_status(folder: Path, *, json: bool) -> None:
    """How far a run is, and what it warns of."""
    from flatlens.records import runs

    run = runs.load(folder)
    spec, manifest = run.spec, run.manifest
    total = int(manifest["batches"])
    done = total if run.finished else total - len(run.missing())
    warnings = [str(one.get("message", one)) for one in manifest.get("warnings", ())]
    if json:
        facts = {"run": folder, "state": manifest["state"], "batches": total, "done": done, "cautions": warnings}
        terminal.emit(facts | {"spec": spec.to_dict()})
        return
    rows = [("run", str(folder)), ("model", spec.model), ("data", spec.data), ("attack", spec.attack)]
    rows.insert(1, ("name", spec.name)) if spec.name else None
    goes_on = "" if run.finished else "; the command that began it goes on with it"
    rows.append(("done", f"{done:,} of {total:,} batches{goes_on}"))
    terminal.show(terminal.columns([*rows, *(("caution", text) for text in warnings)]))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM, which a cluster sends before it kills a job, as an interruption like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(out: Path) -> str:
    from flatlens.sweeps.folder import load_sweep

    try:
        state = load_sweep(out).state()
    except RunError:
        return "interrupted: nothing was begun yet"
    return f"interrupted: {len(state.done)} of {state.total} cells are finished; the same command goes on from there"


# ---- what is said ---------------------------------------------------------------------------------


def _ended(file: Path, result: Result, page: Path) -> RenderableType:
    from rich.console import Group

    total = result.done + result.failed
    rows = [("sweep", str(file)), ("cells", f"{result.done:,} of {total:,} are finished, {result.new:,} of them now")]
    if result.failed:
        rows.append(("failed", f"{result.failed:,}: mend the cause and give --retry"))
    rows.append(("report", str(page)))
    parts: list[Any] = [terminal.columns(rows)]
    failed = result.sweep.state().failed
    if failed:
        parts += ["", terminal.columns(list(_failures(result.sweep, failed)))]
    return Group(*parts)


def _complain_of_failures(result: Result) -> None:
    """What went wrong, where nothing else is said."""
    terminal.complain(
        f"{result.failed:,} of {result.done + result.failed:,} cells failed: mend the cause and give --retry"
    )
    for kind, line in _failures(result.sweep, result.sweep.state().failed):
        terminal.complain(f"{kind}: {line}" if kind else line)


def _told(found: Sweep, state: State) -> RenderableType:
    from rich.console import Group

    rows = [("sweep", str(found.path))]
    for who in state.supervisors:
        part = "" if who.get("shard") == "1-of-1" else f", shard {str(who.get('shard')).replace('-of-', '/')}"
        rows.append(
            ("at work", f"process {who.get('pid')} on {who.get('host')} since {_clock(who.get('since'))}{part}")
        )
    rows.append(("done", f"{len(state.done):,} of {state.total:,} cells{_left(found, state)}"))
    rows += [(name, f"{len(keys):,}") for name in ("running", "failed", "waiting") if (keys := getattr(state, name))]
    parts: list[Any] = [terminal.columns(rows)]
    labels = found.labels() if state.running or state.failed else {}
    running = []
    for key in state.running[: planning.SHOWN]:
        batches = found.progress(key)
        said = ": loading or training its model" if batches is None else ""
        if batches is not None and batches[1] > 1:
            said = f", {batches[0]} of {batches[1]} batches"
        running.append(("running", labels[key] + said))
    for block in (running, list(_failures(found, state.failed, labels))):
        if block:
            parts += ["", terminal.columns(block)]
    notes = []
    if not state.supervisors and (state.waiting or state.running):
        notes.append("Nobody is at work: the sweep's command goes on.")
    if state.failed:
        notes.append("The sweep's command with --retry begins again what has failed.")
    if notes:
        parts += ["", terminal.note(" ".join(notes))]
    return Group(*parts)


def _failures(found: Sweep, failed: list[str], labels: dict[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """What went wrong, once for all cells in which the same did."""
    labels = found.labels() if labels is None else labels
    alike = defaultdict[str, list[str]](list)
    for key in failed:
        failure = found.failure(key)
        alike[failure.error if failure else "unknown"].append(key)
    for error, keys in list(alike.items())[: planning.SHOWN]:
        more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
        yield "failed", f"{labels[keys[0]]}{more}: {error}"
    if len(alike) > planning.SHOWN:
        yield "", f"… and {len(alike) - planning.SHOWN:,} other errors; `flatlens status --json` names them all"


def _left(found: Sweep, state: State) -> str:
    """An estimate of the time left, from the cells that were finished since the first supervisor began."""
    left = len(state.running) + len(state.waiting)
    began = min((float(who.get("since", 0)) for who in state.supervisors), default=0.0)
    if not left or not began:
        return ""
    new = found.done_since(began)
    return f", about {terminal.duration(left * (time.time() - began) / new)} left" if new else ""


def _clock(since: Any) -> str:
    return time.strftime("%H:%M", time.localtime(float(since or 0)))


def _facts(found: Sweep, state: State) -> dict[str, Any]:
    """The state as plain data, under keys that stay."""
    labels = found.labels()
    failures = {key: found.failure(key) for key in state.failed}
    return {
        "sweep": found.path,
        "cells": state.total,
        "done": len(state.done),
        "running": [{"cell": key, "label": labels[key]} for key in state.running],
        "failed": [
            {"cell": key, "label": labels[key]} | ({} if failure is None else failure._asdict())
            for key, failure in failures.items()
        ],
        "waiting": len(state.waiting),
        "supervisors": state.supervisors,
    }
