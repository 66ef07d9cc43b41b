"""`Simplex`: each place of the slot mixes tokens; the mixture follows the gradient, and is rounded to text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flatlens.attacks.language import counted, log_likelihood
from flatlens.errors import AttackError
from flatlens.records.schema import DISCRETE
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass

if TYPE_CHECKING:
    from flatlens.victims.tokens import TokenVictim

NEAREST = 8
"""Tokens of each place that are tried, from the heaviest on, where the heaviest of all do not retokenise together."""

EVEN = 1e-6
"""Distance from the even mixture below which a place is one."""


@dataclass(frozen=True)
class Simplex:
    """Projected gradient descent on relaxed one-hot tokens (Geisler et al. 2024, arXiv 2402.09154).

    A place of the slot is a weight for each token, at least 0 and 1 in all; its embedding is the weighted mean of rows.
    After each step of gradient the weights are projected onto these, and then sharpened: made so unequal that their
    squares add up to a demanded sum. Each step has two rows: the relaxed slot (kind ``iterate``), and the text that it
    is rounded to (kind ``discrete``), which is what the attack has found; the next step is taken from the relaxed one.

    Args:
        steps: of the path, ≥ 1.
        step_size: by how much at each place, before projection, the weight changes whose gradient is largest.
        sharpen: how unequal a place's weights must be: 0 asks for nothing, towards 1 only single tokens remain. Of k
            weights above 0 the distance from the even mixture is at least ``sqrt(sharpen (1 − 1/k))``.
    """

    steps: int = 100
    step_size: float = 0.4
    sharpen: float = 0.4

    norm = None
    discrete = False

    def __post_init__(self) -> None:
        counted("steps", self.steps)
        if not 0 < self.step_size < float("inf"):
            raise AttackError(f"step_size = {self.step_size}: needs a number above 0, in weights of tokens")
        if not 0 <= self.sharpen < 1:
            raise AttackError(f"sharpen = {self.sharpen}: needs a number from 0 to below 1")

    @property
    def length(self) -> int:
        """Iterates that are yielded after the start; beside each its text."""
        return self.steps

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the start, then each iterate; after each of them the text that it is rounded to."""
        if batch.tokens is None:
            raise AttackError("this attack is of language models; give it to fl.trace_text")
        first, weights = (0, victim.one_hot(batch.tokens)) if batch.reached is None else batch.reached
        for step in range(first, self.steps + 1):
            # At the start the slot is text.
            here = victim.mixed(weights, batch.y, tokens=batch.tokens if step == 0 else None, final=step == self.steps)
            yield here
            text = victim(rounded(victim, weights), batch.y, final=True) if step else _start(victim, batch)
            if step < self.steps:
                weights = self.after(weights, victim.by_token(here.grad(log_likelihood)), victim.writable)
            text.kind = DISCRETE
            yield text

    def after(
        self, weights: Float[Tensor, "n s v"], gradient: Float[Tensor, "n s v"], writable: Bool[Tensor, " v"]
    ) -> Float[Tensor, "n s v"]:
        """The weights one step further.

        Of each place the gradient's mean over the tokens is taken off, which changes no weight, and it is measured by
        its largest entry: with one measure for all places a single one of them would move.
        """
        own, up = weights[..., writable], gradient[..., writable].to(weights.dtype)
        up = up - up.mean(-1, keepdim=True)
        most = up.abs().amax(-1, keepdim=True)
        moved = own + self.step_size * torch.where(most > 0, up / most, 0.0)
        found = torch.zeros_like(weights)
        found[..., writable] = sharpened(onto_simplex(moved), self.sharpen)
        return found


def onto_simplex(points: Float[Tensor, "*b v"]) -> Float[Tensor, "*b v"]:
    """The nearest point, in l2, whose entries are at least 0 and add up to 1 (Michelot 1986).

    max(x − τ, 0) with the τ at which it adds up to 1: the mean of what is above τ, less its share of 1. From below, τ
    grows until the same entries are above it; no sorting is needed. In float64, so that the sum holds.
    """
    x = points.double()
    threshold = (x.sum(-1, keepdim=True) - 1) / x.shape[-1]
    while True:
        above = x > threshold
        count = above.sum(-1, keepdim=True)
        # Where rounding has put it above all of them, the largest stay.
        higher = (torch.where(above, x, 0.0).sum(-1, keepdim=True) - 1) / count.clamp(min=1)
        higher = torch.where(count > 0, higher, threshold)
        # NaN is above nothing, and ends the loop too.
        if not bool((higher > threshold).any()):
            return (x - threshold).clamp(min=0).to(points.dtype)
        threshold = torch.maximum(threshold, higher)


def sharpened(points: Float[Tensor, "*b v"], sharpen: float) -> Float[Tensor, "*b v"]:
    """Points of the simplex with each row so unequal as is asked for (the entropy projection of Geisler et al.).

    A row of k entries above 0 that is nearer to their even mixture than ``sqrt(sharpen (1 − 1/k))`` is moved away from
    it to that distance, and projected onto the simplex again; the entropy is Tsallis', q = 2, which is Gini's index.
    """
    x = points.double()
    there = (x > 0).double()
    # A row of NaN has none above 0, and stays NaN.
    count = there.sum(-1, keepdim=True).clamp(min=1)
    away = x - there / count
    distance, least = away.norm(dim=-1, keepdim=True), torch.sqrt(sharpen * (1 - 1 / count))
    # The even mixture itself has no direction but that of its rounding; it stays.
    near = (distance < least) & (distance > EVEN)
    if not bool(near.any()):
        return points
    out = onto_simplex(torch.where(near, there / count + away * (least / distance), x))
    return torch.where(near, out, x).to(points.dtype)


def rounded(victim: TokenVictim, weights: Float[Tensor, "1 s v"]) -> Int[Tensor, "1 s"]:
    """The slot of the heaviest tokens, where its text gives it back; else a near one that does.

    That one is found from the start, whose text does: place by place, the most decided first, the heaviest token of
    `NEAREST` is written with which the whole still retokenises; and once more, for neighbours have changed meanwhile.
    """
    allowed = torch.where(victim.writable, weights[0], -1.0)
    # A stable order: of equal weights the lowest id.
    heavy = allowed.topk(min(NEAREST, int(victim.writable.sum())), dim=1)
    best = allowed.argmax(1).unsqueeze(0)
    exact = victim.encoding.exact
    if bool(exact(best)[0]):
        return best
    slot, order = victim.start(), heavy.values[:, 0].argsort(descending=True, stable=True).tolist()
    for _ in range(2):
        for place in order:
            tried = slot.repeat(heavy.indices.shape[1], 1)
            tried[:, place] = heavy.indices[place]
            fitting = exact(tried).nonzero().flatten()
            if len(fitting):
                slot = tried[int(fitting[0])].unsqueeze(0)
    return slot


def _start(victim: TokenVictim, batch: Batch) -> Pass:
    assert batch.tokens is not None
    return victim(batch.tokens, batch.y, final=True)
