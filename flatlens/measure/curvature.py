"""`curvature`: given points, measured for every sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.hessian import Curvature
from flatlens.measure import given
from flatlens.measure.prepare import check_data, check_labels, device_of, dtype_of, instrument
from flatlens.specs.settings import Settings
from flatlens.victims.layers import HEAD
from flatlens.victims.memory import batch_that_fits, bytes_per_sample
from flatlens.victims.precision import as_usual, exact_arithmetic
from flatlens.wording import python_words


@python_words()
@as_usual()
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
