"""Which inputs of a path are kept, for pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from flatlens.measure.rows import Ints
from flatlens.records.schema import Images
from flatlens.victims.protocol import Pass


class Keeper(Protocol):
    """Looks at each pass of one path and keeps what a page will show of its inputs."""

    def look(self, step: Ints, here: Pass, flipped: Tensor, measure: Tensor | None) -> None:
        """See one pass.

        Args:
            step: of its path, for each sample, ``[n]``.
            here: the pass.
            flipped: whether each sample is, ``[n]``.
            measure: κ of the first probed layer, ``[n]``.
        """

    def kept(self, ids: Tensor) -> Any:
        """What was kept of the samples that are called ``ids``."""


class ImageKeeper:
    """Keeps a path's inputs: all, or those at the key steps clean, flip, peak and end.

    The peak is that of κ of the first probed layer, kept as a running maximum, so that memory does not grow with
    the number of steps.
    """

    def __init__(self, mode: str) -> None:
        self._all = mode == "all"
        self._kept: list[_Shot] = []
        self._flipped: Tensor | None = None
        self._highest: Tensor | None = None

    def look(self, step: Ints, here: Pass, flipped: Tensor, measure: Tensor | None) -> None:
        """See one pass; ``step``, ``flipped`` and ``measure`` are ``[n]``."""
        who = torch.arange(len(here.x)) if here.rows is None else here.rows
        now = _Shot(here.x.detach(), here.logits.detach(), who, torch.from_numpy(step))
        flipped = flipped.cpu()
        if self._all:
            self._kept.append(now)
            return
        if self._flipped is None:  # clean; flip, peak and end hold the clean input until there is something to hold
            self._kept = [now] * 4
            self._flipped = flipped.clone()
            self._highest = None if measure is None else measure.cpu().clone()
            return
        clean, flip, peak, end = self._kept
        flip = flip.where(flipped & ~self._flipped[who], now)
        self._flipped[who] |= flipped
        if measure is not None and self._highest is not None:
            higher = measure.cpu() > self._highest[who]
            peak = peak.where(higher, now)
            self._highest[who] = torch.where(higher, measure.cpu(), self._highest[who])
        end = now if here.rows is None else end.where(torch.ones_like(flipped), now)
        self._kept = [clean, flip, peak, end]

    def kept(self, ids: Tensor) -> Images:
        """What was kept, ordered by sample, then step, each step once."""
        x, logits, who, at = (torch.cat([part.cpu() for part in parts]) for parts in zip(*self._kept, strict=True))
        order = torch.from_numpy(np.lexsort((at.numpy(), who.numpy())))
        # A step that plays two roles (the flip at the peak) is kept once.
        fresh = torch.ones_like(order, dtype=torch.bool)
        fresh[1:] = (who[order].diff() != 0) | (at[order].diff() != 0)
        chosen = order[fresh]
        return _images(x[chosen], ids[who[chosen]], at[chosen], logits[chosen])


class _Shot(NamedTuple):
    """Inputs ``x`` with their ``logits``, whose they are and at which step, ``[n, …]`` each."""

    x: Tensor
    logits: Tensor
    who: Tensor
    step: Tensor

    def where(self, taken: Tensor, now: _Shot) -> _Shot:
        """This one of all samples, but ``now`` for those of its samples that are taken."""
        if not taken.any():
            return self
        there = now.who[taken]
        x, logits, step = (
            held.index_copy(0, there.to(held.device), new[taken.to(new.device)])
            for held, new in ((self.x, now.x), (self.logits, now.logits), (self.step, now.step))
        )
        return _Shot(x, logits, self.who, step)


def with_result(images: Images, ids: Tensor, x: Tensor, logits: Tensor) -> Images:
    """The images, each sample's followed by what was found for it (``x`` ``[n, …]``), as one more of its last step."""
    last = np.flatnonzero(np.append(images.sample[1:] != images.sample[:-1], True)) + 1
    order = {int(sample): i for i, sample in enumerate(ids)}
    rows = [order[int(sample)] for sample in images.sample[last - 1]]
    sample, step = torch.from_numpy(images.sample[last - 1]), torch.from_numpy(images.step[last - 1])
    added = _images(x.cpu()[rows], sample, step, logits.cpu()[rows])
    columns: Iterator[tuple[Any, Any]] = zip(images, added, strict=True)
    return Images(*(np.insert(held, last, new, axis=0) for held, new in columns))


def _images(x: Tensor, sample: Tensor, step: Tensor, logits: Tensor) -> Images:
    return Images(
        x=x.float().contiguous().numpy(),
        sample=sample.numpy(),
        step=step.to(torch.int32).numpy(),
        probabilities=torch.softmax(logits.double(), 1).float().numpy(),
    )
