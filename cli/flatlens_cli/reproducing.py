"""`flatlens reproduce` and `flatlens claims`: the papers' claims, tried, with verdicts by rule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flatlens.errors import SpecError, UsageError
from flatlens.progress import progress_bar
from flatlens_cli import completing, options, terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

_Claims = Annotated[
    list[str] | None,
    typer.Argument(help="Claims such as C1 C7, or all (default all).", metavar="[CLAIM…]", show_default=False),
]
_Full = Annotated[
    bool,
    typer.Option("--full/--quick", help="Five networks trained from seeds, or the shipped one (default quick)."),
]
_Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Your own network instead; again for further ones, trained from other seeds.",
        metavar="URI",
        show_default=False,
    ),
]
_Twins = Annotated[
    list[str] | None,
    typer.Option(
        "--twin",
        help="The same network trained against an attack, for claims about such; one for each --model.",
        metavar="URI",
        show_default=False,
    ),
]
_Eps = Annotated[
    str | None,
    typer.Option(
        "--eps", help="Radius in linf (default 0.3 on the digits, else 8/255).", metavar="NUMBER", show_default=False
    ),
]
_Limit = Annotated[
    str | None,
    typer.Option("--limit", help="Samples of each network at most.", metavar="N", show_default=False),
]
_Workers = Annotated[
    str | None,
    typer.Option(
        "--workers", help="Networks at the same time (default one for each core).", metavar="N", show_default=False
    ),
]
_Engine = Annotated[
    str, typer.Option("--engine", help="local or ray.", metavar="NAME", autocompletion=completing.FOR["engine"])
]
_Address = Annotated[str | None, typer.Option("--address", help="Of a Ray cluster.", metavar="A", show_default=False)]
_Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Every n-th network from the i-th: for several machines, one folder.",
        metavar="i/n",
        show_default=False,
    ),
]
_Out = Annotated[
    Path | None, typer.Option("--out", help="The folder of tables and page.", metavar="DIR", show_default=False)
]


def claims(json: options.Json = False) -> None:
    """The papers' claims that can be tried, a line each."""
    from flatlens.claims import catalogue

    known = [catalogue.claim(name) for name in catalogue.FILES]
    if json:
        terminal.emit({"claims": [{"claim": one.name, "title": one.title, "source": one.source} for one in known]})
        return
    terminal.show(
        terminal.columns([("claim", "", "made in"), *((c.name, c.title, c.source) for c in known)], header=True)
    )


def reproduce(
    names: _Claims = None,
    full: _Full = False,
    model: _Models = None,
    twin: _Twins = None,
    data: options.Data = None,
    eps: _Eps = None,
    limit: _Limit = None,
    workers: _Workers = None,
    engine: _Engine = "local",
    address: _Address = None,
    shard: _Shard = None,
    out: _Out = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Try the papers' claims, with controls, and say for each what came out: a verdict by rule.

    What is in --out already is not measured again; an interrupted run goes on with the same command.
    """
    if out is None:
        raise UsageError("--out is missing; name a folder, for example --out runs/claims")
    # Language models bring their own: what they can be made to say.
    if model and data is None and not all(one.startswith("lm:") for one in model):
        raise UsageError("--model is given without --data; name the data that it was not trained on")
    if data is not None and not model:
        raise UsageError("--data is given without --model; the built-in networks have data of their own")
    if len(twin or ()) > len(model or ()):
        raise UsageError(
            f"{terminal.several(len(twin or ()), '--twin')} for {len(model or ())} --model; give one for each"
        )
    asked: dict[str, Any] = {"eps": None if eps is None else options.number(eps)}
    asked["limit"] = None if limit is None else options.whole(limit)
    if asked["eps"] is not None and not asked["eps"] > 0:
        raise SpecError(f"--eps {eps}: needs a number above 0, for example 8/255")
    if asked["limit"] is not None and asked["limit"] < 1:
        raise SpecError(f"--limit {limit}: needs a whole number of at least 1")
    many = None if workers is None else options.whole(workers)
    with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
        from flatlens.claims import catalogue, records, work
        from flatlens.claims.machines import Machines

        wanted = catalogue.named(tuple(names or ()))
        found = work.reproduce(
            work.Asked(tuple(wanted), full, tuple(model or ()), tuple(twin or ()), data, **asked), out,
            machines=Machines(many, engine, address, (1, 1) if shard is None else options.shard(shard)),
            progress=progress,
        )  # fmt: skip
        told = [records.plain(one) for one in found]
    if not quiet:
        terminal.show(_text(told, out), err=json)
    if json:
        terminal.emit({"out": str(out), "claims": told})


def _text(told: list[dict[str, Any]], out: Path) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding

    from flatlens.claims.records import number

    rows = [("claim", "", "verdict", "decided by", "[95 %]")]
    for one in told:
        first = one["parts"][0] if one["parts"] else None
        verdict = one["verdict"] + (", in part by construction" if one["by_construction"] else "")
        says, said = (one["why"], "") if first is None else (first["says"], number(first))
        rows.append((one["claim"], one["title"], verdict, says, said))
    note = f"{out / 'index.html'} has every number beside its region, its networks and its caveats."
    return Group(terminal.columns(rows, header=True), Padding(terminal.note(note), (1, 0, 0, 0)))
