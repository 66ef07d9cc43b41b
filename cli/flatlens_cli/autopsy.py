"""`flatlens autopsy`: why samples withstand an attack on the cross-entropy, one cause each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flatlens.progress import progress_bar
from flatlens.specs.values import radius
from flatlens_cli import completing, options, terminal
from flatlens_cli.options import run_spec
from flatlens_cli.summary import percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flatlens.specs.run import RunSpec
    from flatlens.trials.causes import Autopsy, Precision

PANEL = "The attacks"
Eps = Annotated[
    str | None,
    typer.Option(
        "--eps",
        help="Radius; must be given for l2 (default linf: 8/255).",
        metavar="NUMBER",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
Norm = Annotated[
    str | None,
    typer.Option(
        "--norm",
        help="linf or l2 (default linf).",
        metavar="NAME",
        rich_help_panel=PANEL,
        show_default=False,
        autocompletion=completing.words("linf", "l2"),
    ),
]
_Steps = Annotated[
    str,
    typer.Option("--steps", help="Steps of PGD (default 20).", metavar="N", rich_help_panel=PANEL, show_default=False),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the table, a row a sample, and the figures; made.",
        metavar="DIR",
        rich_help_panel="Results",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the result that is there.", rich_help_panel="Results")]
_NOTE = (
    "Each sample is in one class. Underflow: the first gradient of the cross-entropy is exactly 0 in float32. "
    "Saturation: as many steps in float64, or on the margin or DLR, turn it. Weak search: only a longer or another "
    "search does. None found: nothing that was tried, which is no proof."
)


def autopsy(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    eps: Eps = None,
    norm: Norm = None,
    steps: _Steps = "20",
    limit: options.Limit = None,
    bounds: options.Bounds = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    device: options.Device = None,
    out: Out = None,
    force: Force = False,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Why samples withstand an attack on the cross-entropy: no gradient, saturation, a weak search, or none found.

    PGD in float32 from the clean input; what it leaves is attacked in float64, on the margin and DLR, with more steps,
    restarts and targets, and without gradients.
    """
    spec = run_spec({**context.params, "attack": "apgd-ce"})
    with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
        from flatlens.trials import asked, folder
        from flatlens.trials.autopsy import of

        if out is not None:
            folder.demand_free(out, "autopsy", force=force)
        found = of(asked.names(spec), progress)
        if out is not None:
            found.save(out, force=force)
    if not quiet:
        terminal.show(text(found, spec, out), err=json)
    if json:
        terminal.emit({"model": spec.model, "data": spec.data, **found.to_dict()})


def text(found: Autopsy, spec: RunSpec, out: Path | None) -> RenderableType:
    """The figures for people."""
    from rich.console import Group
    from rich.padding import Padding

    head = [
        ("model", spec.model),
        ("data", f"{spec.data}, {terminal.several(found.n, 'sample')}"),
        ("attack", f"{found.attacks['ce']}; {found.norm}, eps {radius(found.eps, 3)}"),
    ]
    tail = [("caution", f"{caution.code}: {caution.message}") for caution in found.cautions]
    tail += [] if out is None else [("written", str(out))]
    end = [Padding(terminal.columns(tail), (1, 0, 0, 0))] if tail else []
    return Group(terminal.columns(head), table(found), *end)


def table(found: Autopsy) -> RenderableType:
    """The classes, what else is known of them, and the note."""
    from rich.console import Group
    from rich.padding import Padding

    rows = [
        ("autopsy", "samples", "% of all", "% of the kept"),
        ("wrong before", str(found.wrong.count), percent(found.wrong), ""),
        ("turned by PGD", str(found.fooled.count), percent(found.fooled), ""),
        ("kept", str(found.kept.count), percent(found.kept), ""),
        *(
            (f"  {name}", str(share.count), percent(getattr(found, name.replace(" ", "_"))), percent(share))
            for name, share in found.causes.items()
        ),
    ]
    more = [(f"first gradient 0, {name}", _identity(one)) for name, one in found.precisions.items()]
    if found.underflow.count:
        said = f"{found.found_otherwise.count} of {found.found_otherwise.n} are turned by another attack"
        if found.without_any_gradient.count:
            said += f"; {found.without_any_gradient.count} have no gradient of the margin either"
        more.append(("underflown", said))
    left = ", ".join(f"{_SHORT[name]} {100 * share.value:.1f}" for name, share in found.left.items())
    more += [("right under, %", left), ("under all that was tried", f"{percent(found.worst)} % stay right")]
    parts = (Padding(terminal.columns(rows, header=True), (1, 0)), terminal.columns(more))
    return Group(*parts, Padding(terminal.note(_NOTE), (1, 0, 0, 0)))


_SHORT = {"ce": "PGD float32", "ce_float64": "PGD float64", "margin": "margin", "dlr": "DLR"}


def _identity(one: Precision) -> str:
    if not one.zero_gradient:
        return f"none of {one.n} right"
    exceptions = "no exceptions" if not one.exceptions else terminal.several(one.exceptions, "exception")
    return f"{one.zero_gradient} of {one.n} right; PGD leaves {one.kept}; {exceptions} between the two"
