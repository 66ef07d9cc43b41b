"""What a run would cost: passes, memory, time, layer by layer."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from flatlens.errors import LayerError
from flatlens.hessian import fisher
from flatlens.hessian.any_layer import CLOSED_FORM, AnyLayer
from flatlens.measure import load_language, surface, worst_of_attacks
from flatlens.measure.job import Job
from flatlens.measure.language_job import LanguageJob
from flatlens.measure.load import DIGITS, load
from flatlens.specs.catalogue import ATTACKS
from flatlens.specs.language import BENIGN, is_language
from flatlens.specs.run import RunSpec
from flatlens.specs.trust import TRUST
from flatlens.training import recipes
from flatlens.victims import whole_prompt
from flatlens.victims.images import ImageVictim
from flatlens.victims.layers import own_name, probeable, resolve
from flatlens.victims.memory import bytes_per_sample
from flatlens.victims.protocol import Pass

SURVEYED = 8
"""Samples on which the cost of a layer is measured."""


TIMED = 7
"""How often, with and without the layer in turn."""


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
    """Pass, and as many backward, passes to train the model that a recipe names, where it is not there yet."""
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


def plan(spec: RunSpec) -> Plan:
    """What a run of ``spec`` would take, from one timed pass of one batch; nothing is recipes."""
    recipe = spec.resolved().train
    spec, job, _ = load(dataclasses.replace(spec, train=None, immunize=None))
    batch = job.batch(0)
    began = time.perf_counter()
    here = job.victim(batch.x, batch.y)
    job.measure(here)
    measured = time.perf_counter() - began
    here.grad(lambda at: at.loss)
    backward_seconds = time.perf_counter() - began - measured
    points = job.batches * (job.length + 1)
    backward = job.batches * (job.length if spec.foreign else spec.steps) * job.runs
    if job.attack.learns or (spec.attack in ATTACKS and not ATTACKS[spec.attack].gradients):
        backward = 0
    learning = job.lessons()
    # The user's own model confirms what each run has found.
    forwards = points * (job.runs + len(job.controls)) + job.batches * job.runs
    planes = surface.cost(job) if job.surface else surface.Cost(0, 0)
    judged = worst_of_attacks.passes(job) if job.worst_case else 0
    weights = sum(p.numel() * p.element_size() for p in job.model.parameters())
    trust = {key: getattr(spec, key) for key in TRUST}
    training = recipes.NOTHING if recipe is None else recipes.cost(spec.model, recipe, **trust)
    return Plan(
        model=spec.model,
        layers=list(job.victim.layers),
        samples=len(job.x),
        batch_size=job.batch_size,
        batches=job.batches,
        forward_passes=forwards + planes.forward + learning[0] + judged,
        backward_passes=backward + planes.backward + learning[0] + judged,
        memory_bytes=2 * job.batch_size * bytes_per_sample(job.victim, job.x, job.y) + 2 * weights,
        seconds=(forwards + planes.forward + judged) * measured + (backward + judged) * backward_seconds + learning[1],
        training_passes=training.passes,
        training_seconds=training.seconds,
        steps=job.length,
        says_steps=job.attack.says_length,
    )


def layer_table(
    model: str,
    data: str | None = None,
    *,
    trust_pickle: bool = False,
    trust_remote_code: bool = False,
    download: bool = False,
) -> list[LayerRow]:
    """The layers of a model that can be named, in its order, each measured alone for a few samples.

    Args:
        model: the model's URI.
        data: the data's URI, which gives the shape of an input; the built-in digits when left out, for a language
            model the prompts that come with flatlens. A language model's layers are not timed: there may be hundreds.
        trust_pickle: let pickled weights run code, as in ``flatlens.models.load``.
        trust_remote_code: let code beside the model run, as there.
        download: fetch weights that are missing, as there.
    """
    text = is_language(model)
    spec = RunSpec(
        model=model,
        data=data or (BENIGN if text else DIGITS),
        layer=("head",),
        limit=SURVEYED,
        device="cpu",
        trust_pickle=trust_pickle,
        trust_remote_code=trust_remote_code,
        download=download,
    )
    if text:
        _, language_job, _ = load_language.load(spec)
        return _language_rows(language_job)
    _, job, _ = load(spec)
    return [_layer_row(job, name) for name in probeable(job.model)]


def _language_rows(job: LanguageJob) -> list[LayerRow]:
    """Of every Linear layer of a language model: one that is not plain says why."""
    model, victim, head = job.model, job.victim(0), job.parts.name
    seen, told = whole_prompt.survey(victim), dict[str, str]()
    for name in probeable(model):
        try:
            resolve([name], model, seen)
        except LayerError as error:
            told[name] = str(error)
    told |= whole_prompt.refused(victim, {name: name for name in seen.calls if name not in (*told, head)})
    rows = []
    for name in seen.calls:
        module = model.get_submodule(name)
        known = name, type(module).__name__, tuple(module.get_parameter("weight").shape), name == head
        if name == head:
            rows.append(LayerRow(*known, CLOSED_FORM, True, 0, cost=None))
        elif name in told:
            rows.append(LayerRow(*known, f"none: {told[name]}", None, None, cost=None))
        else:
            rows.append(LayerRow(*known, fisher.METHOD, False, job.probes + 1, cost=None))
    return rows


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
        victim = ImageVictim(job.model, batch.x, layers=[name], bounds=job.victim.bounds, device=job.victim.device)
        measure = AnyLayer(victim, batch.x)
    except LayerError as error:
        return LayerRow(*known, method=f"none: {error}", exact=None, passes=None, cost=None)

    def step() -> Pass:
        return measure.victim(batch.x, batch.y)

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
