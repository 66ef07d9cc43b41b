"""The two tasks of immunization: features, and if there are any the targets that a probe on them is to learn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatlens.errors import DataError
from flatlens.hessian.condition import STEADY, Floats, matrix
from flatlens.immunity.ceiling import root
from flatlens.records.schema import Caution

Ints = NDArray[np.int64]


class Task(NamedTuple):
    """One task.

    Attributes:
        name: ``primary`` or ``harmful``, for messages.
        x: features ``[n, d]``.
        y: targets ``[n, c]``, or None.
    """

    name: str
    x: Floats
    y: Floats | None

    def root(self, ridge: float) -> Floats:
        """R ``[d, d]`` with RᵀR = XᵀX/n + ρ·tr/d·I."""
        return root(self.x, ridge)

    def slope(self) -> Floats:
        """XᵀY/n ``[d, c]``: minus the gradient of the probe's loss at 0.

        Raises:
            DataError: there are no targets.
        """
        if self.y is None:
            raise DataError(
                f"the {self.name} task has no targets; give a pair ({self.name}_x, {self.name}_y), targets [n] or "
                "[n, c]"
            )
        return self.x.T @ self.y / len(self.x)

    def parts(self, share: float, seed: int) -> tuple[Task, Task | None]:
        """The part that θ is found on and, drawn at random, the one held out; the latter None where ``share`` is 0."""
        if not share:
            return self, None
        seen, held = self.split(share, seed)
        return self._take(seen), self._take(held)

    def split(self, share: float, seed: int) -> tuple[Ints, Ints]:
        """Which samples are in either part, ascending.

        Raises:
            DataError: one would be empty.
        """
        n = len(self.x)
        held = round(share * n)
        if not 0 < held < n:
            raise DataError(
                f"--holdout {share:g} of {n} samples of the {self.name} task leaves no sample on one side; give more "
                "samples, or --holdout 0"
            )
        order = np.random.default_rng(seed).permutation(n)
        return np.sort(order[held:]), np.sort(order[:held])

    def sha256(self) -> str:
        """Of features and targets: bytes and shapes."""
        digest = hashlib.sha256()
        for values in (self.x, self.y):
            digest.update(b"none" if values is None else f"{values.shape}".encode() + values.tobytes())
        return digest.hexdigest()

    def cautions(self) -> Iterator[Caution]:
        """What makes the figures of this task misleading."""
        n, d = self.x.shape
        constant = int((np.ptp(self.x, axis=0) == 0).sum())
        if constant:
            yield Caution(
                "constant-features",
                f"{constant} of {d} features are the same for all {n} samples of the {self.name} task",
            )
        if n < STEADY * d:
            yield Caution(
                "few-samples",
                f"{n} samples of {d} features in the {self.name} task: held out, the ratios may be much worse; they "
                f"are steady from {STEADY * d} samples on",
            )

    def _take(self, rows: Any) -> Task:
        return self._replace(x=self.x[rows], y=None if self.y is None else self.y[rows])


def task(name: str, given: Any) -> Task:
    """A task from features ``[n, d]``, or from a pair of them and targets ``[n]`` or ``[n, c]``.

    Raises:
        DataError: they cannot be.
    """
    x, y = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    features = matrix(x, f"the {name} features")
    if y is None:
        return Task(name, features, None)
    targets = _targets(name, y)
    if len(targets) != len(features):
        raise DataError(f"the {name} task has {len(features)} samples and {len(targets)} targets; give one for each")
    if (np.ptp(targets, axis=0) == 0).all():
        raise DataError(
            f"the targets of the {name} task are the same for all {len(targets)} samples (one class, or a constant "
            "column): there is nothing to learn; give others"
        )
    return Task(name, features, targets)


def both(primary: Any, harmful: Any) -> tuple[Task, Task]:
    """The two tasks, which are to be of the same features.

    Raises:
        DataError: they cannot be.
    """
    one, other = task("primary", primary), task("harmful", harmful)
    if one.x.shape[1] != other.x.shape[1]:
        raise DataError(
            f"the primary task has {one.x.shape[1]} features and the harmful one {other.x.shape[1]}; both need those "
            "of one extractor"
        )
    return one, other


def _targets(name: str, given: Any) -> Floats:
    what = f"the {name} targets"
    values = given.reshape(-1, 1) if getattr(given, "ndim", None) == 1 else given
    if isinstance(given, (list, range)):
        values = np.asarray(given)
        values = values.reshape(-1, 1) if values.ndim == 1 else values
    return matrix(values, what)
