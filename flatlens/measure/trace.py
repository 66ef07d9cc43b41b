"""`trace` and `curvature`: an attack's path, or given points, measured for every sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from flatlens.measure import conditions, given, worst_of_attacks
from flatlens.measure.job import Job, provenance
from flatlens.measure.prepare import prepare
from flatlens.measure.surface import surfaces
from flatlens.models import OBJECT, normalized
from flatlens.progress import Report
from flatlens.records import cautions, learnt, saving
from flatlens.records.schema import Gradients, Images
from flatlens.records.trajectory import Trace
from flatlens.specs.settings import Settings
from flatlens.specs.values import plain
from flatlens.victims.layers import HEAD
from flatlens.victims.precision import as_usual
from flatlens.wording import python_words, warn


def trace(
    model: nn.Module | str,
    x: Any,
    y: Any = None,
    *,
    attack: Any = None,
    controls: Sequence[str] | str | None = None,
    layers: Sequence[str] | str | None = None,
    normalize: Any = None,
    probes: int = 16,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    images: str = "key",
    bounds: Any = (0.0, 1.0),
    labels: Sequence[str] | None = None,
    dead_units: bool = False,
    surface: bool = False,
    worst_case: bool = False,
    condition: float | None = None,
    out: str | Path | None = None,
    force: bool = False,
    progress: Report | None = None,
    layer: Sequence[str] | str | None = None,
    control: Sequence[str] | str | None = None,
) -> Trace:
    """Run an attack and measure every step, for every sample.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed. Or the name of one: ``flatlens:digits-cnn``.
        x: clean inputs ``[n, …]`` within ``bounds``, a tensor or an array; or, without ``y``, a DataLoader, a Dataset
            (also of Hugging Face, with columns ``image`` and ``label``), or the name of data: ``flatlens:digits``.
        y: labels ``[n]``.
        attack: one of `flatlens.attacks`, or its name (``"pgd"``, with its defaults; ``"torchattacks:PGD?eps=8/255"``);
            or anybody else's, as `flatlens.attacks.recorded` takes it: an object of torchattacks or foolbox, or a
            function ``attack(model, x, y)``. PGD with its defaults when left out.
        controls: names of the paths to walk beside it, see ``flatlens.attacks.CONTROLS``; ``"all"``.
        layers: names as in ``model.named_modules()``, ``"head"``, ``"all"``, ``"last:N"`` or globs; the head when left
            out.
        normalize: ``(mean, std)``, each a number or one for each channel, in the units of ``x``, where the model was
            trained on ``(x − mean) / std`` and does not do that itself. Radii, gradients and bounds stay in the units
            of ``x``.
        probes: random probes for what is not exact, at least 8.
        batch_size: samples at a time; what fits into memory when left out.
        seed: of all noise; a sample's noise does not depend on its batch.
        device: where to compute; where the model is when left out.
        dtype: of attack and forward passes; the model's own when left out. Curvature is float64 throughout.
        images: which inputs to keep: ``none``, ``key`` (clean, flip, peak, end) or ``all``.
        bounds: the range of valid inputs.
        labels: names of the classes.
        dead_units: also count, at every step, the ReLU units that pass no gradient (column ``dead_share``).
        surface: also κ and the loss of 12 samples on planes of inputs and of the head's weight (`Trace.surfaces`).
        worst_case: also how many of the samples the worst of several attacks leaves, within the attack's eps and norm,
            and whether gradients are masked: ``Trace.manifest["worst_case"]``, the figures of `robustness`.
        condition: also the condition number of a linear probe on the head's features at each step, of all samples
            together (`Trace.condition`), with this ridge, such as 0.01; 0 for none, which needs at least as many
            samples as features.
        out: a new folder to save the trace and its report in, as ``flatlens trace`` would; see `Trace.save`.
        force: replace the run that is in that folder.
        progress: called after every step of a batch.
        layer: the same as ``layers``, as the command line calls it.
        control: the same as ``controls``.

    Raises:
        ModelError: the model is no deterministic classifier in eval mode.
        LayerError: a layer does not exist or cannot be probed.
        DataError: inputs or labels that cannot be.
        RunError: the folder holds something already.

    Warns:
        CautionWarning: for each of the trace's ``cautions``.
    """
    if out is not None:
        saving.demand_free(Path(out), force=force)
    with python_words(), as_usual():
        data = given.samples(x, y)
        net, name = given.model(model, data, normalize)
        made = given.attack(attack, net, seed)
        settings = asked(
            layers, layer, controls, control, probes=probes, batch_size=batch_size, seed=seed, device=device,
            dtype=dtype, images=images, bounds=bounds, dead_units=dead_units, surface=surface, condition=condition,
            worst_case=worst_case,
        )  # fmt: skip
        job = prepare(net, data.x, data.y, attack=made, settings=settings)
        known = given.labels(labels, job.victim.classes) or data.labels
        pieces = [piece for _, piece in job.pieces(range(job.batches), progress)]
        kept = [piece.images for piece in pieces if piece.images is not None]
        slopes = [piece.gradients for piece in pieces if piece.gradients is not None]
        result = Trace(
            pa.concat_tables([piece.steps for piece in pieces]),
            pa.concat_tables([piece.layers for piece in pieces]),
            _describe(job, name, data.name, attack if isinstance(attack, str) else None, settings.layer),
            images=Images(*(np.concatenate(column) for column in zip(*kept, strict=True))) if kept else None,
            gradients=Gradients(*(np.concatenate(column) for column in zip(*slopes, strict=True))) if slopes else None,
            labels=known,
            manifest=provenance(job) | ({} if normalize is None else {"normalize": normalized.plain(normalize)}),
        )
        notes = sum((Counter(piece.notes) for piece in pieces), Counter[str]())
        if told := job.learnt(result, notes):
            result = replace(result, manifest={**result.manifest, learnt.KEY: told})
        found = (*job.cautions(notes, cautions.wrong(result)), *cautions.of_trace(result), *learnt.cautions(told))
        result = result.with_cautions(found)
        if job.worst_case:
            result = worst_of_attacks.added(job, result, progress)
        if job.surface:
            result = replace(result, surfaces=surfaces(job, result))
        if job.condition is not None:
            taken = [piece.features for piece in pieces]
            result = replace(result, condition=conditions.table(taken, len(job.x), job.condition.ridge))
        if out is not None:
            result.save(out, force=force)
    warn(result.cautions)
    return result


def asked(layers: Any, layer: Any, controls: Any, control: Any, *, device: Any, dtype: Any, **rest: Any) -> Settings:
    """What is to be measured and how, of the keywords of `trace`.

    Raises:
        SpecError: a value that cannot be.
    """
    return Settings(
        given.names("layer", layers, layer, (HEAD,)), given.names("control", controls, control, ()),
        device=given.device(device), dtype=given.dtype(dtype), **{key: plain(value) for key, value in rest.items()},
    )  # fmt: skip


def _describe(job: Job, model: str, data: str, named: str | None, layers: Sequence[str]) -> dict[str, Any]:
    """What a spec says, for a model and data that may have come as objects, and an attack that has a name or not."""
    known = job.attack.describe()
    if isinstance(known.get("eps"), tuple):  # a spec is short: the largest radius stands for all
        known |= {"eps": max(known["eps"]), "eps_per_sample": True}
    return {
        "model": model.removeprefix(f"{OBJECT}:"),
        "data": data.removeprefix(f"{OBJECT}:"),
        "attack": job.attack.name,
        **{key: value for key, value in known.items() if value is not None and key != "target"},
        **({"attack": named} if named else {}),
        **({} if job.attack.target is None else {"targeted": str(job.attack.target)}),
        "control": list(job.controls),
        "layer": list(layers),
        "batch_size": job.batch_size,
        "seed": job.seed,
        "dtype": str(job.victim.dtype).removeprefix("torch."),
        "images": job.images,
        "bounds": list(job.victim.bounds),
        **({"surface": True} if job.surface else {}),
        **({"worst_case": True} if job.worst_case else {}),
        **({} if job.condition is None else {"condition": job.condition.ridge}),
    }
