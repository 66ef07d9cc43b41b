"""`trace` and `curvature`: an attack's path, or given points, measured for every sample."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from flatlens.attacks import ATTACKS
from flatlens.attacks.apgd import APGD
from flatlens.hessian import Curvature
from flatlens.measure import given
from flatlens.measure.job import Job
from flatlens.measure.prepare import check_data, check_labels, device_of, dtype_of, instrument, prepare
from flatlens.models import OBJECT, normalized
from flatlens.progress import Report
from flatlens.records import cautions, saving
from flatlens.records.schema import MEASUREMENT_VERSION, Images
from flatlens.records.trajectory import Trace
from flatlens.specs.settings import Settings
from flatlens.version import __version__
from flatlens.victims.images import exact_arithmetic
from flatlens.victims.layers import HEAD
from flatlens.victims.memory import batch_that_fits, bytes_per_sample
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
    out: str | Path | None = None,
    force: bool = False,
    progress: Report | None = None,
    layer: Sequence[str] | str | None = None,
    control: Sequence[str] | str | None = None,
) -> Trace:
    """Run an attack and measure every step, for every sample.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed. Or the name of one: ``flatlens:digits-cnn``.
        x: clean inputs ``[n, …]`` within ``bounds``, a tensor or an array; or, without ``y``, a DataLoader, a Dataset,
            or the name of data: ``flatlens:digits``.
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
    with python_words():
        data = given.samples(x, y)
        net, name = given.model(model, data, normalize)
        made = given.attack(attack, net, seed)
        settings = Settings(
            given.names("layer", layers, layer, (HEAD,)), given.names("control", controls, control, ()), probes,
            batch_size, seed, given.device(device), given.dtype(dtype), images, bounds, dead_units=dead_units,
        )  # fmt: skip
        job = prepare(net, data.x, data.y, attack=made, settings=settings)
        known = given.labels(labels, job.victim.classes) or data.labels
        pieces = [piece for _, piece in job.pieces(range(job.batches), progress)]
    kept = [piece.images for piece in pieces if piece.images is not None]
    result = Trace(
        pa.concat_tables([piece.steps for piece in pieces]),
        pa.concat_tables([piece.layers for piece in pieces]),
        _describe(job, name, data.name, attack if isinstance(attack, str) else None, settings.layer),
        images=Images(*(np.concatenate(column) for column in zip(*kept, strict=True))) if kept else None,
        labels=known,
        manifest=provenance(job) | ({} if normalize is None else {"normalize": normalized.plain(normalize)}),
    )
    notes = sum((Counter(piece.notes) for piece in pieces), Counter[str]())
    result = result.with_cautions(job.cautions(notes, cautions.wrong(result)) + cautions.of_trace(result))
    if out is not None:
        result.save(out, force=force)
    warn(result.cautions)
    return result


@python_words()
def curvature(
    model: nn.Module | str,
    x: Any,
    y: Any = None,
    *,
    layer: str | Sequence[str] | None = None,
    normalize: Any = None,
    loss: str = "cross-entropy",
    probes: int = 16,
    exact_classes: int = 32,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    layers: str | Sequence[str] | None = None,
) -> Curvature | dict[str, Curvature]:
    """Curvature at given points, per sample.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed. Or the name of one, as for `trace`.
        x: inputs ``[n, …]``, in all forms that `trace` takes.
        y: labels ``[n]``.
        layer: one name, or a list of them; patterns as for `trace`. The head when left out.
        normalize: ``(mean, std)``, as for `trace`.
        loss: ``cross-entropy``, ``mse`` (Σ_k (z_k − [k = y])²) or ``margin`` (max_{j≠y} z_j − z_y).
        probes: random probes for what is not exact, at least 8.
        exact_classes: of more classes than this and ``probes`` together, the most probable ones are taken exactly and
            the rest is sampled.
        seed: of the probes.
        batch_size: samples at a time; what fits into memory when left out.
        device: where to compute; where the model is when left out.
        dtype: of the forward pass; the model's own when left out.
        layers: the same as ``layer``.

    Returns:
        a `Curvature` with fields ``[n]`` float64 and ``spectrum`` ``[n, r]``; of a list, or of a pattern
        that stands for several layers, a dictionary by layer.
    """
    data = given.samples(x, y)
    net, _ = given.model(model, data, normalize)
    settings = Settings(
        given.names("layer", layers, layer, (HEAD,)), (), probes, batch_size, seed, given.device(device),
        given.dtype(dtype),
    )  # fmt: skip
    one = next((value for value in (layer, layers) if value is not None), HEAD)
    x, y = check_data(data.x, data.y)
    victim, measure, _ = instrument(
        net, x, settings.layer, probes=settings.probes, seed=settings.seed, exact_classes=exact_classes, loss=loss,
        dtype=dtype_of(settings.dtype), device=device_of(settings.device),
    )  # fmt: skip
    check_labels(y, torch.arange(len(y)), victim.classes)
    size = settings.batch_size or batch_that_fits(bytes_per_sample(victim, x, y), victim.device)
    parts: dict[str, list[Curvature]] = {name: [] for name in victim.layers}
    with exact_arithmetic(victim.device):
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            here = victim(victim.place(x[part]), y[part].to(victim.device), final=True)
            for name, found in measure(here, spectrum=True).items():
                parts[name].append(found)
    joined = {name: _join(found) for name, found in parts.items()}
    return joined[one] if isinstance(one, str) and one in joined else joined


def _join(parts: Sequence[Curvature]) -> Curvature:
    columns: dict[str, Any] = {
        f.name: torch.cat([getattr(part, f.name) for part in parts])
        for f in dataclasses.fields(Curvature)
        if isinstance(getattr(parts[0], f.name), Tensor)
    }
    return dataclasses.replace(parts[0], **columns)


def _describe(job: Job, model: str, data: str, named: str | None, layers: Sequence[str]) -> dict[str, Any]:
    """What a spec says, for a model and data that may have come as objects, and an attack that has a name or not."""
    attack = job.attack
    known: dict[str, Any] = {}
    if hasattr(attack, "describe"):
        known = attack.describe()
    elif dataclasses.is_dataclass(attack) and not isinstance(attack, type):
        known = dataclasses.asdict(attack)
    if isinstance(known.get("eps"), tuple):  # a spec is short: the largest radius stands for all
        known |= {"eps": max(known["eps"]), "eps_per_sample": True}
    return {
        "model": model.removeprefix(f"{OBJECT}:"),
        "data": data.removeprefix(f"{OBJECT}:"),
        "attack": _name(attack),
        **{key: value for key, value in known.items() if value is not None and key != "target"},
        **({"attack": named} if named else {}),
        **({"targeted": str(job.target)} if job.target is not None else {}),
        "control": list(job.controls),
        "layer": list(layers),
        "batch_size": job.batch_size,
        "seed": job.seed,
        "dtype": str(job.victim.dtype).removeprefix("torch."),
        "images": job.images,
        "bounds": list(job.victim.bounds),
    }


def _name(attack: Any) -> str:
    """What an attack is called on the command line, or else its own name."""
    if isinstance(attack, APGD) and attack.objective != "margin":
        return "apgd-t" if attack.targets else f"apgd-{attack.objective}"
    kind = str(getattr(attack, "__name__", type(attack).__name__))
    return {entry.name: key for key, entry in ATTACKS.items()}.get(kind, kind.lower())


def provenance(job: Job) -> dict[str, Any]:
    """What a manifest says of how the numbers came about."""
    return {
        "flatlens": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "measurement_version": MEASUREMENT_VERSION,
        **_of_others(job),
        "device": str(job.victim.device),
        "threads": torch.get_num_threads(),
        "folded": job.victim.folded,
        "head": job.victim.head,
        "classes": job.victim.classes,
        "samples": len(job.x),
        "seed": job.seed,
    }


def _of_others(job: Job) -> dict[str, Any]:
    """What is known of an attack that is not flatlens' own: its library and the settings in effect."""
    known = getattr(job.attack, "provenance", None)
    return {"recorded_attack": dict(known)} if known else {}
