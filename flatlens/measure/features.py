"""The features that a probe is trained on: the inputs of one Linear layer of a model, or the columns of a table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlens import datasets, models
from flatlens.datasets.table import regression
from flatlens.errors import LayerError, SpecError
from flatlens.hessian.condition import Floats
from flatlens.measure.load import samples_of
from flatlens.measure.prepare import device_of
from flatlens.models import guard
from flatlens.specs.run import RunSpec
from flatlens.specs.trust import TRUST
from flatlens.victims.images import ImageVictim
from flatlens.victims.layers import HEAD, own_name
from flatlens.victims.precision import exact_arithmetic

EXAMPLES = 8
"""Inputs that a model is checked with."""


class Features(NamedTuple):
    """What goes into a layer, and what comes out of the model.

    Attributes:
        x: features ``[n, d]``, float64.
        probabilities: softmax of the model's logits ``[n, K]``, float64; None where there is no model.
        layer: the layer's name; ``columns`` of a table.
        target: the same as in ``model.named_modules()``, where ``head`` is none.
    """

    x: Floats
    probabilities: Floats | None
    layer: str
    target: str = ""


def features(
    model: nn.Module,
    x: Tensor,
    layer: str = HEAD,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> Features:
    """The inputs of a Linear layer.

    Args:
        model: returns logits ``[n, K]``; in eval mode; never changed.
        x: inputs, ``[n, …]``.
        layer: ``head``, or a name as in ``model.named_modules()``.
        batch_size: inputs at a time.
        device: where to compute; where the model is when left out.

    Raises:
        LayerError: the layer does not exist, or its inputs are no vectors.
        ModelError: the model is no deterministic classifier in eval mode.
    """
    with guard.net("while it is checked"):
        victim = ImageVictim(model, x[:EXAMPLES], layers=(layer,), device=device)
    if len(victim.layers) != 1:
        raise LayerError(f"layer '{layer}' stands for {len(victim.layers)} layers; a probe has the features of one")
    name = next(iter(victim.layers))
    found, said = [], []
    with guard.net("while its features are taken"), exact_arithmetic(victim.device):
        for part in x.split(batch_size):
            # Neither the features nor the logits depend on a label.
            y = torch.zeros(len(part), dtype=torch.long, device=victim.device)
            here = victim(victim.place(part), y, final=True)
            at = here.taps[name].input.detach()
            if at.dim() != 2:
                raise LayerError(
                    f"the inputs of layer '{name}' have shape [n, {', '.join(map(str, at.shape[1:]))}]; a probe takes "
                    "vectors: name a Linear layer after the pooling, such as head"
                )
            found.append(at.cpu().double())
            said.append(here.logits.detach().cpu().double().softmax(1))
    target = own_name(victim.layers[name].target, model)
    return Features(torch.cat(found).numpy(), torch.cat(said).numpy(), name, target)


def of_names(spec: RunSpec) -> Features:
    """The same of a model and data by their names: ``model``, ``data``, ``layer``, ``limit``, … of a spec."""
    if len(spec.layer) != 1:
        raise SpecError(f"--layer {', '.join(spec.layer)}: a probe has the features of one layer; name one")
    data = datasets.load(spec.data)
    trust = {key: getattr(spec, key) for key in TRUST}
    loaded = models.load(spec.model, shape=tuple(data.x.shape[1:]), classes=data.classes, **trust)
    some = data.take(samples_of(spec, data.y))
    size = spec.batch_size if isinstance(spec.batch_size, int) else 256
    return features(
        loaded.model, torch.from_numpy(some.x), spec.layer[0], batch_size=size, device=device_of(spec.device)
    )


def of_table(data: str) -> Features:
    """The columns of a table but its target, as they are, without a model.

    Args:
        data: ``table:FILE?target=COLUMN``.
    """
    return Features(regression(data).x, None, "columns")
