"""`flatlens condition`: how well conditioned the Hessian of a probe on a model's features is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flatlens.errors import UsageError
from flatlens_cli import completing, options, terminal
from flatlens_cli.options import run_spec

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flatlens.hessian.condition import Condition
    from flatlens.measure.features import Features

_PANEL = "The probe"
_Ridge = Annotated[
    str,
    typer.Option(
        "--ridge",
        help="ρ; ρ·trace/d is added to the Hessian's diagonal (default 0).",
        metavar="NUMBER",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
_Probe = Annotated[
    str,
    typer.Option(
        "--probe",
        help="l2: squared error; ce: cross-entropy, at the model's own probabilities (default l2).",
        metavar="NAME",
        rich_help_panel=_PANEL,
        show_default=False,
        autocompletion=completing.words("l2", "ce"),
    ),
]
_NOTE = (
    "How slowly plain gradient descent learns a linear probe on these features: its error falls by (κ − 1)/(κ + 1) a "
    "step. Conjugate gradients, least squares and whitening are not slowed down."
)


def condition(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    layer: options.Layer = None,
    ridge: _Ridge = "0",
    probe: _Probe = "l2",
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """The condition number of the Hessian of a probe on a model's features: how fast it can be learnt.

    With --data table:FILE?target=COLUMN and no --model the features are the table's columns. Nothing is written.
    """
    rho = options.number(ridge)
    table = model is None and (data or "").startswith("table:")
    if table and (given := next((key for key in ("layer", "limit") if context.params[key]), None)):
        raise UsageError(f"--{given} is given without --model, and the columns of a table are taken as they are")
    if table and probe == "ce":
        raise UsageError("--probe ce needs --model, whose probabilities the Hessian is taken at")
    spec = None if table else run_spec(context.params)
    with terminal.stdout_kept_clean(json):
        from flatlens.hessian.condition import condition_of
        from flatlens.measure import features

        taken = features.of_table(str(data)) if spec is None else features.of_names(spec)
        found = condition_of(taken.x, rho, probe, taken.probabilities if probe == "ce" else None)
    if not quiet:
        terminal.show(_text(found, taken, model, str(data)), err=json)
    if json:
        terminal.emit({"model": model, "data": data, "layer": taken.layer, **found.to_dict()})


def _text(found: Condition, taken: Features, model: str | None, data: str) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding

    rows = [
        *([("model", model)] if model else []),
        ("data", f"{data}, {terminal.several(found.n, 'sample')}"),
        ("features", f"{taken.x.shape[1]:,}: the {'columns' if model is None else f'inputs of {taken.layer}'}"),
        ("condition number", f"{found.condition_number:.4g}, with a ridge of {found.ridge:g}"),
        ("without ridge", f"{found.plain:.4g}"),
        ("effective", f"{found.effective:.4g}, of the {found.rank:,} of {found.d:,} eigenvalues that are not 0"),
        ("λ max, λ min", f"{found.lambda_max:.4g}, {found.lambda_min:.4g}"),
        ("as released", f"{found.released:.4g}, in the convention of the paper's code"),
    ]
    tail = [("caution", f"{caution.code}: {caution.message}") for caution in found.cautions]
    cautions = [Padding(terminal.columns(tail), (1, 0, 0, 0))] if tail else []
    return Group(terminal.columns(rows), Padding(terminal.note(_NOTE), (1, 0, 0, 0)), *cautions)
