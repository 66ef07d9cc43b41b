"""`flatlens detect`: curvature put to the test as a detector of attacks, beside scores that cost nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from flatlens.progress import progress_bar
from flatlens.specs.values import radius
from flatlens_cli import options, terminal
from flatlens_cli.autopsy import Eps, Force, Norm, Out
from flatlens_cli.options import run_spec
from flatlens_cli.summary import percent

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from flatlens.records.intervals import Mean
    from flatlens.specs.run import RunSpec
    from flatlens.trials.detected import Detection, Separation

_NOTE = (
    "Pairs of a right clean input and its successful attack. AUC: how often an adversarial input scores higher than a "
    "clean one; 0.5 is chance, below it they score lower. Stump: a threshold and side set on four fifths of the pairs, "
    "right on the rest in %. TPR: attacks caught where so many clean inputs raise an alarm, the side by the AUC. "
    "κ-matched and κ-descent know of the detector: what they leave is what it is worth."
)
_SHORT = {
    "pgd": "PGD", "mi_fgsm": "MI-FGSM", "fgsm": "FGSM", "apgd_ce": "APGD-CE", "apgd_dlr": "APGD-DLR",
    "pgd_margin": "PGD margin", "ddn": "DDN", "kappa_matched": "κ-matched", "kappa_descent": "κ-descent",
    "kappa": "κ", "entropy": "entropy", "gap": "top-2 gap", "feature_norm": "‖a‖",
}  # fmt: skip


def detect(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    eps: Eps = None,
    norm: Norm = None,
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
    """Curvature as a detector of attacks, beside entropy, top-2 gap and the features' length, attack by attack.

    Each right sample that an attack turns makes a pair of a clean and an adversarial input. A threshold is set on some
    pairs and tried on others, of the same attack and of every other; and two attacks aim at the κ of clean inputs.
    """
    spec = run_spec({**context.params, "attack": "apgd-ce"})
    with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
        from flatlens.trials import asked, folder
        from flatlens.trials.detectors import of

        if out is not None:
            folder.demand_free(out, "detect", force=force)
        found = of(asked.names(spec), progress)
        if out is not None:
            found.save(out, force=force)
    if not quiet:
        terminal.show(text(found, spec, out), err=json)
    if json:
        terminal.emit({"model": spec.model, "data": spec.data, **found.to_dict()})


def text(found: Detection, spec: RunSpec, out: Path | None) -> RenderableType:
    """The figures for people."""
    from rich.console import Group
    from rich.padding import Padding

    head = [
        ("model", spec.model),
        ("data", f"{spec.data}, {terminal.several(found.n, 'sample')}, {found.right.count} right"),
        ("attacks", f"{found.norm}, eps {radius(found.eps, 3)}; DDN has no radius"),
    ]
    near = [
        (_SHORT[name], f"{one.value:.2g} decades of κ off what it aims at, in the median")
        for name, one in found.decades.items()
        if one.n
    ]
    tail = [*near, *(("caution", f"{caution.code}: {caution.message}") for caution in found.cautions)]
    tail += [] if out is None else [("written", str(out))]
    first = next(iter(found.detectors))
    parts = [
        terminal.columns(head),
        Padding(_areas(found), (1, 0, 0, 0)),
        Padding(_detector(found, first), (1, 0, 0, 0)),
        Padding(_matrix(found, first), (1, 0)),
    ]
    return Group(*parts, *([terminal.columns(tail)] if tail else []), Padding(terminal.note(_NOTE), (1, 0, 0, 0)))


def _areas(found: Detection) -> RenderableType:
    rows = [("AUC", "pairs", *(_SHORT[name] for name in found.detectors))]
    for attack, share in found.success.items():
        areas = (found.found[name][attack].auc for name in found.detectors)
        rows.append((_SHORT[attack], str(share.count), *(_area(area) for area in areas)))
    return terminal.columns(rows, header=True)


def _area(found: Mean) -> str:
    if math.isnan(found.value):
        return "–"
    return f"{found.value:.3f} [{found.low:.2f}, {found.high:.2f}]"


def _detector(found: Detection, name: str) -> RenderableType:
    rows = [(f"{_SHORT[name]} as detector", "stump, %", "TPR at 1 % FPR", "TPR at 5 % FPR")]
    rows += [(_SHORT[attack], *_rates(one)) for attack, one in found.found[name].items()]
    return terminal.columns(rows, header=True)


def _rates(one: Separation) -> tuple[str, str, str]:
    return _percent(one.accuracy), percent(one.tpr_1), percent(one.tpr_5)


def _percent(found: Mean) -> str:
    if math.isnan(found.value):
        return "–"
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _matrix(found: Detection, name: str) -> RenderableType:
    held = found.matrix[name]
    rows = [(f"{_SHORT[name]} stump, %: set on ↓ tried on →", *(_SHORT[attack] for attack in held))]
    rows += [(_SHORT[a], *(f"{100 * one.value:.0f}" for one in row.values())) for a, row in held.items()]
    return terminal.columns(rows, header=True)
