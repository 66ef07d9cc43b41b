"""`flatlens immunize`: a linear map on a model's features that makes a harmful task slow to learn; and for whom not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flatlens.errors import SpecError, UsageError
from flatlens.progress import progress_bar
from flatlens.specs.immunize import classes
from flatlens_cli import completing, options, terminal
from flatlens_cli.options import run_spec
from flatlens_cli.whole_network import fine_tuned

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flatlens.immunity.of_models import OfModel

_PANEL, _TASKS = "The immunization", "The tasks"


def _flag(text: str, name: str, metavar: str, panel: str = _PANEL, completion: Any = None) -> Any:
    return typer.Option(
        name, help=text, metavar=metavar, rich_help_panel=panel, show_default=False, autocompletion=completion
    )


SMALL = 1e-4
"""By how much θ and its inverse may move a logit by rounding."""
_NAMES = ("ceiling", "alg1", "r-ill", "opt-kappa", "imma")
_Primary = Annotated[str | None, _flag("Data of the useful task, the model's own.", "--primary", "URI", _TASKS)]
_Harmful = Annotated[str | None, _flag("Data of the harmful task.", "--harmful", "URI", _TASKS)]
_PrimaryClasses = Annotated[
    str | None, _flag("Only these classes of the useful data.", "--primary-classes", "0-4", _TASKS)
]
_HarmfulClasses = Annotated[
    str | None, _flag("Only these classes of the harmful data.", "--harmful-classes", "5,7-9", _TASKS)
]
_Method = Annotated[
    str | None,
    _flag(
        "ceiling (closed form), alg1, r-ill, opt-kappa or imma (default ceiling; of --whole-network alg1).",
        "--method",
        "NAME",
        completion=completing.words(*_NAMES),
    ),
]
_Ridge = Annotated[str, _flag("ρ; ρ·trace/d is added to both Hessians (default 0.01).", "--ridge", "NUMBER")]
_Target = Annotated[str | None, _flag("The ratio at which to stop (default: none).", "--target", "NUMBER")]
_Delta = Annotated[
    str, _flag("alg1: eigenvalues so near the largest are lowered as one (default 0.3).", "--delta", "NUMBER")
]
_Balance = Annotated[
    str,
    _flag(
        "ceiling: who gains, 0 the useful task alone, 1 the harmful one's slowness (default 0.5).",
        "--balance",
        "NUMBER",
    ),
]
_MaxCond = Annotated[str, _flag("The largest condition number of θ (default 1e6).", "--max-cond", "NUMBER")]
_Steps = Annotated[str, _flag("Steps that are tried at most (default 100).", "--steps", "N")]
_Holdout = Annotated[
    str, _flag("Share of each task's samples that θ does not see (default 0.3).", "--holdout", "NUMBER")
]
_Seed = Annotated[str, _flag("Of the choice of these samples (default 0).", "--seed", "N")]
_WholeNetwork = Annotated[
    bool,
    typer.Option(
        "--whole-network",
        help="Train all weights instead of appending θ (alg1 or r-ill); what that destroys is measured.",
        rich_help_panel=_PANEL,
    ),
]
_FineTune = Annotated[
    bool,
    typer.Option(
        "--fine-tune",
        help="Also fine-tune the whole network on the harmful task, with θ and without: SGD, Adam, five seeds.",
        rich_help_panel=_PANEL,
    ),
]
_Epochs = Annotated[str | None, _flag("Of --fine-tune and --whole-network (default 10).", "--epochs", "N")]
_OUT = Annotated[Path | None, _flag("Folder of the result; made, or gone on with.", "--out", "DIR", "Results")]
_Force = Annotated[bool, typer.Option("--force", help="Replace the result that is there.", rich_help_panel="Results")]
_NOTE = (
    "It gives time, and only against plain gradient descent on a new head: conjugate gradients, least squares and "
    "whitening are as fast as before, and who fine-tunes the whole network is not bound to these features at all."
)


def immunize(
    context: typer.Context,
    model: options.Model = None,
    primary: _Primary = None,
    harmful: _Harmful = None,
    primary_classes: _PrimaryClasses = None,
    harmful_classes: _HarmfulClasses = None,
    layer: options.Layer = None,
    method: _Method = None,
    ridge: _Ridge = "0.01",
    target: _Target = None,
    delta: _Delta = "0.3",
    balance: _Balance = "0.5",
    max_cond: _MaxCond = "1e6",
    steps: _Steps = "100",
    holdout: _Holdout = "0.3",
    seed: _Seed = "0",
    whole_network: _WholeNetwork = False,
    fine_tune: _FineTune = False,
    epochs: _Epochs = None,
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
    """Append a linear map to a model's features, so that a harmful task is slow to learn on them; and say how slow.

    The model's own logits stay as they are. With two tables of the same columns and no --model, the features are these
    columns.
    """
    for name, value in (("--primary", primary), ("--harmful", harmful), ("--out", out)):
        if value is None:
            raise UsageError(f"{name} is missing; `flatlens immunize --help` shows what it takes")
    tables = model is None and all(str(uri).startswith("table:") for uri in (primary, harmful))
    data_flags = ("layer", "limit", "primary_classes", "harmful_classes", "fine_tune", "whole_network")
    if tables and (given := next((key for key in data_flags if context.params[key]), None)):
        raise UsageError(f"--{given.replace('_', '-')} needs --model; the columns of a table are taken as they are")
    passes = _passes(fine_tune or whole_network, epochs)
    chosen = [classes(name, text) for name, text in (("primary", primary_classes), ("harmful", harmful_classes))]
    known = {key: context.params[key] for key in ("model", "layer", "limit", "batch_size", "device")}
    known |= {key: context.params[key] for key in ("trust_pickle", "trust_remote_code", "download")}
    spec = None if tables else run_spec({**known, "data": primary})
    with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
        from flatlens.immunity.immunize import checked
        from flatlens.immunity.of_models import Data, of_names, of_tables

        asked = checked(
            method or ("alg1" if whole_network else "ceiling"),
            ridge=options.number(ridge),
            delta=options.number(delta),
            balance=options.number(balance),
            target=None if target is None else options.number(target),
            max_cond=options.number(max_cond),
            steps=options.whole(steps),
            holdout=options.number(holdout),
            seed=options.whole(seed),
        )
        assert primary is not None and harmful is not None and out is not None
        found: OfModel | None = None
        if spec is None:
            found = of_tables(primary, harmful, asked, out, force=force, progress=progress)
        else:
            useful, other = Data(primary, chosen[0]), Data(harmful, chosen[1])
            if whole_network:
                from flatlens.immunity import network_folder

                network = network_folder.of_names(
                    spec, useful, other, asked, out, epochs=passes, fine_tune=fine_tune, force=force, progress=progress
                )
            else:
                tuned = passes if fine_tune else None
                found = of_names(spec, useful, other, asked, out, fine_tune=tuned, force=force, progress=progress)
    told: dict[str, Any] = {"out": str(out), "primary_data": primary, "harmful_data": harmful}
    if found is None:
        from flatlens_cli import whole_network as of_network

        if not quiet:
            terminal.show(of_network.text(network, out), err=json)
        if json:
            terminal.emit(told | network)
        return
    page = _drawn(out)
    if not quiet:
        terminal.show(_text(found, out, page), err=json)
    if json:
        told |= {"page": page, "model": found.model}
        told |= found.found.to_dict() | {"attackers": _left(found)}
        terminal.emit(told | ({"fine_tuning": found.fine_tuning} if found.fine_tuning else {}))


def _passes(asked: bool, epochs: str | None) -> int:
    """How many epochs a network is trained."""
    if not asked and epochs is not None:
        raise UsageError(f"--epochs {epochs} is given without --fine-tune or --whole-network, whose epochs they are")
    found = options.whole(epochs or "10")
    if found < 1:
        raise SpecError(f"--epochs {found}: needs a whole number of at least 1")
    return found


def _left(found: OfModel) -> dict[str, dict[str, dict[str, float]]]:
    """Loss gaps at the last iteration: attacker -> task -> extractor -> gap."""
    table = found.found.attackers
    if table is None:
        return {}
    told: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.to_pylist():  # in the order of the iterations: the last one stays
        told.setdefault(row["attacker"], {}).setdefault(row["task"], {})[row["extractor"]] = row["loss_gap"]
    return told


def _drawn(out: Path) -> Path | None:
    """The page in the result's folder; None, and why in a line, where it could not be drawn: the result is there."""
    from flatlens.errors import FlatlensError, one_line
    from flatlens.records import immunized
    from flatlens.report import immunity_page

    try:
        return immunity_page.write(immunized.result(out), out / immunized.PAGE)
    except FlatlensError as error:
        terminal.complain(f"no page: {one_line(error)}")
        return None


def _text(asked: OfModel, out: Path, page: Path | None) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding

    found, model = asked.found, asked.model
    held = found.heldout
    rows = [
        *([("model", f"{model['uri']}, inputs of {model['layer'] or 'the model'}")] if model else []),
        ("method", f"{found.method}; ended: {found.stop}"),
        ("harmful", f"κ {found.harmful.before:.4g} → {found.harmful.after:.4g}, i = {found.i:.4g} (above 1 is wanted)"),
        (
            "primary",
            f"κ {found.primary.before:.4g} → {found.primary.after:.4g}, ii = {found.ii:.4g} (below 1 is wanted)",
        ),
        ("RIR", f"{found.rir:.4g} = i / ii; no linear map exceeds {found.bound:.4g}"),
        ("held out", f"i = {held.i:.4g}, ii = {held.ii:.4g}, RIR {held.rir:.4g}" if held else "nothing"),
        *([("logits", _moved(model["logits"]))] if model else []),
        ("written", str(out)),
        *([("page", str(page))] if page is not None else ()),
        *([("load it by", model["appended"])] if model and model["appended"] else []),
    ]
    parts = [terminal.columns(rows)]
    if left := _left(asked):
        parts.append(Padding(_attackers(left), (1, 0, 0, 0)))
    if asked.fine_tuning:
        parts.append(Padding(fine_tuned(asked.fine_tuning, "θ"), (1, 0, 0, 0)))
    parts.append(Padding(terminal.note(_NOTE), (1, 0, 0, 0)))
    if tail := [("caution", f"{caution.code}: {caution.message}") for caution in found.cautions]:
        parts.append(Padding(terminal.columns(tail), (1, 0, 0, 0)))
    return Group(*parts)


def _moved(most: float) -> str:
    more = "" if most <= SMALL else "; more than rounding should: give a larger --ridge, or --method alg1"
    return f"moved by at most {most:.2g}{more}"


def _attackers(left: dict[str, dict[str, dict[str, float]]]) -> RenderableType:
    tasks = list(next(iter(left.values())))
    header = ("loss left after 100 steps", *(f"{task}: before → after" for task in tasks))
    rows = [
        (name, *(f"{of[t]['identity']:.1e} → {of[t]['immunized']:.1e}" for t in tasks)) for name, of in left.items()
    ]
    return terminal.columns([header, *rows], header=True)
