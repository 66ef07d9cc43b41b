"""Which inputs of a path are kept, for pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from flatlens.attacks.balls import column
from flatlens.measure.rows import Ints
from flatlens.records.schema import Gradients, Images
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
    """Keeps a path's inputs: all, or those at the key steps clean, flip, peak and end; and its gradients at these.

    The peak is that of κ of the first probed layer, kept as a running maximum, so that memory does not grow with
    the number of steps.
    """

    def __init__(self, mode: str) -> None:
        self._all: list[_Shot] | None = [] if mode == "all" else None
        self._key: list[_Shot] = []
        self._flipped: Tensor | None = None
        self._highest: Tensor | None = None
        self._before: tuple[_Shot, Pass] | None = None
        self._slopes: list[_Slopes] = []

    def look(self, step: Ints, here: Pass, flipped: Tensor, measure: Tensor | None) -> None:
        """See one pass; ``step``, ``flipped`` and ``measure`` are ``[n]``."""
        self._look_back()
        now = _Shot.of(here, step)
        self._before = now, here
        flipped = flipped.to(now.x.device)
        measure = None if measure is None else measure.to(now.x.device)
        if self._all is not None:
            self._all.append(now)
        if self._flipped is None:  # clean; flip, peak and end hold the clean input until there is something to hold
            self._key = [now] * 4
            self._slopes = [_Slopes.none(now.x)] * 3
            self._flipped, self._highest = flipped.clone(), measure
            return
        clean, flip, peak, end = self._key
        flip = flip.where(flipped & ~now.of_mine(self._flipped), now)
        self._flipped = now.put(self._flipped, flipped, flipped)
        if measure is not None and self._highest is not None:
            higher = measure > now.of_mine(self._highest)
            peak = peak.where(higher, now)
            self._highest = now.put(self._highest, higher, measure)
        end = now if here.rows is None else end.where(torch.ones_like(flipped), now)
        self._key = [clean, flip, peak, end]

    def _look_back(self) -> None:
        """The gradient that the attack has taken on the pass before, now that it is done with it."""
        if self._before is None:
            return
        now, here = self._before
        if here.gradient is not None:
            # At the end no gradient is taken, and no step before it is known to be the last.
            for i, shot in enumerate(self._key[:3]):
                self._slopes[i] = self._slopes[i].where(now.of_mine(shot.step) == now.step, now, here.gradient)
        self._before = None

    def kept(self, ids: Tensor) -> Images:
        """What was kept, ordered by sample, then step, each step once."""
        shots = self._key if self._all is None else self._all
        x, logits, who, at = (
            torch.cat([part.cpu() for part in parts]) for parts in zip(*(shot[:4] for shot in shots), strict=True)
        )
        chosen = _once(who, at)
        return _images(x[chosen], ids[who[chosen]], at[chosen], logits[chosen])

    def gradients(self, ids: Tensor, slope: Callable[[Tensor, bool], Tensor | None]) -> Gradients | None:
        """The path's gradients at the key steps, ordered by sample, then step, each step once.

        Args:
            ids: of the samples.
            slope: gives the loss's gradient at points ``[n, …]``, where the attack has taken none; None where there is
                none. It is told whether the attack has taken some elsewhere.

        Returns:
            the gradients; None where there are none at all.
        """
        self._look_back()
        # What says whose and when is compared on the CPU, x stays where the model is.
        key = [shot._replace(who=shot.who.cpu(), step=shot.step.cpu()) for shot in self._key]
        found = [slopes._replace(step=slopes.step.cpu()) for slopes in (*self._slopes, _Slopes.none(key[3].x))]
        owned = [shot.step == slopes.step for shot, slopes in zip(key, found, strict=True)]
        losses: dict[int, Tensor | None] = {}
        # The end first: flip or peak may be at the same step.
        for i in (3, 0, 1, 2):
            shot, missing = key[i], ~owned[i]
            for j in losses:
                missing &= shot.step != key[j].step
            if missing.any():
                losses[i] = slope(shot.x, any(bool(mine.any()) for mine in owned))
        parts = []
        for shot, slopes, mine in zip(key, found, owned, strict=True):
            filled, there = slopes.values, mine.clone()
            for j, loss in losses.items():
                if loss is not None:
                    same = ~mine & (shot.step == key[j].step)
                    filled = _put(filled, same, loss[same.to(loss.device)])
                    there |= same
            parts.append((filled.cpu(), there, mine, shot.who, shot.step))
        values, there, taken, everyone, steps = (torch.cat(values) for values in zip(*parts, strict=True))
        # Of one step kept twice, that with the attack's own gradient.
        order = torch.argsort((~taken).to(torch.int8), stable=True)
        order = order[there[order]]
        if not len(order):
            return None
        chosen = order[_once(everyone[order], steps[order])]
        return Gradients(
            values=values[chosen].float().contiguous().numpy(),
            sample=ids[everyone[chosen]].numpy(),
            step=steps[chosen].to(torch.int32).numpy(),
            own=taken[chosen].to(torch.uint8).numpy(),
        )


def _once(who: Tensor, at: Tensor) -> Tensor:
    """The first of each sample and step, by sample, then step."""
    order = torch.from_numpy(np.lexsort((at.numpy(), who.numpy())))
    # A step that plays two roles (the flip at the peak) is kept once.
    fresh = torch.ones_like(order, dtype=torch.bool)
    fresh[1:] = (who[order].diff() != 0) | (at[order].diff() != 0)
    return order[fresh]


def _put(values: Tensor, where: Tensor, new: Tensor) -> Tensor:
    """``values`` with ``new`` at some rows. Out of place: what is held may be another's."""
    return values.index_copy(0, where.nonzero().squeeze(1).to(values.device), new.to(values.device, values.dtype))


class _Slopes(NamedTuple):
    """Gradients ``[n, …]`` of all samples of a batch, and at which step of the path each was taken; −1 = none was."""

    values: Tensor
    step: Tensor

    @classmethod
    def none(cls, x: Tensor) -> _Slopes:
        """Of samples of whom no gradient is known yet."""
        return cls(torch.zeros_like(x), torch.full((len(x),), -1, device=x.device))

    def where(self, taken: Tensor, now: _Shot, new: Tensor) -> _Slopes:
        """These, but ``new`` for those samples of a pass that are taken."""
        if _none(taken):
            return self
        return _Slopes(now.put(self.values, taken, new.detach()), now.put(self.step, taken, now.step))


class _Shot(NamedTuple):
    """Inputs ``x`` with their ``logits``, whose they are and at which step, ``[n, …]`` each, all where the model is.

    Attributes:
        everyone: they are of all samples of the batch, in order.
    """

    x: Tensor
    logits: Tensor
    who: Tensor
    step: Tensor
    everyone: bool

    @classmethod
    def of(cls, here: Pass, step: Ints) -> _Shot:
        """What is seen of a pass. Nothing waits for the GPU, which may be far behind."""
        x = here.x.detach()
        at = torch.from_numpy(step).to(x.device, non_blocking=True)
        all_of_them = here.rows is None
        who = torch.arange(len(x), device=x.device) if here.rows is None else here.rows.to(x.device, non_blocking=True)
        return cls(x, here.logits.detach(), who, at, all_of_them)

    def of_mine(self, values: Tensor) -> Tensor:
        """What all samples of the batch have, of those that are here."""
        return values if self.everyone else values[self.who]

    def put(self, held: Tensor, taken: Tensor, new: Tensor) -> Tensor:
        """What all samples hold, but ``new`` for those here that are taken. Out of place: it may be another's."""
        if self.everyone:
            return torch.where(column(taken, held), new.to(held.dtype), held)
        return held.index_copy(0, self.who[taken], new[taken].to(held.dtype))

    def where(self, taken: Tensor, now: _Shot) -> _Shot:
        """This one of all samples, but ``now`` for those of its samples that are taken."""
        if _none(taken):
            return self
        pairs = ((self.x, now.x), (self.logits, now.logits), (self.step, now.step))
        x, logits, step = (now.put(held, taken, new) for held, new in pairs)
        return _Shot(x, logits, self.who, step, self.everyone)


def _none(taken: Tensor) -> bool:
    """Whether nothing is: not asked of a GPU, where the answer would be waited for."""
    return taken.device.type == "cpu" and not taken.any()


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
