"""`flatlens train`: a model trained by a recipe, with its accuracies beside the weights."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from flatlens.errors import ResourceError, UsageError, one_line
from flatlens.progress import progress_bar
from flatlens.specs.defences import in_words, uses_eps
from flatlens.specs.run import train_from_dict
from flatlens.specs.train import TrainSpec
from flatlens.specs.values import radius
from flatlens_cli import completing, options, terminal
from flatlens_cli.terminal import INTERRUPTED, several

_KEYS = tuple(field.name for field in fields(TrainSpec))


def _option(text: str, *flags: str, metavar: str, **more: Any) -> Any:
    default = getattr(TrainSpec, flags[0].removeprefix("--").replace("-", "_"))
    said = text if default is None else f"{text.removesuffix('.')} (default {default:.4g})."
    return typer.Option(*flags, help=said, show_default=False, metavar=metavar, **more)


def _axis(text: str, flag: str) -> Any:
    key = flag.removeprefix("--").replace("-", "_")
    return _option(text, flag, metavar="NAME", autocompletion=completing.FOR.get(key))


def _count(text: str, *flags: str) -> Any:
    return _option(text, *flags, metavar="N", parser=options.whole)


def train(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Model to train; see `flatlens models`.",
            metavar="URI",
            autocompletion=completing.FOR["model"],
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Data to train on; see `flatlens datasets`.",
            metavar="URI",
            autocompletion=completing.FOR["data"],
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", metavar="FILE.safetensors")] = None,
    epochs: Annotated[int | None, _count("Passes over the data.", "--epochs")] = None,
    lr: Annotated[str | None, _option("First learning rate of AdamW.", "--lr", metavar="NUMBER")] = None,
    batch_size: Annotated[int | None, _count("Samples per step.", "--batch-size")] = None,
    weight_decay: Annotated[str | None, _option("Decoupled.", "--weight-decay", metavar="NUMBER")] = None,
    defence: Annotated[
        str | None, _axis("A recipe of the literature, such as trades; see `flatlens defences`.", "--defence")
    ] = None,
    adversarial: Annotated[str | None, _axis("Train on attacked inputs: pgd, fgsm, …", "--adversarial")] = None,
    loss: Annotated[str | None, _axis("On clean and attacked inputs: mix, trades, mart.", "--loss")] = None,
    perturb_weights: Annotated[
        str | None, _axis("Step from weights made worse first: sam, asam, awp.", "--perturb-weights")
    ] = None,
    penalty: Annotated[
        str | None, _axis("Added for each sample, joined by +: fam, gradient, spectral.", "--penalty")
    ] = None,
    eps: Annotated[
        str | None, _option("Radius of that attack, and of the robust accuracy.", "--eps", metavar="NUMBER")
    ] = None,
    norm: Annotated[str | None, _axis("In which eps is measured: linf (the default) or l2.", "--norm")] = None,
    steps: Annotated[int | None, _count("Steps of that attack.", "--steps")] = None,
    eps_warmup: Annotated[int | None, _count("Epochs in which eps rises from 0.", "--eps-warmup")] = None,
    keep: Annotated[
        str | None, _axis("The last epoch, or the best by samples held out of the training data.", "--keep")
    ] = None,
    limit: Annotated[int | None, _count("At most N samples, of all classes alike.", "--limit")] = None,
    seed: Annotated[int | None, _count("Of the order and the attack's starts.", "--seed")] = None,
    condition: options.Condition = False,
    ridge: options.Ridge = None,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the model that is there.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model, standard or with a defence; what it reaches is written beside the weights, with a page of it.

    Data that have a training and a test part are trained on the one and tested on the other. The same command goes
    on with a training that was interrupted, from its last epoch.
    """
    for name, value in (("--model", model), ("--data", data), ("--out", out)):
        if value is None:
            raise UsageError(f"{name} is missing; for example flatlens train --model flatlens:cnn --data "
                             "flatlens:digits --out cnn.safetensors")  # fmt: skip
    params = options.with_ridge(context.params)
    recipe = train_from_dict({key: params[key] for key in _KEYS if params[key] is not None})
    assert model is not None and out is not None
    try:
        with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
            from flatlens.training import recipes

            trust = {"trust_pickle": bool(trust_pickle), "trust_remote_code": bool(trust_remote_code)}
            trust["download"] = bool(download)
            made = recipes.train(
                model, recipe, out, force=force, progress=progress, tell=lambda a: terminal.complain(a.text), **trust
            )
    except KeyboardInterrupt:
        terminal.complain("interrupted: the finished epochs are saved; the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    record = made.record
    page = _drawn(made.file, record, anew=made.resumed != "finished")
    if not quiet:
        if made.resumed == "finished":
            terminal.complain(f"nothing to do: '{out}' holds this model, trained")
        rows = [
            ("model", record["model"]),
            ("data", f"{recipe.data}, {several(record['samples'], 'sample')}, {several(recipe.epochs, 'epoch')}"),
            ("training", _training(recipe)),
            ("accuracy", f"{100 * made.accuracy:.1f} % of {record['test_samples']:,} samples of {made.test}"),
            ("worst case", _worst(record)),
            ("PGD alone", f"{100 * made.robust_accuracy:.1f} % under {record['robust_attack']}"),
            ("κ of the head", _kappa(record["kappa"])),
            *([("condition", _condition(record["condition"]))] if "condition" in record else []),
            ("time", f"{record['seconds']:.3g} s"),
            ("weights", str(out)),
            *([("page", str(page))] if page is not None else ()),
        ]
        # What masks is told by a caution in full.
        rows += [("alarm", one["text"]) for one in record.get("alarms", ()) if one["code"] != "masked"]
        rows += [("caution", f"{one['code']}: {one['message']}") for one in record["robustness"]["cautions"]]
        terminal.show(terminal.columns(rows), err=json)
    if json:
        terminal.emit({"weights": out, "page": page, "resumed": made.resumed, **record})


def _drawn(weights: Path, record: dict[str, Any], *, anew: bool) -> Path | None:
    """The training's page beside its weights; None, and why in a line, where it could not be drawn.

    The weights are written by then: a page that cannot be is no reason to end as if they were not.
    """
    from flatlens.files.borders import DamageError
    from flatlens.report import training_page
    from flatlens.training import epochs

    page = weights.with_suffix(".html")
    if not anew and training_page.is_there(page):
        return page
    try:
        return training_page.write(epochs.read(weights), record, page)
    except FileNotFoundError:  # trained before epochs were kept
        return None
    except (DamageError, ResourceError) as error:
        terminal.complain(f"no page: {one_line(error)}")
        return None


def _training(recipe: TrainSpec) -> str:
    how = in_words(recipe.to_dict())
    return f"{how}, {recipe.norm or 'linf'}, eps {radius(recipe.eps)}" if uses_eps(recipe.to_dict()) else how


def _worst(record: dict[str, Any]) -> str:
    """The worst case of all attacks, with its interval, and on how many samples."""
    found = record["worst_accuracy"]
    interval = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
    return f"{100 * found['value']:.1f} {interval} % of {found['n']:,} samples under PGD, APGD-CE, APGD-T and Square"


def _condition(found: dict[str, Any]) -> str:
    """Condition numbers of a linear probe on the head's features before and after the training."""
    before, after = ("infinite" if found[when] is None else f"{found[when]:.4g}" for when in ("before", "after"))
    return f"{before} before, {after} after: of a linear probe on the head's features, ridge {found['ridge']:g}"


def _kappa(found: dict[str, Any]) -> str:
    """The median of the head's relative flatness before and after the training."""
    before, after = found["before"], found["after"]
    if before is None or after is None:
        return "none in closed form"
    return f"{before['value']:.3g} before, {after['value']:.3g} after (median, clean)"
