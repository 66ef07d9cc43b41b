"""`flatlens robustness`: what several attacks leave of a model's accuracy, and whether that can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flatlens.progress import progress_bar
from flatlens.specs.catalogue import QUERIES
from flatlens.specs.values import radius
from flatlens_cli import completing, options, terminal
from flatlens_cli.options import run_spec
from flatlens_cli.summary import percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flatlens.records.intervals import Mean, Median
    from flatlens.specs.run import RunSpec
    from flatlens.training.robustness import Robustness

_PANEL = "The attacks"
_Eps = Annotated[
    str | None,
    typer.Option(
        "--eps",
        help="Radius; must be given for l2 (default linf: 8/255).",
        metavar="NUMBER",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
_Norm = Annotated[
    str | None,
    typer.Option(
        "--norm",
        help="linf or l2 (default linf).",
        metavar="NAME",
        rich_help_panel=_PANEL,
        show_default=False,
        autocompletion=completing.words("linf", "l2"),
    ),
]
_Autopsy = Annotated[
    bool,
    typer.Option(
        "--autopsy",
        help="Also say why samples withstand PGD: see `flatlens autopsy`.",
        rich_help_panel=_PANEL,
        show_default=False,
    ),
]
_NOTE = (
    "Shares of all samples in % and medians over them, each with its 95 % interval. Worst case: right before the "
    "attack and under every one. The loss gap says little alone: it grows with the logits' scale. Flat is not robust: "
    "κ stands here beside the worst case, not in its place."
)


def robustness(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    eps: _Eps = None,
    norm: _Norm = None,
    limit: options.Limit = None,
    autopsy: _Autopsy = False,
    bounds: options.Bounds = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    device: options.Device = None,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """What several attacks leave of a model's accuracy: the worst case, its interval, and whether to believe it.

    PGD and auto-PGD on the cross-entropy; APGD-T at the most probable wrong classes, of as many steps, whose objective
    the scale of the logits does not change; and Square, which needs no gradient. Nothing is written. With --autopsy
    each sample that withstands PGD on the cross-entropy is attributed to one cause.
    """
    spec = run_spec({**context.params, "attack": "square", "steps": str(QUERIES)})
    with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
        from flatlens.measure.robustness import of_names

        found = of_names(spec, progress)
        causes = None
        if autopsy:
            from flatlens.trials import asked
            from flatlens.trials.autopsy import STEPS, of

            like = {**context.params, "attack": asked.CHECKED_AS, "steps": str(STEPS)}
            causes = of(asked.names(run_spec(like)), progress)
    if not quiet:
        terminal.show(text(found, spec, asked=autopsy), err=json)
        if causes is not None:
            from flatlens_cli.autopsy import table

            terminal.show(table(causes), err=json)
    if json:
        more = {} if causes is None else {"autopsy": causes.to_dict()}
        terminal.emit({"model": spec.model, "data": spec.data, **found.to_dict(), **more})


def text(found: Robustness, spec: RunSpec, *, asked: bool = False) -> RenderableType:
    """The figures for people.

    Args:
        found: the figures.
        spec: what they are of.
        asked: whether the autopsy follows, which is suggested otherwise where gradients are masked.
    """
    from rich.console import Group
    from rich.padding import Padding

    head = [
        ("model", spec.model),
        ("data", f"{spec.data}, {terminal.several(found.n, 'sample')}"),
        ("attacks", f"{found.norm}, eps {radius(found.eps, 3)}"),
    ]
    tail = [("caution", f"{caution.code}: {caution.message}") for caution in found.cautions]
    if found.masked and not asked:
        tail.append(("see also", "--autopsy says of each sample that withstands PGD why it does"))
    parts = [
        terminal.columns(head),
        Padding(_shares(found), (1, 0)),
        terminal.columns(_figures(found)),
        Padding(terminal.note(_NOTE), (1, 0, 0, 0)),
    ]
    return Group(*parts, *([Padding(terminal.columns(tail), (1, 0, 0, 0))] if tail else []))


def _shares(found: Robustness) -> RenderableType:
    rows = [
        ("right", "%", ""),
        ("clean", percent(found.clean), "no attack"),
        ("PGD", percent(found.pgd), found.attacks["pgd"]),
        ("APGD-CE", percent(found.apgd_ce), found.attacks["apgd_ce"]),
        ("APGD-T", percent(found.apgd_t), found.attacks["apgd_t"]),
        ("Square", percent(found.square), found.attacks["square"]),
        ("cross-entropy", percent(found.cross_entropy), "PGD and APGD-CE together"),
        ("worst case", percent(found.worst), "every one of these"),
    ]
    return terminal.columns(rows, header=True)


def _figures(found: Robustness) -> list[tuple[str, str]]:
    gap = found.loss_gap
    kappa = "none in closed form" if found.kappa is None else _interval(found.kappa)
    difference = f"{100 * found.difference.value:+.1f} [{100 * found.difference.low:+.1f}, "
    difference += f"{100 * found.difference.high:+.1f}] points, cross-entropy minus APGD-T, of as many steps"
    bound = f"at most {found.lipschitz:.3g} logits per unit of l2" if found.lipschitz else found.why_no_lipschitz
    return [
        ("masked", f"{'yes' if found.masked else 'no'}: {difference}"),
        ("zero gradient", f"{percent(found.zero_gradient)} % of the clean inputs"),
        ("loss gap", f"mean {_interval(gap.mean)}, median {_interval(gap.median)} nats, {gap.attack}"),
        ("κ of the head", kappa),
        ("slope", f"{_interval(found.slope)} logits per unit of {found.norm}"),
        ("Lipschitz", bound),
        ("margin / slope", f"{_interval(found.radius)}, the boundary's distance to first order"),
    ]


def _interval(found: Mean | Median) -> str:
    return str(found).partition(", n = ")[0]
