"""Cases whose networks and data are made up, so that the answer is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from flatlens.claims.claim import ROBUST, STANDARD
from flatlens.claims.nets import Case, Net
from flatlens.datasets import Dataset
from flatlens.models.loaders import Loaded

MARGIN, WIDTH = 6.0, 64
"""How far ahead the label is at every sample of `half_planes`, in logits; numbers of an input."""


def case(models: dict[str, nn.Module], x: torch.Tensor, y: torch.Tensor, *, eps: float = 0.3) -> Case:
    """A case of these networks, kind by kind, on these inputs ``[n, …]`` and labels ``[n]``."""
    made = Case(Net("made", dict.fromkeys(models, "made"), "made", eps), len(x))
    made._loaded.update({kind: Loaded(model.eval(), "made", "", "made") for kind, model in models.items()})
    classes = int(y.max()) + 1
    made.__dict__["data"] = Dataset(x.numpy(), y.numpy(), np.arange(len(x)), classes, None, "made", "")
    return made


def half_planes(slopes: dict[str, float], n: int = 20, *, eps: float = 0.3) -> Case:
    """Linear networks of two classes: the label is `MARGIN` ahead at each sample and loses ``slope`` a unit of length.

    All samples are as far from the boundary: `MARGIN` / slope. The direction in which they lose it changes neither the
    length of an input nor, within 6 / slope of length, reaches the bounds for slopes above 8.
    """
    torch.manual_seed(0)
    away = torch.ones(WIDTH)
    away[1::2] = -1  # orthogonal to the constant input
    away /= away.norm()
    noise = 0.02 * torch.randn(n, WIDTH)
    x = 0.5 + noise - (noise @ away)[:, None] * away
    models = {}
    for kind, slope in slopes.items():
        head = nn.Linear(WIDTH, 2)
        with torch.no_grad():
            head.weight.copy_(torch.stack([-slope / 2 * away, slope / 2 * away]))
            head.bias.copy_(torch.tensor([MARGIN / 2, -MARGIN / 2]))
        models[kind] = nn.Sequential(nn.Flatten(), head)
    y = torch.zeros(n, dtype=torch.int64)
    made = case(models, x, y, eps=eps)
    made.__dict__["data"] = Dataset(x.numpy(), y.numpy(), np.arange(n), 2, None, "made", "")
    return made


def twins(slope: float, other: float, **given: float) -> Case:
    """A standard and a robust network of `half_planes`."""
    return half_planes({STANDARD: slope, ROBUST: other}, **given)  # type: ignore[arg-type]
