"""From a model, data and an attack to a `Job`: all is checked, the victim is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlens import attacks
from flatlens.attacks.protocol import Attack
from flatlens.errors import AttackError, DataError, LayerError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.measure.job import Job
from flatlens.models import guard
from flatlens.records import cautions
from flatlens.records.schema import Caution
from flatlens.victims import endings
from flatlens.victims.images import Victim
from flatlens.victims.layers import HEAD
from flatlens.victims.memory import batch_that_fits, bytes_per_sample, keep_freed_memory

FED = 128
"""Inputs on which it is tried whether the model was made for standardised ones."""


EXAMPLES = 8
"""Inputs on which it is found out which method a layer allows."""


def prepare(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Attack,
    controls: Sequence[str] = (),
    layers: Sequence[str] = (HEAD,),
    probes: int = 16,
    ids: Tensor | None = None,
    pool: tuple[Tensor, Tensor] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    images: str = "key",
    bounds: tuple[float, float] = (0.0, 1.0),
    only_correct: bool = False,
    dead_units: bool = False,
    recorded_accuracy: float | None = None,
) -> Job:
    """Check the model and the data, and make the victim. See `trace` for the arguments.

    ``recorded_accuracy`` is that on clean inputs, where one is on record.
    """
    keep_freed_memory()
    x, y = check_data(x, y)
    ids = torch.arange(len(x)) if ids is None else ids
    victim, measure, skipped = instrument(
        model, x, layers, probes=probes, seed=seed, bounds=bounds, dtype=dtype, device=device, dead_units=dead_units
    )
    if int(y.max()) >= victim.classes:
        first = int((y >= victim.classes).nonzero()[0])
        raise DataError(
            f"label {int(y[first])} of sample {int(ids[first])} is out of range: "
            f"the model has {victim.classes} classes, 0 … {victim.classes - 1}"
        )
    eps = getattr(attack, "eps", None)
    if isinstance(eps, tuple):
        if len(eps) != len(x):
            raise AttackError(f"eps has {len(eps)} values for {len(x)} samples; give one number, or one per sample")
        if only_correct:
            raise AttackError("eps has a value per sample, which --only-correct would mix up; choose the samples first")
    few: tuple[Caution, ...] = tuple(_fed_otherwise(victim, x, y))
    if only_correct:
        right = _correct(victim, x, y)
        if not right.any():
            raise DataError(
                f"none of the {len(x)} samples is classified as labelled; --only-correct leaves nothing to attack"
            )
        # Of those that are left all are right: the tables cannot tell any more.
        few += tuple(cautions.low_accuracy(int(right.sum()), len(right), victim.classes, recorded_accuracy))
        x, y, ids = x[right], y[right], ids[right]
    length = int(getattr(attack, "length", 40))
    fitted = batch_size or batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    return Job(
        model=model,
        victim=victim,
        measure=measure,
        attack=attack,
        controls={name: _control(name, attack, length) for name in controls},
        x=x,
        y=y,
        ids=ids,
        pool_x=x if pool is None else pool[0],
        pool_y=y if pool is None else pool[1],
        target=getattr(attack, "target", None),
        batch_size=min(fitted, len(x)),
        seed=seed,
        images=images,
        preflight=(
            *_preflight(model, victim, x, bounds),
            *cautions.unnormalised(bounds, eps),
            *few,
            *cautions.not_probed(skipped),
        ),
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
) -> tuple[Victim, AnyLayer, dict[str, str]]:
    """The victim, what measures its layers, and the layers that only a pattern selected and that cannot be probed.

    Args:
        model: the user's.
        x: a few inputs.
        layers: names and patterns; a layer that is named must be one that can be probed.
        probes: see `AnyLayer`, as are the following.
        seed: of the probes.
        exact_classes: how many classes are taken exactly.
        loss: the loss whose curvature it is.
        how: as for `Victim`.
    """
    skipped: dict[str, str] = {}
    while True:
        try:
            with guard.net("while it is checked, before the attack"):
                victim = Victim(model, x, layers=layers, without=skipped, **how)
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
            raise LayerError(f"none of the layers {', '.join(layers)} can be probed: {next(iter(skipped.values()))}")
        return victim, measure, skipped


def check_data(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels that can be attacked, or a DataError that says why not."""
    x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach().cpu()
    if not x.is_floating_point():
        raise DataError(f"inputs are {x.dtype}; give floating-point numbers within the bounds, for example x / 255")
    if len(x) == 0:
        raise DataError("there are no samples; give at least one")
    if y.shape != (len(x),) or y.is_floating_point():
        raise DataError(
            f"labels have shape {tuple(y.shape)} and type {y.dtype}; needs whole numbers of shape [{len(x)}]"
        )
    if int(y.min()) < 0:
        raise DataError(f"label {int(y.min())} of sample {int(y.argmin())} is negative; labels are 0 … K−1")
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bad.any():
        raise DataError(
            f"inputs of {int(bad.sum())} samples hold NaN or inf, first sample {int(bad.nonzero()[0])}; remove them"
        )
    return x, y.long()


def _preflight(model: nn.Module, victim: Victim, x: Tensor, bounds: tuple[float, float]) -> Iterator[Caution]:
    low, high = bounds
    slack = endings.rounding(x) * max(abs(low), abs(high))
    outside = ((x < low - slack) | (x > high + slack)).flatten(1).any(1)
    if outside.any():
        yield cautions.bounds(int(outside.sum()), len(x), float(x.min()), float(x.max()), bounds)
    if victim.probabilities:
        yield cautions.probabilities(endings.softmax(model, x[:2]))


def _fed_otherwise(victim: Victim, x: Tensor, y: Tensor) -> Iterator[Caution]:
    """Whether the model does better on standardised inputs than on those that it is given."""
    x, y = x[:FED].to(victim.dtype), y[:FED]
    axes = (0, *range(2, x.dim()))
    mean, std = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
    if len(x) < cautions.LEAST_GAIN or not (std > 0).all():
        return
    plain = _correct(victim, x, y)
    if len(x) - int(plain.sum()) < cautions.LEAST_GAIN:
        return  # nothing to gain
    other = _correct(victim, (x - mean) / std, y)
    gained, lost = int((other & ~plain).sum()), int((plain & ~other).sum())
    told = [",".join(f"{v:.3g}" for v in part.flatten().tolist()) for part in (mean, std)]
    yield from cautions.not_normalised(int(plain.sum()), gained, lost, len(x), *told)


def _correct(victim: Victim, x: Tensor, y: Tensor) -> Tensor:
    size = batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    with torch.no_grad():
        found = [
            victim(victim.place(part), labels.to(victim.device), final=True).logits.argmax(1).cpu() == labels
            for part, labels in zip(x.split(size), y.split(size), strict=True)
        ]
    return torch.cat(found)


def _control(name: str, attack: Attack, length: int) -> Attack:
    made = attacks.find(name)
    own = ("eps", "norm", "step_size")
    # Dynamic steps have no one size to give to a control.
    wanted = {"steps": length, **{key: getattr(attack, key, None) for key in own}}
    if "eps" not in wanted or wanted["eps"] is None:
        wanted["step_size"] = None
    known = {field.name for field in dataclasses.fields(made)}
    control: Attack = made(**{key: value for key, value in wanted.items() if key in known and value is not None})
    return control
