"""`flatlens trace` and `flatlens demo`: run, draw the report, say what came out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flatlens.errors import DataError, RunError, UsageError
from flatlens.progress import progress_bar
from flatlens.specs.run import RunSpec
from flatlens.wording import CautionWarning
from flatlens_cli import options, terminal
from flatlens_cli.options import run_spec
from flatlens_cli.terminal import INTERRUPTED

if TYPE_CHECKING:
    from flatlens.records.trajectory import Trace

DEMO = {
    "model": "flatlens:digits-cnn",
    "data": "flatlens:digits",
    "attack": "pgd",
    "norm": "linf",
    "eps": 0.3,
    "steps": 25,
    "step_size": 0.03,
    "control": ["all"],
    "images": "all",
    "surface": True,
}


def trace(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    config: options.Config = None,
    set_: options.Set = None,
    trust_pickle: options.TrustPickle = None,
    trust_remote_code: options.TrustRemoteCode = None,
    download: options.Download = None,
    trust_code: options.TrustCode = False,
    attack: options.Attack = None,
    eps: options.Eps = None,
    norm: options.Norm = None,
    step_size: options.StepSize = None,
    steps: options.Steps = None,
    random_start: options.RandomStart = None,
    targeted: options.Targeted = None,
    objective: options.Objective = None,
    momentum: options.Momentum = None,
    restarts: options.Restarts = None,
    control: options.Control = None,
    prompt: options.Prompt = None,
    target: options.Target = None,
    system: options.System = None,
    slot_len: options.SlotLen = None,
    init: options.Init = None,
    slot: options.Slot = None,
    chat: options.Chat = None,
    positions: options.Positions = None,
    candidates: options.Candidates = None,
    topk: options.TopK = None,
    swaps: options.Swaps = None,
    ball: options.Ball = None,
    sharpen: options.Sharpen = None,
    stop_after: options.StopAfter = None,
    layer: options.Layer = None,
    probes: options.Probes = None,
    limit: options.Limit = None,
    sample_seed: options.SampleSeed = None,
    samples: options.Samples = None,
    only_correct: options.OnlyCorrect = None,
    dead_units: options.DeadUnits = None,
    surface: options.Surface = None,
    worst_case: options.WorstCase = None,
    condition: options.Condition = False,
    ridge: options.Ridge = None,
    images: options.Images = None,
    bounds: options.Bounds = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    name: options.Name = None,
    out: options.Out = None,
    spectrum: options.Spectrum = False,
    log: options.Log = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run an attack; at every step measure loss, prediction and the flatness of layers.

    The run's folder holds spec.toml (which reruns it), the tables, the inputs and report.html. The same
    command goes on with a run that was interrupted. Accuracy under attack is the worst case over restarts of
    the last iterate (the PGD family) or of the best point (APGD, DDN).
    """
    spec = run_spec(options.with_ridge(context.params), config, set_ or ())
    if dry_run:
        (_plan_language if spec.of_language else _plan)(spec, json=json)
    elif out is None:
        raise UsageError("--out is missing; name a new folder for the run, for example --out runs/first")
    else:
        _run(spec, out, force=force, json=json, quiet=quiet, spectrum=spectrum, log=log or ())


TEXT_DEMO = {
    "model": "lm:flatlens-tiny",
    "data": "flatlens:short-targets",
    "attack": "embedding",
    "steps": 120,
    "step_size": 0.1,
    "slot_len": 20,
    "control": ["all"],
}


def demo(
    out: options.Out = Path("runs/demo"),
    text: options.Text = False,
    layer: options.Layer = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """The built-in model and data under PGD, with controls: a finished report in seconds, offline.

    With --text the built-in language model, of single characters, under the embedding attack.
    """
    out = out or Path("runs/demo")
    if text:
        _run(run_spec(TEXT_DEMO), out, force=force, json=json, quiet=quiet)
        return
    _run(run_spec(DEMO | {"layer": layer}), out, force=force, json=json, quiet=quiet, spectrum=True)


def _run(
    spec: RunSpec, out: Path, *, force: bool, json: bool, quiet: bool, spectrum: bool = False, log: Sequence[str] = ()
) -> None:
    trackers = _trackers(log, out)
    try:
        with terminal.stdout_kept_clean(json), progress_bar(not quiet) as progress:
            from flatlens.measure.run import run
            from flatlens.report import html_file

            with warnings.catch_warnings():
                # They are in the summary, and on the page.
                warnings.simplefilter("ignore", CautionWarning)
                done = run(spec, out, force=force, progress=progress)
            page = done.path / "report.html"
            drawn = done.resumed == "finished" and html_file.is_whole(page)
            if spectrum:
                from flatlens.peers.spectrum import add_spectrum

                drawn = drawn and all((done.path / f"{name}.parquet").exists() for name in ("spectrum", "peers"))
                try:
                    done = add_spectrum(done)
                except DataError as error:  # what was measured is shown all the same
                    terminal.complain(str(error))
            made = done.trace(whole=False)
            if not drawn:
                made.report(page)
            _tell(trackers, made, done.path)
    except KeyboardInterrupt:
        terminal.complain(_interrupted(out))
        raise typer.Exit(INTERRUPTED) from None

    from flatlens_cli import summary

    if not quiet:
        if done.resumed == "finished":
            terminal.complain(f"nothing to do: '{done.path}' holds this run, finished")
        terminal.show(summary.text(made, page), err=json)
    if json:
        where = {"run": done.path, "report": page, "resumed": done.resumed, "spec": made.spec}
        terminal.emit(where | summary.facts(made))


def _trackers(names: Sequence[str], out: Path) -> list[Any]:
    """Those that are asked for; one that is not installed is told of before anything is measured."""
    if not names:
        return []
    from flatlens import loggers

    return [loggers.made(name, out / "log" / name) for name in dict.fromkeys(names)]


def _tell(trackers: Sequence[Any], trace: Trace, folder: Path) -> None:
    """Tell trackers of a finished run, which is saved; one that cannot write is complained of, and no more."""
    from flatlens.errors import LoggerError

    kept = ("report.html", "spec.toml", "manifest.json", "steps.parquet", "layers.parquet")
    for tracker in trackers:
        try:
            tracker.log(trace, name=folder.name, files=[folder / name for name in kept if (folder / name).exists()])
        except LoggerError as error:
            terminal.complain(f"note: {error}; the run itself is saved")


def _interrupted(out: Path) -> str:
    """How much of an interrupted run is on the disk."""
    from flatlens.records import runs

    try:
        run = runs.load(out)
    except RunError:
        return "interrupted: nothing was saved yet"
    total = run.manifest["batches"]
    # The parts themselves are counted: the manifest may be one behind.
    saved = total if run.finished else total - len(run.missing())
    return f"interrupted: {saved} of {total} batches are saved; the same command goes on from there"


def _plan_language(spec: RunSpec, *, json: bool) -> None:
    from rich import filesize

    from flatlens.measure.plan_language import plan

    with terminal.stdout_kept_clean(json):
        takes = plan(spec)
    if json:
        terminal.emit(takes._asdict())
        return
    each = terminal.duration(takes.seconds_per_prompt)
    terminal.show(
        terminal.columns(
            [
                ("model", takes.model),
                ("prompts", f"{takes.prompts:,}, the longest of {takes.tokens:,} tokens with slot and target"),
                ("steps", str(takes.steps)),
                ("forward passes", f"{takes.forward_passes:,}, each of one prompt"),
                ("backward passes", f"{takes.backward_passes:,}, each of one prompt"),
                ("candidates", f"{takes.candidates:,} are evaluated beside them"),
                ("memory", f"about {filesize.decimal(takes.memory_bytes)}"),
                ("time", f"about {terminal.duration(takes.seconds)}, {each} a prompt"),
            ]
        )
    )


def _plan(spec: RunSpec, *, json: bool) -> None:
    from rich import filesize

    from flatlens.measure.plan import plan

    with terminal.stdout_kept_clean(json):
        takes = plan(spec)
    if json:
        terminal.emit(takes._asdict())
        return
    training = [("training", f"about {terminal.duration(takes.training_seconds)}")] if takes.training_passes else []
    terminal.show(
        terminal.columns(
            [
                ("model", takes.model),
                ("layers", ", ".join(takes.layers)),
                ("samples", f"{takes.samples:,}, {takes.batch_size:,} at a time"),
                ("batches", f"{takes.batches:,}"),
                (
                    "steps",
                    str(takes.steps)
                    if takes.says_steps
                    else f"the attack does not say how many: {takes.steps} are counted",
                ),
                ("forward passes", f"{takes.forward_passes:,}, each of a batch"),
                ("backward passes", f"{takes.backward_passes:,}, each of a batch"),
                ("memory", f"about {filesize.decimal(takes.memory_bytes)}"),
                ("time", f"about {terminal.duration(takes.seconds)}"),
                *training,
            ]
        )
    )
