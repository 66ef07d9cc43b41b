"""From a model, data and an attack to a `Job`: all is checked, the victim is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlens import attacks
from flatlens.attacks.protocol import Attack, Walks, stated
from flatlens.errors import AttackError, DataError, LayerError, SpecError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.measure.conditions import probed
from flatlens.measure.job import Job, classified, fed_otherwise
from flatlens.models import guard
from flatlens.records import cautions
from flatlens.records.schema import Caution
from flatlens.specs.settings import Settings
from flatlens.specs.worst_case import demand_ball
from flatlens.victims.images import ImageVictim
from flatlens.victims.memory import batch_that_fits, bytes_per_sample, keep_freed_memory
from flatlens.victims.samples import check_data as check_data
from flatlens.victims.samples import check_labels as check_labels
from flatlens.victims.samples import preflight

EXAMPLES = 8
"""Inputs on which it is found out which method a layer allows."""


DEFAULTS = Settings()


def prepare(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Any,
    settings: Settings = DEFAULTS,
    ids: Tensor | None = None,
    pool: tuple[Tensor, Tensor] | None = None,
    study: tuple[Tensor, Tensor] | None = None,
    weights: str | None = None,
    recorded_accuracy: float | None = None,
) -> Job:
    """Check the model and the data, and make the victim.

    Args:
        model: the user's.
        x: clean inputs ``[n, …]``.
        y: labels ``[n]``.
        attack: what walks or records: it is made an `Attack` here.
        settings: what is measured, and how.
        ids: of the samples, ``[n]``: they identify their noise.
        pool: images and labels among which a control finds one of another class; the samples' own when left out.
        study: inputs and labels that an attack learns from, where it does; the samples' own when left out.
        weights: SHA-256 of the model's, where what an attack learns of it may be kept on the disk.
        recorded_accuracy: on clean inputs, where one is on record.

    Raises:
        AttackError: there are not as many radii as samples, or only right samples are kept, which would mix them up.
        DataError: no sample is classified as labelled, where only those are kept; data that `check_data` refuses; or
            too few samples for a condition number.
    """
    keep_freed_memory()
    x, y = check_data(x, y)
    attack = stated(attack)
    ids = torch.arange(len(x)) if ids is None else ids
    bounds = settings.bounds
    victim, measure, skipped = instrument(
        model, x, settings.layer, probes=settings.probes, seed=settings.seed, bounds=bounds,
        dtype=dtype_of(settings.dtype), device=device_of(settings.device), dead_units=settings.dead_units,
    )  # fmt: skip
    check_labels(y, ids, victim.classes)
    eps = attack.radius
    if settings.worst_case:
        demand_ball(attack.name, attack.norm, eps)
    if isinstance(eps, tuple):
        if len(eps) != len(x):
            raise AttackError(f"eps has {len(eps)} values for {len(x)} samples; give one number, or one per sample")
        if settings.only_correct:
            raise AttackError("eps has a value per sample, which --only-correct would mix up; choose the samples first")
    few: tuple[Caution, ...] = ()
    if settings.only_correct:
        right = classified(victim, x, y)
        if not right.any():
            raise DataError(
                f"none of the {len(x)} samples is classified as labelled; --only-correct leaves nothing to attack"
            )
        # Of those that are left all are right: the tables cannot tell any more.
        few = (
            *fed_otherwise(victim, x, y, wrong=int((~right).sum())),
            *cautions.low_accuracy(int(right.sum()), len(right), victim.classes, recorded_accuracy),
        )
        x, y, ids = x[right], y[right], ids[right]
    of_head = None if settings.condition is None else probed(victim, len(x), settings.condition)
    fitted = settings.batch_size or batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    return Job(
        model=model,
        victim=victim,
        measure=measure,
        attack=attack,
        controls={name: _control(name, attack) for name in settings.control},
        x=x,
        y=y,
        ids=ids,
        pool_x=x if pool is None else pool[0],
        pool_y=y if pool is None else pool[1],
        batch_size=min(fitted, len(x)),
        seed=settings.seed,
        images=settings.images,
        preflight=(
            *preflight(model, victim, x, bounds),
            *cautions.unnormalised(bounds, eps),
            *few,
            *cautions.not_probed(skipped),
        ),
        surface=settings.surface,
        worst_case=settings.worst_case,
        condition=of_head,
        study=study,
        weights=weights,
    )


def instrument(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[str],
    *,
    probes: int,
    seed: int,
    exact_classes: int = 32,
    loss: str = "cross-entropy",
    **how: Any,
) -> tuple[ImageVictim, AnyLayer, dict[str, str]]:
    """The victim, what measures its layers, and the layers that only a pattern selected and that cannot be probed.

    Args:
        model: the user's.
        x: a few inputs.
        layers: names and patterns; a layer that is named must be one that can be probed.
        probes: see `AnyLayer`, as are the following.
        seed: of the probes.
        exact_classes: how many classes are taken exactly.
        loss: the loss whose curvature it is.
        how: as for `ImageVictim`.

    Raises:
        LayerError: a layer that is named cannot be probed, or none of those that a pattern selects.
    """
    skipped: dict[str, str] = {}
    while True:
        try:
            with guard.net("while it is checked, before the attack"):
                victim = ImageVictim(model, x, layers=layers, without=skipped, **how)
                measure = AnyLayer(
                    victim, x[:EXAMPLES], probes=probes, seed=seed, exact_classes=exact_classes, loss=loss
                )
        except LayerError as error:
            if not error.refused:
                raise
            if named := [name for name in error.refused if name in layers]:
                raise LayerError(error.refused[named[0]], named[0]) from error
            skipped |= error.refused
            continue
        if not victim.layers:
            why = next(iter(skipped.values()), "the model has no Linear, Conv1d or Conv2d among its modules")
            raise LayerError(f"none of the layers {', '.join(layers)} can be probed: {why}")
        return victim.needing(measure.needs), measure, skipped


def device_of(name: str | None) -> str | None:
    """The device that a name stands for: ``auto`` is the best that there is, None where the model is.

    Raises:
        SpecError: it is not on this machine.
    """
    if name is None:
        return None
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        # Its values are read, too: the device 'meta' has none.
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:
        there = ["auto", "cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
        raise SpecError(f"--device {name}: not on this machine; there are: {', '.join(there)}") from error
    return name


def dtype_of(name: str | None) -> torch.dtype | None:
    """The dtype of a name; None is the model's own."""
    found: torch.dtype | None = None if name is None else getattr(torch, name)
    return found


def _control(name: str, attack: Attack) -> Walks:
    made = attacks.find(name)
    # Without a radius, a step size is not of its kind.
    step_size = None if attack.radius is None else attack.step_size
    wanted = {"steps": attack.length, "eps": attack.radius, "norm": attack.norm, "step_size": step_size}
    known = {field.name for field in dataclasses.fields(made)}
    control: Walks = made(**{key: value for key, value in wanted.items() if key in known and value is not None})
    return control
