"""Square (Andriushchenko et al. 2020, arXiv 1912.00049): random search with squares, which needs no gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flatlens.attacks.balls import Radius, ball, column, times
from flatlens.attacks.best import Best
from flatlens.attacks.gradient import Target, check_counts, plain_eps, radius
from flatlens.attacks.objectives import fooled, objective
from flatlens.errors import AttackError, unknown
from flatlens.records.schema import BEST
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim

NORMS = ("linf", "l2")
SHARE = 0.8
"""Of an image's pixels, those that the first squares cover."""
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After how many of 10,000 queries the share is halved; of other numbers of queries, after the same parts of them."""
DRAWN_AT_ONCE = 64
"""Steps whose random numbers are drawn together."""

Images = Float[Tensor, "n c h w"]


@dataclass(frozen=True)
class Square:
    """Square Attack: change a random square, and keep the change where the margin rises.

    In linf the perturbation begins as vertical stripes of ±eps, and a step adds ±2·eps to each channel of a square,
    projected into the ball: its pixels end at ±eps. In l2 it begins as a grid of small bumps, and a step takes what
    one window holds of the perturbation and puts it, as a pair of opposite bumps, into another. Squares shrink as the
    search goes on. Unlike in the published code a square may also touch the last row and column, and every sample
    has squares of its own, so that its path does not depend on its batch.

    The iterates are the points that are tried, whether or not they are kept; then once more the best point, as a
    pass of kind ``best``: a point that fools the model before one that does not, then the highest margin.

    Args:
        eps: radius of the ball, in units of the input; one number, or one for each sample.
        norm: ``linf`` or ``l2``.
        steps: queries of the model after the clean input, 5,000 as published.
        target: ``None``, a label, ``next``, ``random`` or ``least-likely``.
        restarts: runs from new random starts; each is a path of its own in the tables.
        until_fooled: leave out samples once the model is fooled on them, as published; what they would gain after
            that is margin alone.
    """

    eps: float | Sequence[float] | Tensor = 8 / 255
    norm: str = "linf"
    steps: int = 5000
    target: Target = None
    restarts: int = 1
    until_fooled: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", plain_eps(self.eps))
        if self.norm not in NORMS:
            raise AttackError(unknown("norm", self.norm, NORMS, where="attack square has"))
        check_counts(self.steps, self.restarts)

    @property
    def length(self) -> int:
        """Iterates that are yielded after the clean input."""
        return self.steps

    def runs(self, classes: int) -> int:
        """How often the attack is run."""
        return self.restarts

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, each point that is tried, and then the best point."""
        clean = victim(batch.x, batch.y, final=True)
        yield clean
        ascends, eps = objective("margin", batch.target), radius(self.eps, batch)
        search = _Search(batch, eps, self.norm, self.steps, victim.bounds, rng)
        here = victim(search.start(), batch.y, final=True)
        yield here
        best = Best(batch.x)
        best.see(here.x, ascends(here), fooled(here, batch.target))
        rows = torch.arange(len(batch.x))
        for step in range(1, self.steps):
            if self.until_fooled:
                rows = (~best.fooled).nonzero().squeeze(1).cpu()
                if not len(rows):
                    break
            there = rows.to(batch.x.device)
            tried = victim(search.tried(best.x, rows, step), batch.y[there], final=True)
            whole = len(rows) == len(batch.x)
            tried.rows = None if whole else rows
            aim = None if batch.target is None else batch.target[there]
            value, won = objective("margin", aim)(tried).detach(), fooled(tried, aim)
            yield tried
            if whole:
                best.see(tried.x, value, won)
            else:
                _see_some(best, there, tried.x, value, won)
        result = Best(batch.x)
        result.see(clean.x, ascends(clean), fooled(clean, batch.target))
        result.see(best.x, best.score, best.fooled)
        found = victim(result.x, batch.y, final=True)
        found.kind = BEST
        yield found


def _see_some(best: Best, rows: Tensor, x: Tensor, score: Tensor, won: Tensor) -> None:
    """Look at one point of each of some samples of the batch."""
    points, scores = best.x.clone(), torch.full_like(best.score, -torch.inf)
    points[rows], scores[rows] = x.detach(), score
    all_won = torch.zeros_like(best.fooled)
    all_won[rows] = won
    best.see(points, scores, all_won)


class _Window(NamedTuple):
    """A rectangle of an image for each sample: its size, and the row and column of its corner, ``[n]``."""

    height: int
    width: int
    top: Tensor
    left: Tensor

    def mask(self, like: Images) -> Bool[Tensor, "n 1 h w"]:
        """Where it is true of the pixels of ``like``."""
        rows = torch.arange(like.shape[2], device=like.device) - self.top.unsqueeze(1)
        columns = torch.arange(like.shape[3], device=like.device) - self.left.unsqueeze(1)
        inside = ((rows >= 0) & (rows < self.height)).unsqueeze(2) & ((columns >= 0) & (columns < self.width))[:, None]
        return inside.unsqueeze(1)

    def places(self, like: Images) -> Tensor:
        """Its pixels' places among the ``h·w`` of an image, ``[n, 1, height·width]``."""
        rows = self.top.view(-1, 1, 1) + torch.arange(self.height, device=like.device).view(1, -1, 1)
        columns = self.left.view(-1, 1, 1) + torch.arange(self.width, device=like.device)
        return (rows * like.shape[3] + columns).flatten(1).unsqueeze(1)


class _Search:
    """Where a search begins, and what it tries next."""

    def __init__(
        self, batch: Batch, eps: Radius, norm: str, steps: int, bounds: tuple[float, float], rng: Noise
    ) -> None:
        self._origin, self._ids, self._shape = _as_images(batch.x), batch.ids, batch.x.shape
        self._eps, self._norm, self._steps, self._bounds, self._rng = eps, norm, steps, bounds, rng
        self._channels, self._height, self._width = self._origin.shape[1:]
        self._numbers, self._drawn = torch.empty(0), -1

    def start(self) -> Tensor:
        """The first point of each sample, ``[n, …]``."""
        origin = self._origin
        if self._norm == "linf":
            stripes = _signs(self._rng.uniform(self._ids, origin[:, :, :1], "square-start"))
            return self._within(origin + times(self._eps, stripes.expand_as(origin)), origin, self._eps)
        return self._within(origin + self._sized(self._grid(), self._eps), origin, self._eps)

    def tried(self, best: Tensor, rows: Tensor, step: int) -> Tensor:
        """The next point of some samples, ``[m, …]``, from the best of all, ``[n, …]``."""
        at = rows.to(best.device)
        origin, here = self._origin[at], _as_images(best)[at]
        eps = self._eps[at] if isinstance(self._eps, Tensor) else self._eps
        numbers = self._random(step)[at]
        if self._norm == "linf":
            window = self._window(step, numbers[:, :2], least=1)
            signs = _signs(numbers[:, 2:]).view(-1, self._channels, 1, 1)
            return self._within(here + times(2 * eps, window.mask(here) * signs), origin, eps)
        return self._within(origin + self._sized(self._moved(here - origin, eps, step, numbers), eps), origin, eps)

    def _random(self, step: int) -> Float[Tensor, "n numbers"]:
        """The numbers in [−1, 1) of a step: those of several are drawn at once, which takes a stream a sample."""
        part, place = divmod(step, DRAWN_AT_ONCE)
        if part != self._drawn:
            wanted = self._channels + (2 if self._norm == "linf" else 5)
            like = self._origin.new_empty(len(self._ids), DRAWN_AT_ONCE, wanted)
            self._numbers, self._drawn = self._rng.uniform(self._ids, like, f"square-{part}"), part
        return self._numbers[:, place]

    def _window(self, step: int, numbers: Tensor, *, least: int, odd: bool = False) -> _Window:
        """A square of the step's size, cut to the image where that is narrower, at a random place."""
        side = max(round(math.sqrt(_share(step, self._steps) * self._height * self._width)), least)
        side += odd and side % 2 == 0
        height, width = min(side, self._height), min(side, self._width)
        if height < side:  # of images that are lower than wide, and of vectors: as many pixels, if there are
            width = min(max(round(side * side / height), 1), self._width)
        elif width < side:
            height = min(max(round(side * side / width), 1), self._height)
        top = ((numbers[:, 0] + 1) / 2 * (self._height - height + 1)).long().clamp(max=self._height - height)
        left = ((numbers[:, 1] + 1) / 2 * (self._width - width + 1)).long().clamp(max=self._width - width)
        return _Window(height, width, top, left)

    def _grid(self) -> Images:
        """Of an l2 search the first perturbation, in no particular size: five bumps along the shorter side."""
        like = self._origin
        side = max(min(self._height, self._width) // 5, 1)
        down, across = max(self._height // side, 1), max(self._width // side, 1)
        drawn = self._rng.uniform(
            self._ids, like.new_empty(len(like), self._channels + 1, down, across), "square-start"
        )
        top, left = (self._height - side * down) // 2, (self._width - side * across) // 2
        plain, turned = (_pair(side, side, like, turned=t).repeat(down, across) for t in (False, True))
        where = (drawn[:, -1:] > 0).repeat_interleave(side, 2).repeat_interleave(side, 3)
        signs = _signs(drawn[:, :-1]).repeat_interleave(side, 2).repeat_interleave(side, 3)
        delta = torch.zeros_like(like)
        delta[:, :, top : top + side * down, left : left + side * across] = torch.where(where, turned, plain) * signs
        return delta

    def _moved(self, delta: Images, eps: Radius, step: int, numbers: Tensor) -> Images:
        """A perturbation after one step in l2 (algorithm 3 of the paper, by the authors' code)."""
        into = self._window(step, numbers[:, :2], least=3, odd=True)
        out_of = self._window(step, numbers[:, 2:4], least=3, odd=True)
        signs = _signs(numbers[:, 5:]).view(-1, self._channels, 1)
        plain, turned = (_pair(into.height, into.width, delta, turned=t) for t in (False, True))
        pair = torch.where((numbers[:, 4] > 0).view(-1, 1, 1, 1), turned, plain)
        place = into.places(delta).expand(-1, self._channels, -1)
        held = delta.flatten(2).gather(2, place)
        new = pair.flatten(2) * signs + _unit(held)
        # What the two windows hold, and what the ball has left, is the size of the new bump.
        spare = (column(_squared(eps, delta), delta) - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
        either = into.mask(delta) | out_of.mask(delta)
        size = (spare / self._channels + (delta * either).square().sum((1, 2, 3), keepdim=True)).sqrt()
        emptied = torch.where(out_of.mask(delta), 0, delta)
        return emptied.flatten(2).scatter(2, place, _unit(new) * size.flatten(1).unsqueeze(2)).view_as(delta)

    def _sized(self, delta: Images, eps: Radius) -> Images:
        """A perturbation at the length of the radius."""
        return times(eps, ball(self._norm).steepest(delta))

    def _within(self, x: Images, origin: Images, eps: Radius) -> Tensor:
        return ball(self._norm).project(x, origin, eps, self._bounds).reshape(-1, *self._shape[1:])


def _share(step: int, steps: int) -> float:
    """Of an image's pixels, those that a step's square covers."""
    part = int(step / steps * 10_000)
    return SHARE / 2 ** sum(part > halving for halving in HALVINGS)


def _as_images(x: Tensor) -> Images:
    """Inputs as images: sequences ``[n, c, l]`` and vectors ``[n, d]`` are one row high; further axes are joined."""
    if x.dim() == 2:
        return x[:, None, None]
    if x.dim() == 3:
        return x[:, :, None]
    return x.flatten(2, -2)


def _signs(numbers: Tensor) -> Tensor:
    return torch.where(numbers < 0, -1.0, 1.0).to(numbers.dtype)


def _squared(eps: Radius, like: Tensor) -> Float[Tensor, " n"]:
    return (eps * torch.ones_like(like.flatten(1)[:, 0])).square()


def _unit(parts: Float[Tensor, "n c p"]) -> Float[Tensor, "n c p"]:
    """Each channel at length 1; 0 where it is 0."""
    return parts / parts.norm(dim=2, keepdim=True).clamp(min=1e-12)


def _bump(height: int, width: int, like: Tensor) -> Float[Tensor, "height width"]:
    """Concentric rectangles, the k-th of height 1/k² upon the others, from the outermost in."""
    rows = (torch.arange(height, device=like.device) - height // 2).abs()
    columns = (torch.arange(width, device=like.device) - width // 2).abs()
    from_centre = torch.maximum(rows.unsqueeze(1), columns)
    count = max(height // 2, width // 2) + 1
    heights = 1 / torch.arange(1, count + 1, device=like.device, dtype=like.dtype).square()
    return heights.flip(0).cumsum(0).flip(0)[from_centre]


def _pair(height: int, width: int, like: Tensor, *, turned: bool) -> Float[Tensor, "height width"]:
    """Two opposite bumps, one above the other or, ``turned``, side by side, together of length 1."""
    if turned and height == width:
        return _pair(height, width, like, turned=False).T
    if (turned and width > 1) or height == 1:
        halves = [_unit_of(_bump(height, part, like)) for part in (width // 2, width - width // 2) if part]
        pair = halves[0] if len(halves) == 1 else torch.cat([halves[0], -halves[1]], 1)
    else:
        halves = [_unit_of(_bump(part, width, like)) for part in (height // 2, height - height // 2) if part]
        pair = halves[0] if len(halves) == 1 else torch.cat([halves[0], -halves[1]], 0)
    return _unit_of(pair)


def _unit_of(part: Tensor) -> Tensor:
    return part / part.norm().clamp(min=1e-12)
