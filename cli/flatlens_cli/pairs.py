"""`flatlens pairs`: which class of a data set can be immunized against which, as a heat map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flatlens.errors import FlatlensError, UsageError, one_line
from flatlens.progress import progress_bar
from flatlens.specs.immunize import METHODS
from flatlens_cli import completing, options, terminal
from flatlens_cli.options import run_spec

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import RenderableType

_PANEL = "The immunizations"
_NAMES = tuple(name for name in METHODS if name != "imma")  # which needs targets, and a class has none


def _flag(text: str, name: str, metavar: str = "NUMBER", panel: str = _PANEL, completion: Any = None) -> Any:
    return typer.Option(
        name, help=text, metavar=metavar, rich_help_panel=panel, show_default=False, autocompletion=completion
    )


_Method = Annotated[
    str,
    _flag(
        f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]} (default ceiling).",
        "--method",
        "NAME",
        completion=completing.words(*_NAMES),
    ),
]
_Ridge = Annotated[str, _flag("ρ; ρ·trace/d is added to each Hessian (default 0.001).", "--ridge")]
_Delta = Annotated[str, _flag("alg1: eigenvalues so near the largest are lowered as one (default 0.3).", "--delta")]
_Balance = Annotated[
    str, _flag("ceiling: who gains, 0 the useful task alone, 1 the harmful one's slowness (default 0.5).", "--balance")
]
_MaxCond = Annotated[str, _flag("The largest condition number of θ (default 1e6).", "--max-cond")]
_Steps = Annotated[str, _flag("Steps that are tried at most, a pair (default 40).", "--steps", "N")]
_Holdout = Annotated[str, _flag("Share of each class's samples that θ does not see (default 0).", "--holdout")]
_Seed = Annotated[str, _flag("Of the choice of these samples (default 0).", "--seed", "N")]
_OUT = Annotated[Path | None, _flag("Folder of the result; made, or found again.", "--out", "DIR", "Results")]
_Force = Annotated[bool, typer.Option("--force", help="Replace the result that is there.", rich_help_panel="Results")]
_Halve = Annotated[
    bool, typer.Option("--halve", help="Without --model: images at half their width and height, means of 2 × 2 pixels.")
]


def pairs(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    layer: options.Layer = None,
    halve: _Halve = False,
    method: _Method = "ceiling",
    ridge: _Ridge = "0.001",
    delta: _Delta = "0.3",
    balance: _Balance = "0.5",
    max_cond: _MaxCond = "1e6",
    steps: _Steps = "40",
    holdout: _Holdout = "0",
    seed: _Seed = "0",
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    out: _OUT = None,
    force: _Force = False,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
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
    with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
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
