"""`flatlens pairs`: which class of a data set can be immunized against which, as a heat map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flatlens.errors import FlatlensError, UsageError, one_line
from flatlens_cli import options, terminal
from flatlens_cli.immunize import Balance, Delta, Force, Holdout, MaxCond, Method, Out, Seed
from flatlens_cli.options import run_spec

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import RenderableType

_PANEL = "The immunizations"
_Ridge = Annotated[
    str,
    typer.Option(
        "--ridge",
        help="ρ; ρ·trace/d is added to each Hessian (default 0.001).",
        metavar="NUMBER",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
_Steps = Annotated[
    str,
    typer.Option(
        "--steps",
        help="Steps that are tried at most, a pair (default 40).",
        metavar="N",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
_Halve = Annotated[
    bool, typer.Option("--halve", help="Without --model: images at half their width and height, means of 2 × 2 pixels.")
]


def pairs(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    layer: options.Layer = None,
    halve: _Halve = False,
    method: Method = "ceiling",
    ridge: _Ridge = "0.001",
    delta: Delta = "0.3",
    balance: Balance = "0.5",
    max_cond: MaxCond = "1e6",
    steps: _Steps = "40",
    holdout: Holdout = "0",
    seed: Seed = "0",
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    out: Out = None,
    force: Force = False,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Immunize every ordered pair of a data set's classes; a heat map of which can be had against which.

    The features are those of --model, or without one the pixels. What was found is drawn in --out, as report.html.
    """
    for name, value in (("--data", data), ("--out", out)):
        if value is None:
            raise UsageError(f"{name} is missing; `flatlens pairs --help` shows what it takes")
    if model is not None and halve:
        raise UsageError("--halve is of pixels, and --model takes its inputs as they are; leave one of them out")
    if model is None and layer:
        raise UsageError("--layer needs --model; without one the features are the pixels")
    with terminal.stdout_kept_clean(json), terminal.progress_bar(not quiet) as progress:
        from flatlens.immunity.immunize import checked
        from flatlens.immunity.of_pairs import PIXELS, of_data

        spec = run_spec({**context.params, "model": model or PIXELS, "seed": 0, "steps": None})
        asked = checked(
            method,
            ridge=options.number(ridge),
            delta=options.number(delta),
            balance=options.number(balance),
            target=None,
            max_cond=options.number(max_cond),
            steps=options.whole(steps),
            holdout=options.number(holdout),
            seed=options.whole(seed),
        )
        assert out is not None
        found = of_data(spec, asked, out, pixels=model is None, halve=halve, force=force, progress=progress)
    page = _drawn(out)
    if not quiet:
        terminal.show(_text(found, out, page), err=json)
    if json:
        terminal.emit({"out": out, "page": page, "data": data, "model": model, "pairs": found.to_pylist()})


def _drawn(out: Path) -> Path | None:
    from flatlens.records import immunized
    from flatlens.report import immunity_page

    try:
        return immunity_page.write(immunized.result(out), out / immunized.PAGE)
    except FlatlensError as error:
        terminal.complain(f"no page: {one_line(error)}")
        return None


def _text(found: pa.Table, out: Path, page: Path | None) -> RenderableType:
    import numpy as np

    i, ii, rir = (found[name].to_numpy() for name in ("i", "ii", "rir"))
    rows = [
        ("pairs", f"{found.num_rows:,}, {found['method'][0].as_py()}"),
        ("harmful worse", f"{int((i > 1).sum()):,}, i {i.min():.4g} to {i.max():.4g}"),
        ("primary better", f"{int((ii < 1).sum()):,}, ii {ii.min():.4g} to {ii.max():.4g}"),
        ("ln RIR", f"{np.log(rir).mean():.2f} on average, at least {np.log(rir).min():.2f}"),
        ("written", str(out)),
        *([("page", str(page))] if page is not None else ()),
    ]
    return terminal.columns(rows)
