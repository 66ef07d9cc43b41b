"""Points of the user's own, measured as if an attack had been there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlens.attacks.recording import Replay
from flatlens.errors import AttackError, one_line
from flatlens.files.archives import arrays as listed
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim


@dataclass(frozen=True, eq=False)
class Along:
    """Points ``[step, n, …]``; made by `along`."""

    points: Tensor
    ids: Tensor
    name: str = "along"
    target: int | str | None = None

    @property
    def length(self) -> int:
        """Points after the clean input, if the first is not it."""
        return len(self.points)

    def describe(self) -> dict[str, Any]:
        """What a trace says of how it was made."""
        return {"attack": self.name, "steps": self.length}

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, then the points of these samples."""
        place = {int(sample): column for column, sample in enumerate(self.ids)}
        missing = [int(i) for i in batch.ids if int(i) not in place]
        if missing:
            raise AttackError(
                f"sample {missing[0]} has no iterates; they are of {len(self.ids)} samples: "
                "say which by their ids (an array 'ids' in the file)"
            )
        if self.points.shape[2:] != batch.x.shape[1:]:
            raise AttackError(
                f"iterates have samples of shape {tuple(self.points.shape[2:])}; the data's are "
                f"{tuple(batch.x.shape[1:])}: iterates are [step, n, …]"
            )
        paths = []
        for sample, clean in zip(batch.ids, batch.x.cpu(), strict=True):
            path = [x for x in self.points[:, place[int(sample)]] if not torch.isnan(x).any()]
            # The clean input is there already.
            paths.append(path[1:] if path and torch.equal(path[0].to(clean.dtype), clean) else path)
        yield from Replay(paths)(victim, batch, rng)


def along(
    iterates: Tensor | NDArray[Any] | Sequence[Any], ids: Any = None, *, target: int | str | None = None
) -> Along:
    """Points of one's own as the path.

    Args:
        iterates: ``[step, n, …]``, an array, a tensor or a list of steps; a sample whose path is shorter has NaN
            beyond its end. The clean input comes first by itself, whether or not it is among them.
        ids: which sample each column belongs to, ``[n]``; 0 … n−1 when left out.
        target: as for `PGD`: what counts as flipped.

    Raises:
        AttackError: not of this shape, or not numbers.
    """
    try:
        steps = [torch.as_tensor(step) for step in iterates]
        points = torch.stack(steps).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AttackError(f"iterates cannot be read as numbers [step, n, …]: {one_line(error)}") from error
    if points.dim() < 3 or not points.is_floating_point() or 0 in points.shape:
        raise AttackError(
            f"iterates have shape {tuple(points.shape)} and type {points.dtype}; "
            "needs floating-point numbers [step, n, …]"
        )
    owners = torch.arange(points.shape[1]) if ids is None else torch.as_tensor(ids).cpu().long()
    if owners.shape != (points.shape[1],) or len(owners.unique()) < len(owners):
        raise AttackError(
            f"ids of shape {tuple(owners.shape)}: needs a different one for each of {points.shape[1]} samples"
        )
    return Along(points, owners, target=target)


def from_file(file: Path, *, target: int | str | None = None) -> Along:
    """The arrays ``iterates`` and, if there, ``ids`` of an NPZ file; nothing in it is ever unpickled."""
    try:
        with np.load(file, allow_pickle=False) as held:
            arrays = {key: held[key] for key in ("iterates", "ids") if key in held.files}
    except (OSError, ValueError, AttributeError) as error:
        raise AttackError(f"cannot read '{file}' as an NPZ file of arrays: {one_line(error)}") from error
    if "iterates" not in arrays:
        there = ", ".join(listed(file)) or "nothing"
        raise AttackError(
            f"'{file}' holds no array 'iterates' [step, n, …], but {there}; numpy.savez(FILE, iterates=…) writes one"
        )
    return along(arrays["iterates"], arrays.get("ids"), target=target)
