"""The condition number of a linear probe on the head's features, at each step of an attack, of all samples together.

Features are in every pass already: nothing more is computed of the model. Of a batch, at each step the triangle R of
X = QR is kept, or X itself where it has no more rows than columns; the singular values of all batches are those of
their triangles, one above the other. That is as exact as the singular values of all features at once, and takes d²
numbers a step. The Gram matrix XᵀX, which takes as many, has the squares of these values: its eigenvalues are rounding
where the condition number nears 1e16, and only a ridge would hide it.

A sample whose path has ended stays where it is, so that each step is of all samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from torch import Tensor

from flatlens.errors import LayerError, StaleRunError, one_line
from flatlens.hessian.condition import Floats, demand_samples, figures, singular_values, triangle
from flatlens.measure.keeper import Keeper
from flatlens.measure.rows import Ints
from flatlens.records.schema import ATTACK, CONDITION
from flatlens.victims.images import ImageVictim
from flatlens.victims.protocol import Pass


class Probed(NamedTuple):
    """Of which features, and with which ridge ρ.

    Attributes:
        layer: the head, as it is called among the probed layers.
        ridge: ρ; ρ·trace(H)/d is added to the diagonal.
    """

    layer: str
    ridge: float


def probed(victim: ImageVictim, samples: int, ridge: float) -> Probed:
    """The head of a model, whose features a linear probe is put on.

    Args:
        victim: the model.
        samples: how many inputs will be attacked.
        ridge: ρ.

    Raises:
        LayerError: the model has no head, or the head is not probed.
        DataError: too few samples for so many features, and no ridge.
    """
    if victim.head is None:
        raise LayerError(
            "--condition: this model has no head, a Linear layer whose output is the logits; leave it out, or take "
            "`flatlens condition --layer NAME`"
        )
    name = next((name for name, layer in victim.layers.items() if layer.target == victim.head), None)
    if name is None:
        raise LayerError(f"--condition is of the head's features: add --layer head to {', '.join(victim.layers)}")
    demand_samples(samples, victim.layers[name].weight.shape[1], ridge)
    return Probed(name, ridge)


class FeatureKeeper:
    """Keeps the head's features of one path of one batch, beside what another keeper keeps.

    Args:
        layer: the head, as it is called among a pass's taps.
        beside: sees each pass, too.
    """

    def __init__(self, layer: str, beside: Keeper | None = None) -> None:
        self._layer, self._beside = layer, beside
        self._done: list[Floats] = []
        self._late: list[Floats] = []
        self._last: Floats | None = None
        self._reached: Ints | None = None

    @staticmethod
    def key(path: str, restart: int) -> str:
        """What the features of one path are called in a part's file."""
        return f"{restart}:{path}"

    def look(self, step: Ints, here: Pass, flipped: Tensor, measure: Tensor | None) -> None:
        """See one pass."""
        if self._beside is not None:
            self._beside.look(step, here, flipped, measure)
        x = here.taps[self._layer].input.detach().cpu().double().numpy()
        if here.rows is None and not self._late:
            self._done.append(_compressed(x))
            self._last, self._reached = x, np.array(step)
            return
        # Paths of several lengths, or of a few samples at a time: nothing is known to be the last of its step.
        assert self._last is not None and self._reached is not None
        who = np.arange(len(x)) if here.rows is None else here.rows.numpy()
        for row, sample, at in zip(x, who, step, strict=True):
            while len(self._done) + len(self._late) <= at:
                self._late.append(np.full_like(self._last, np.nan))
            self._late[int(at) - len(self._done)][sample] = row
            self._reached[sample] = at

    def kept(self, ids: Tensor) -> Any:
        """What the other keeper kept."""
        return None if self._beside is None else self._beside.kept(ids)

    def features(self) -> Floats:
        """What has the features' singular values at each step ``[T + 1, min(n, d), d]``; the path is over."""
        before = self._last
        for i, x in enumerate(self._late):
            assert before is not None and self._reached is not None
            over = self._reached < len(self._done) + i
            x[over] = before[over]
            before = x
        return np.stack([*self._done, *map(_compressed, self._late)])


def _compressed(x: Floats) -> Floats:
    return triangle([x], x.shape[1]) if np.isfinite(x).all() else x[: x.shape[1]] * np.nan


def table(parts: Sequence[Mapping[str, Any]], n: int, ridge: float) -> pa.Table:
    """The table `flatlens.records.schema.CONDITION`.

    Args:
        parts: of each batch, for each path (`FeatureKeeper.key`) what `FeatureKeeper.features` gives, or what can be
            indexed like it.
        n: all samples.
        ridge: ρ.
    """
    rows = []
    for key in sorted(parts[0], key=_order):
        restart, _, path = key.partition(":")
        held = [part[key] for part in parts]
        lengths = [len(one) if hasattr(one, "__len__") else one.get_shape()[0] for one in held]
        for step in range(max(lengths)):
            # Batches whose paths are shorter stay where they end.
            blocks = [one[min(step, length - 1)] for one, length in zip(held, lengths, strict=True)]
            d = blocks[0].shape[-1]
            whole = all(np.isfinite(block).all() for block in blocks)
            found = figures(singular_values(blocks, d) if whole else np.full(d, np.nan), n, ridge)
            rows.append((path, int(restart), step, n, ridge, *found))
    columns = zip(*rows, strict=True)
    return pa.table(dict(zip(CONDITION.names, columns, strict=True)), CONDITION)


def _order(key: str) -> tuple[bool, str, int]:
    """The attack first: a file does not keep the order in which paths were walked."""
    restart, _, path = key.partition(":")
    return path != ATTACK, path, int(restart)


@contextlib.contextmanager
def opened(files: Sequence[Path]) -> Iterator[list[dict[str, Any]]]:
    """The parts' files, opened; a step's features are read when they are asked for.

    Yields:
        What `table` takes.

    Raises:
        StaleRunError: one is missing, or damaged.
    """
    with contextlib.ExitStack() as stack:
        try:
            held = [stack.enter_context(safe_open(file, framework="numpy")) for file in files]
            parts = [{key: file.get_slice(key) for key in file.keys()} for file in held]  # noqa: SIM118
        except Exception as error:  # a damaged file raises whatever its bytes provoke
            raise StaleRunError(
                f"'{files[0].parent.parent}': the features of its batches are damaged ({one_line(error)}); run it "
                "again with --force"
            ) from error
        yield parts


__all__ = ["FeatureKeeper", "Probed", "opened", "probed", "table"]
