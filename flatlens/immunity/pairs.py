"""Every ordered pair of several tasks on the same features, one useful and one harmful: what can be immunized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa

from flatlens.errors import DataError
from flatlens.hessian.condition import Floats, matrix
from flatlens.immunity.ceiling import Ratios
from flatlens.immunity.immunize import CEILING, Asked, checked, of_tasks
from flatlens.immunity.tasks import both
from flatlens.progress import Progress, Report

SCHEMA = pa.schema(
    [
        ("primary", pa.string()),
        ("harmful", pa.string()),
        ("method", pa.string()),
        *((name, pa.float64()) for name in (*Ratios._fields, "bound")),
        *((f"heldout_{name}", pa.float64()) for name in Ratios._fields),
        ("steps", pa.int32()),
        ("stop", pa.string()),
    ]
)
"""A row a pair: what an extractor made for it does to the condition numbers of both tasks."""
Row = dict[str, Any]


def pairs(
    tasks: Mapping[str, Any],
    method: str = CEILING,
    *,
    ridge: Any = 1e-3,
    delta: float = 0.3,
    balance: float = 0.5,
    max_cond: float = 1e6,
    steps: int = 40,
    holdout: float = 0.0,
    seed: int = 0,
    progress: Report | None = None,
) -> pa.Table:
    """Immunize every ordered pair of tasks: n of them make n(n − 1) rows, in the order of the names.

    Args:
        tasks: name -> features ``[n, d]``, or a pair of them and targets; all of the same d features.
        method: as for `immunize`, and so are ``ridge``, ``delta``, ``max_cond``, ``steps``, ``holdout`` and ``seed``.
        ridge: ρ.
        delta: of Algorithm 1.
        balance: of the ceiling.
        max_cond: the largest condition number of an extractor.
        steps: how many are tried at most for each pair.
        holdout: the share of each task's samples that no extractor sees.
        seed: of their choice.
        progress: called after each pair.

    Returns:
        A table with the columns of `SCHEMA`; NaN where nothing was held out.

    Raises:
        DataError: fewer than two tasks, or features that cannot be.
    """
    if len(tasks) < 2:
        raise DataError(f"{len(tasks)} task makes no pair; give the features of at least two")
    asked = checked(method, ridge, delta, None, max_cond, steps, holdout, seed, balance)
    return pa.Table.from_pylist(list(rows(tasks, asked, progress=progress)), SCHEMA)


def rows(
    tasks: Mapping[str, Any], asked: Asked, known: Sequence[Row] = (), progress: Report | None = None
) -> Iterator[Row]:
    """The rows of `pairs`, one after the other.

    Args:
        tasks: as for `pairs`.
        asked: what is asked of each immunization.
        known: the first rows, as they were found before.
        progress: called after each pair.

    Yields:
        a row each, by the names of `SCHEMA`.
    """
    ordered = list(permutations(tasks, 2))
    yield from known
    for done, (primary, harmful) in enumerate(ordered[len(known) :], len(known) + 1):
        found = of_tasks(*both(tasks[primary], tasks[harmful]), asked, None, None, learn=False)
        held = found.heldout or Ratios(np.nan, np.nan, np.nan)
        own = found.i, found.ii, found.rir, found.bound, *held, found.steps, found.stop
        yield dict(zip(SCHEMA.names, (primary, harmful, asked.method, *own), strict=True))
        if progress:
            progress(Progress(done, len(ordered), f"immunizing {primary} against {harmful}"))


def by_class(x: Any, y: Any) -> dict[str, Floats]:
    """The samples of each class as a task of its own, by the class's number; for `pairs`.

    Args:
        x: features ``[n, d]``.
        y: labels ``[n]``.

    Raises:
        DataError: they cannot be, or all samples are of one class.
    """
    features, labels = matrix(x, "the features"), np.asarray(y).reshape(-1)
    if len(labels) != len(features):
        raise DataError(f"{len(features)} samples and {len(labels)} labels; give one for each")
    names = np.unique(labels)
    if len(names) < 2:
        raise DataError(f"all {len(features)} samples are of class {names[0]}; pairs need at least two classes")
    return {str(name): features[labels == name] for name in names.tolist()}


def halved(images: Any) -> Floats:
    """Images at half their width and height, as features: means of 2 × 2 pixels.

    Args:
        images: ``[n, c, h, w]``, h and w even.

    Returns:
        ``[n, c·h·w/4]``.

    Raises:
        DataError: images of another shape.
    """
    x = np.asarray(images, dtype=np.float64)
    if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
        raise DataError(f"images of shape {list(x.shape)}; give [n, c, h, w] of even height and width")
    n, c, h, w = x.shape
    found: Floats = x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5)).reshape(n, -1)
    return found


__all__ = ["SCHEMA", "by_class", "halved", "pairs"]
