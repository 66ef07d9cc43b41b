"""What a trial is of, from either door: objects of Python, or names on the command line; checked by the same spec."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flatlens import datasets, models
from flatlens.measure import given
from flatlens.measure.load import samples_of
from flatlens.measure.prepare import device_of
from flatlens.models import OBJECT
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.trust import TRUST

CHECKED_AS = "apgd-ce"
"""The attack whose settings, norms and defaults a trial's are checked as: linf and l2, any number of steps."""


class Asked(NamedTuple):
    """A model, samples with their ids, ``[n, …]`` and ``[n]``, the settings, defaults filled in, and where to compute.

    ``device`` is None for where the model is.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    spec: RunSpec
    device: str | None

    @property
    def eps(self) -> float:
        """The radius, in units of the input."""
        assert self.spec.eps is not None  # `resolved` has written the default
        return self.spec.eps


def objects(model: nn.Module | str, x: Any, y: Any, normalize: Any, device: Any, **settings: Any) -> Asked:
    """What Python hands over.

    Args:
        model: a module, or a name.
        x: inputs, in all forms that `flatlens.trace` takes.
        y: labels.
        normalize: ``(mean, std)`` or None.
        device: where to compute.
        settings: of a `RunSpec`, such as ``eps`` and ``steps``.
    """
    data = given.samples(x, y)
    net, _ = given.model(model, data, normalize)
    plain = {key: _number(value) if key != "bounds" else value for key, value in settings.items()}
    spec = from_dict({"model": OBJECT, "data": OBJECT, "attack": CHECKED_AS} | plain).resolved()
    return Asked(net, data.x, data.y, torch.arange(len(data.x)), spec, device_of(given.device(device)))


def names(spec: RunSpec) -> Asked:
    """What names stand for, the samples chosen as ``limit`` says."""
    spec = spec.resolved()
    data = datasets.load(spec.data)
    trust = {key: getattr(spec, key) for key in TRUST}
    model = models.load(spec.model, shape=tuple(data.x.shape[1:]), classes=data.classes, **trust).model
    some = data.take(samples_of(spec, data.y))
    return Asked(model, torch.from_numpy(some.x), torch.from_numpy(some.y), torch.from_numpy(some.ids), spec,
                 device_of(spec.device))  # fmt: skip


def _number(value: Any) -> Any:
    """A number of NumPy's or torch's as Python's own."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
