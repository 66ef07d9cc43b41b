"""From a spec to a finished run's folder: load, prepare, measure what is missing, merge."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from flatlens import attacks, datasets, models
from flatlens.attacks import libraries, points, recording
from flatlens.errors import AttackError, DataError, LayerError, SpecError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.measure.job import Job, prepare
from flatlens.measure.loop import Attack
from flatlens.measure.trace import provenance
from flatlens.progress import Report
from flatlens.records import cautions, runs
from flatlens.records.schema import MEASUREMENT_VERSION, Caution
from flatlens.records.trajectory import Trace
from flatlens.records.valley import Ints
from flatlens.specs.run import RunSpec, demand_named
from flatlens.specs.trust import TRUST
from flatlens.specs.uris import parse
from flatlens.training import reached
from flatlens.training import recipes as trained
from flatlens.victims.images import Forward, Victim
from flatlens.victims.layers import own_name, probeable
from flatlens.victims.memory import bytes_per_sample
from flatlens.wording import warn

DIGITS = "flatlens:digits"
SURVEYED = 8
"""Samples on which the cost of a layer is measured."""
TIMED = 7
"""How often, with and without the layer in turn."""


class Loaded(NamedTuple):
    """A spec's job, its defaults filled in, and the identity of what went into it."""

    spec: RunSpec
    job: Job
    identity: dict[str, object]


class Begun(NamedTuple):
    """A run's folder, and the job whose batches it is to hold."""

    run: runs.Run
    job: Job


class Plan(NamedTuple):
    """What a run would take: passes are of one batch each; memory in bytes, time in seconds, both estimated."""

    model: str
    layers: list[str]
    samples: int
    batch_size: int
    batches: int
    forward_passes: int
    backward_passes: int
    memory_bytes: int
    seconds: float
    training_passes: int = 0
    """Forward, and as many backward, passes to train the model that a recipe names, where it is not there yet."""
    training_seconds: float = 0.0
    steps: int = 0
    """Of a path, as they are counted here."""
    says_steps: bool = True
    """Whether the attack says how many it takes; where it does not, 40 are counted."""


class LayerRow(NamedTuple):
    """A layer that can be named: its kind, its weight's shape, and how it would be measured."""

    name: str
    kind: str
    shape: tuple[int, ...]
    is_head: bool
    method: str
    exact: bool | None
    passes: int | None
    """Backward passes of a batch that it adds to each step, the attack's own not counted; None where not known."""
    cost: float | None
    """Time in steps of the attack: the median of `TIMED` pairs, and the least and the largest; None where not known."""
    cost_low: float | None = None
    cost_high: float | None = None


def run(spec: RunSpec, out: str | Path, *, force: bool = False, progress: Report | None = None) -> runs.Run:
    """Do what is missing of a run, and return it finished.

    Args:
        spec: what to run.
        out: the run's folder; a finished run of the same spec is left as it is, an unfinished one is gone on with.
        force: replace a run that is there.
        progress: called after every step of a batch.

    Raises:
        RunError: the folder holds a run of another spec, or other files.
        ResourceError: memory or disk ran out; finished batches are saved.

    Warns:
        CautionWarning: for each caution of the run.
    """
    out = Path(out)
    runs.existing(out, force=force)  # before anything is put into it
    with runs.claimed(out):
        begun = begin(spec, out, force=force, progress=progress)
        if not begun.run.finished:
            measure(begun, begun.run.missing(), progress=progress)
            finish(begun)
    warn(Caution(**caution) for caution in begun.run.manifest.get("warnings", ()))
    return begun.run


def begin(
    spec: RunSpec,
    out: str | Path,
    *,
    force: bool = False,
    parents: bool = True,
    whole: bool = True,
    progress: Report | None = None,
) -> Begun:
    """Load what a spec names, and begin its run or go on with the one that is there. See `run`.

    Without ``parents`` the folder that ``out`` lies in must be there: a sweep's may have been removed on purpose.
    Unless ``whole``, others are at work on some of its batches.
    """
    out = Path(out)
    found = runs.existing(out, force=force)
    if found is not None:
        runs.demand_current(found)
    stored = None if found is None else found.spec
    if stored is not None and spec.batch_size is None:
        spec = dataclasses.replace(spec, batch_size=stored.batch_size)
    spec, job, identity = load(spec, progress)
    if found is not None:
        result = runs.resume(found, spec, identity | {"batches": job.batches}, whole=whole)
    else:
        known = {
            "batches": job.batches,
            "spec_hash": spec.hash(),
            "labels": identity.pop("labels"),
            "trust_pickle": spec.trust_pickle,
            "trust_remote_code": spec.trust_remote_code,
            **identity,
            **provenance(job),
        }
        if force:  # all is loaded and checked: only now what is there goes
            runs.remove(out)
        result = runs.create(out, spec, known, parents=parents)
    return Begun(result, job)


def measure(begun: Begun, batches: Sequence[int], *, until: float = math.inf, progress: Report | None = None) -> None:
    """Measure these batches and keep each as it is done; after ``until`` (`time.monotonic`) none is begun."""
    began = time.perf_counter()
    for index, piece in begun.job.pieces(batches, progress):
        now = time.perf_counter()
        tables = {"steps": piece.steps, "layers": piece.layers}
        begun.run.save_part(index, tables, piece.images, piece.notes, now - began)
        began = now
        if time.monotonic() >= until:
            return


def finish(begun: Begun) -> Trace:
    """Join the batches, which are all there, and judge the whole."""
    result = begun.run
    notes, seconds = result.merge()
    # What is on the disk is judged as any reader would read it, a column at a time.
    made = runs.Run(result.path, result.manifest | {"state": runs.FINISHED}).trace(whole=False)
    made = made.with_cautions(begun.job.cautions(notes) + cautions.find(made))
    result.finish(made.cautions, seconds=round(seconds, 3))
    return made


def load(spec: RunSpec, progress: Report | None = None) -> Loaded:
    """Load what a spec names (training what it has a recipe for), choose the samples, and prepare the job."""
    demand_named(spec)
    spec = spec.resolved()
    data = datasets.load(spec.data)
    chosen = _choose(spec, data.y)
    loaded = _model(spec, tuple(data.x.shape[1:]), data.classes, progress)
    recorded = reached.on_record(loaded, spec.data)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    job = prepare(
        loaded.model,
        x[chosen],
        y[chosen],
        attack=_attack(spec, loaded.model),
        controls=spec.control,
        layers=spec.layer,
        probes=spec.probes,
        ids=torch.from_numpy(data.ids)[chosen],
        pool=(x, y),
        batch_size=spec.batch_size,
        seed=spec.seed,
        device=_device(spec.device),
        dtype=getattr(torch, spec.dtype),
        images=spec.images,
        bounds=(spec.bounds[0], spec.bounds[1]),
        only_correct=spec.only_correct,
        dead_units=spec.dead_units,
        recorded_accuracy=recorded,
    )
    identity: dict[str, object] = {
        "weights_sha256": loaded.sha256,
        "recipe_sha256": loaded.recipe_sha256,
        "data_sha256": data.sha256,
        "points_sha256": _points_sha256(spec),
        "measurement_version": MEASUREMENT_VERSION,
        "recorded_accuracy": recorded,
        "labels": list(data.labels) if data.labels else None,
    }
    return Loaded(dataclasses.replace(spec, batch_size=job.batch_size), job, identity)


def sources(spec: RunSpec) -> dict[str, object]:
    """The hashes, as in a run's manifest, of what a run of ``spec`` would be made from; nothing is trained."""
    spec = spec.resolved()
    data = datasets.load(spec.data)
    found: dict[str, object] = {"data_sha256": data.sha256, "points_sha256": _points_sha256(spec)}
    trust = {key: getattr(spec, key) for key in TRUST}
    if spec.train is not None:
        return found | {"recipe_sha256": trained.recipe_sha256(spec.model, spec.train, **trust)}
    loaded = models.load(spec.model, shape=tuple(data.x.shape[1:]), classes=data.classes, **trust)
    return found | {"weights_sha256": loaded.sha256}


def plan(spec: RunSpec) -> Plan:
    """What a run of ``spec`` would take, from one timed pass of one batch; nothing is trained."""
    recipe = spec.resolved().train
    spec, job, _ = load(dataclasses.replace(spec, train=None))
    batch = job.batch(0)
    began = time.perf_counter()
    here = job.victim(batch.x, batch.y)
    job.measure(here)
    measured = time.perf_counter() - began
    here.grad(lambda at: at.loss)
    backward_seconds = time.perf_counter() - began - measured
    points = job.batches * (job.length + 1)
    backward = job.batches * (job.length if spec.foreign else spec.steps) * job.runs
    # The user's own model confirms what each run has found.
    forwards = points * (job.runs + len(job.controls)) + job.batches * job.runs
    weights = sum(p.numel() * p.element_size() for p in job.model.parameters())
    trust = {key: getattr(spec, key) for key in TRUST}
    training = trained.NOTHING if recipe is None else trained.cost(spec.model, recipe, **trust)
    return Plan(
        model=spec.model,
        layers=list(job.victim.layers),
        samples=len(job.x),
        batch_size=job.batch_size,
        batches=job.batches,
        forward_passes=forwards,
        backward_passes=backward,
        memory_bytes=2 * job.batch_size * bytes_per_sample(job.victim, job.x, job.y) + 2 * weights,
        seconds=forwards * measured + backward * backward_seconds,
        training_passes=training.passes,
        training_seconds=training.seconds,
        steps=job.length,
        says_steps=job.says_length,
    )


def layer_table(
    model: str, data: str | None = None, *, trust_pickle: bool = False, trust_remote_code: bool = False
) -> list[LayerRow]:
    """The layers of a model that can be named, in its order, each measured alone for a few samples.

    Args:
        model: the model's URI.
        data: the data's URI, which gives the shape of an input; the built-in digits when left out.
        trust_pickle: let pickled weights run code, as in ``flatlens.models.load``.
        trust_remote_code: let code beside the model run, as there.
    """
    spec = RunSpec(
        model=model,
        data=data or DIGITS,
        layer=("head",),
        limit=SURVEYED,
        device="cpu",
        trust_pickle=trust_pickle,
        trust_remote_code=trust_remote_code,
    )
    _, job, _ = load(spec)
    return [_layer_row(job, name) for name in probeable(job.model)]


def _layer_row(job: Job, name: str) -> LayerRow:
    module = job.model.get_submodule(name)
    known = (
        own_name(name, job.model),
        type(module).__name__,
        tuple(module.get_parameter("weight").shape),
        name == job.victim.head,
    )
    batch = job.batch(0)
    try:
        victim = Victim(job.model, batch.x, layers=[name], bounds=job.victim.bounds, device=job.victim.device)
        measure = AnyLayer(victim, batch.x)
    except LayerError as error:
        return LayerRow(*known, method=f"none: {error}", exact=None, passes=None, cost=None)

    def step() -> Forward:
        return victim(batch.x, batch.y)

    def alone() -> None:
        step().grad(lambda at: at.loss)

    def both() -> None:
        here = step()
        measure(here)
        here.grad(lambda at: at.loss)

    both()  # slow for the first time
    here = step()
    with _counted() as passes:
        measure(here)
    # One after the other, so that what else the machine does falls on both.
    pairs = [(_seconds(alone), _seconds(both)) for _ in range(TIMED)]
    costs = sorted(max(0.0, together / bare - 1) for bare, together in pairs)
    cost = costs[TIMED // 2]
    return LayerRow(*known, *measure.methods[name], passes[0], cost, costs[0], costs[-1])


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the backward passes that are made meanwhile, whoever makes them."""
    made, plain = [0], torch.autograd.grad

    def grad(*args: Any, **kwargs: Any) -> Any:
        # Passes that are batched are as many as there are directions.
        directions = kwargs.get("grad_outputs") if kwargs.get("is_grads_batched") else None
        made[0] += (
            1 if directions is None else len(directions[0] if isinstance(directions, (list, tuple)) else directions)
        )
        return plain(*args, **kwargs)

    torch.autograd.grad = grad
    try:
        yield made
    finally:
        torch.autograd.grad = plain


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _model(spec: RunSpec, shape: tuple[int, ...], classes: int, progress: Report | None) -> models.loaders.Loaded:
    trust = {key: getattr(spec, key) for key in TRUST}
    if spec.train is not None:
        return trained.find(spec.model, spec.train, progress=progress, **trust)
    return models.load(spec.model, shape=shape, classes=classes, **trust)


def _choose(spec: RunSpec, y: Ints) -> Ints:
    """Indices of the samples that a spec asks for, ascending; ``limit`` takes as many of each class as there are.

    They are the same for all seeds, so that runs of several seeds differ in nothing but their noise.
    """
    if spec.samples is not None:
        beyond = [i for i in spec.samples if i >= len(y)]
        if beyond:
            raise DataError(f"no sample {beyond[0]}; the data have {len(y)} samples, 0 … {len(y) - 1}")
        chosen = np.sort(np.asarray(spec.samples))
    else:
        chosen = np.arange(len(y))
    if spec.limit is None or spec.limit >= len(chosen):
        return chosen
    return chosen[datasets.balanced(y[chosen], spec.limit, spec.sample_seed or 0)]


def _attack(spec: RunSpec, model: nn.Module) -> Attack:
    if spec.foreign:
        return _foreign(spec, model)
    wanted = {
        "eps": spec.eps,
        "norm": spec.norm,
        "steps": spec.steps,
        "step_size": spec.step_size,
        "random_start": spec.random_start,
        "target": spec.targeted,
        "objective": spec.objective,
        "momentum": spec.momentum,
        "restarts": spec.restarts,
    }
    made = attacks.find(spec.attack)
    names = inspect.signature(made).parameters
    return made(**{key: value for key, value in wanted.items() if key in names and value is not None})


def _foreign(spec: RunSpec, model: nn.Module) -> Attack:
    uri = parse(spec.attack, AttackError)
    if uri.scheme == "path":
        uri.only(())
        return points.from_file(uri.file, target=spec.targeted)
    made, eps = libraries.build(uri, model, seed=spec.seed)
    if spec.targeted is not None and hasattr(made, "set_mode_targeted_by_label"):
        made.set_mode_targeted_by_label(quiet=True)
    norm = None if spec.norm == RunSpec.norm else spec.norm
    radius = spec.eps if eps is None else eps
    return recording.recorded(made, eps=radius, norm=norm, target=spec.targeted, seed=spec.seed)


def _points_sha256(spec: RunSpec) -> str | None:
    """Of a file of points: the run is of its content, not of its name."""
    uri = parse(spec.attack, AttackError)
    if uri.scheme != "path":
        return None
    with uri.file.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _device(name: str) -> str:
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            there = ["auto", "cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
            raise SpecError(f"--device {name}: not on this machine; there are: {', '.join(there)}") from error
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
