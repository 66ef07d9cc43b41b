"""What is looked at of samples before anything is done with them: whether they can be attacked, and as what."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flatlens.errors import DataError
from flatlens.records import cautions
from flatlens.records.schema import Caution
from flatlens.victims import endings
from flatlens.victims.images import ImageVictim


def check_data(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and labels that can be attacked, or a DataError that says why not."""
    x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach().cpu()
    if not x.is_floating_point():
        raise DataError(
            f"inputs are {x.dtype}; give floating-point numbers within the bounds, for example x / 255, or x.float() "
            "with bounds=(0, 255)"
        )
    if x.dim() < 2 or x[:1].numel() == 0:
        if len(x.shape) and len(x) == 0:
            raise DataError("there are no samples; give at least one")
        raise DataError(
            f"inputs have shape {tuple(x.shape)}; give [n, …], the samples first: x[:, None] of one number each"
        )
    if len(x) == 0:
        raise DataError("there are no samples; give at least one")
    if y.shape != (len(x),) or y.is_floating_point() or y.is_complex():
        raise DataError(
            f"labels have shape {tuple(y.shape)} and type {y.dtype}; needs whole numbers of shape [{len(x)}]"
            f"{_whole(x, y)}"
        )
    if int(y.min()) < 0:
        raise DataError(f"label {int(y.min())} of sample {int(y.argmin())} is negative; labels are 0 … K−1")
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bad.any():
        raise DataError(
            f"inputs of {int(bad.sum())} samples hold NaN or inf, first sample {int(bad.nonzero()[0])}; remove them"
        )
    return x, y.long()


def _whole(x: Tensor, y: Tensor) -> str:
    """How labels of another form become whole numbers ``[n]``."""
    if y.dim() == 2 and len(y) == len(x):
        return ": y[:, 0]" if y.shape[1] == 1 else ": y.argmax(1), where they are probabilities of classes"
    return ": y.long()" if y.shape == (len(x),) and y.is_floating_point() else ""


def check_labels(y: Tensor, ids: Tensor, classes: int) -> None:
    """Refuse labels that the model does not have.

    Raises:
        DataError: names the first sample with one.
    """
    if int(y.max()) >= classes:
        first = int((y >= classes).nonzero()[0])
        raise DataError(
            f"label {int(y[first])} of sample {int(ids[first])} is out of range: "
            f"the model has {classes} classes, 0 … {classes - 1}"
        )


def preflight(model: nn.Module, victim: ImageVictim, x: Tensor, bounds: tuple[float, float]) -> Iterator[Caution]:
    """What must be known of a model and its inputs before the first step.

    Args:
        model: the user's.
        victim: made of it.
        x: all inputs, ``[n, …]``.
        bounds: the range that they should lie in.

    Yields:
        inputs outside of the bounds, and outputs that look like probabilities.
    """
    low, high = bounds
    slack = endings.rounding(x) * max(abs(low), abs(high))
    outside = ((x < low - slack) | (x > high + slack)).flatten(1).any(1)
    if outside.any():
        yield cautions.bounds(int(outside.sum()), len(x), float(x.min()), float(x.max()), bounds)
    if victim.probabilities:
        yield cautions.probabilities(endings.softmax(model, x[:2]))
