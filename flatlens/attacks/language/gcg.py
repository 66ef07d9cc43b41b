"""Attacks that swap tokens of the slot: GCG, and what is left of it without its gradient, or without its choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from flatlens.attacks.language import begin, counted, log_likelihood
from flatlens.errors import AttackError
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass

if TYPE_CHECKING:
    from flatlens.victims.tokens import TokenVictim


@dataclass(frozen=True)
class GCG:
    """Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043).

    At each step the gradient by the slot's embeddings ranks all tokens at each of its places; of the ``topk`` best of
    each place ``candidates`` swaps are drawn, each is evaluated, and the best is the next iterate, even where it is
    worse than this one. A candidate counts only where the whole prompt's text gives its tokens back.

    Args:
        steps: of the path, ≥ 1.
        candidates: swaps that are drawn at each step.
        topk: best tokens of each place that they are drawn from.
        swaps: tokens that each candidate changes.
    """

    steps: int = 100
    candidates: int = 512
    topk: int = 256
    swaps: int = 1

    norm = None
    discrete = True

    def __post_init__(self) -> None:
        for name in ("steps", "candidates", "topk", "swaps"):
            counted(name, getattr(self, name))

    @property
    def length(self) -> int:
        """Iterates that are yielded after the start."""
        return self.steps

    def __call__(self, victim: TokenVictim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the start, then each step's best candidate; where none retokenises, the slot stays as it is."""
        first, tokens = begin(batch, tokens=True)
        for step in range(first, self.steps):
            here = victim(tokens, batch.y)
            yield here
            ranks = self._ranks(victim, here, tokens)
            drawn = self._drawn(victim, tokens, ranks, rng.generator(int(batch.ids[0]), f"swaps {step}"))
            tokens = self._chosen(victim, tokens, drawn)
        yield victim(tokens, batch.y, final=True)

    def _ranks(self, victim: TokenVictim, here: Pass, tokens: Int[Tensor, "1 s"]) -> Int[Tensor, "s k"]:
        """For each place the tokens that lower the loss most, to first order; not those there, nor forbidden ones."""
        change = -victim.by_token(here.grad(log_likelihood))[0]
        change[:, ~victim.writable] = torch.inf
        change.scatter_(1, tokens[0].unsqueeze(1), torch.inf)
        most = int(victim.writable.sum()) - 1
        if self.topk > most:
            raise AttackError(
                f"topk = {self.topk}: the tokenizer has {most} tokens that may be written; give at most {most}"
            )
        # A stable order: of equal ones the lowest id.
        return change.topk(self.topk, dim=1, largest=False).indices if most > 4096 else _least(change, self.topk)

    def _drawn(
        self, victim: TokenVictim, tokens: Int[Tensor, "1 s"], ranks: Int[Tensor, "s k"], noise: torch.Generator
    ) -> Int[Tensor, "m s"]:
        return draw(tokens[0], ranks, self.candidates, self.swaps, noise)

    def _chosen(self, victim: TokenVictim, tokens: Int[Tensor, "1 s"], drawn: Int[Tensor, "m s"]) -> Int[Tensor, "1 s"]:
        fitting = drawn[victim.encoding.exact(drawn).to(drawn.device)]
        if not len(fitting):
            return tokens
        losses = victim.losses(fitting)
        # NaN is no best; of equal losses the first.
        best = int(torch.where(losses.isnan(), torch.inf, losses).argmin())
        return fitting[best : best + 1]


@dataclass(frozen=True)
class RandomSwap(GCG):
    """The best of as many swaps to any tokens, drawn without the gradient: what GCG's gradient is worth.

    Args:
        steps: of the path, ≥ 1.
        candidates: swaps that are drawn at each step.
        topk: not used: all tokens may be drawn.
        swaps: tokens that each candidate changes.
    """

    def _ranks(self, victim: TokenVictim, here: Pass, tokens: Int[Tensor, "1 s"]) -> Int[Tensor, "s k"]:
        # The gradient is taken all the same, for the columns beside GCG's.
        here.grad(log_likelihood)
        return victim.writable.nonzero().squeeze(1).expand(tokens.shape[1], -1)


@dataclass(frozen=True)
class RandomWalk(RandomSwap):
    """One random swap after the other, each accepted: where text goes by itself."""

    def _drawn(
        self, victim: TokenVictim, tokens: Int[Tensor, "1 s"], ranks: Int[Tensor, "s k"], noise: torch.Generator
    ) -> Int[Tensor, "m s"]:
        drawn = draw(tokens[0], ranks, min(self.candidates, 16), self.swaps, noise)
        fitting = drawn[victim.encoding.exact(drawn).to(drawn.device)]
        return fitting[:1]

    def _chosen(self, victim: TokenVictim, tokens: Int[Tensor, "1 s"], drawn: Int[Tensor, "m s"]) -> Int[Tensor, "1 s"]:
        return drawn if len(drawn) else tokens


def draw(
    tokens: Int[Tensor, " s"], ranks: Int[Tensor, "s k"], count: int, swaps: int, noise: torch.Generator
) -> Int[Tensor, "m s"]:
    """Candidates that each differ from ``tokens`` at ``swaps`` places, at most.

    Args:
        tokens: the slot's.
        ranks: for each place the tokens that may be put there.
        count: how many candidates; single swaps are all different.
        swaps: places that each changes.
        noise: the stream that they are drawn from, on the CPU.

    Raises:
        AttackError: there are not as many different single swaps, or not as many places.
    """
    length, choices = ranks.shape
    if swaps > length:
        raise AttackError(f"swaps = {swaps}: a slot of {length} tokens has no more to swap; give at most {length}")
    if swaps == 1:
        if count > length * choices:
            raise AttackError(
                f"candidates = {count}: a slot of {length} tokens has {length * choices} single swaps; give fewer"
            )
        picked = _distinct(length * choices, count, noise)
        places, which = (picked // choices).unsqueeze(1), (picked % choices).unsqueeze(1)
    else:
        places = torch.rand(count, length, generator=noise).topk(swaps, dim=1).indices
        which = torch.randint(choices, (count, swaps), generator=noise)
    places, which = places.to(tokens.device), which.to(tokens.device)
    return tokens.repeat(count, 1).scatter(1, places, ranks[places, which])


def _distinct(size: int, count: int, noise: torch.Generator) -> Int[Tensor, " m"]:
    """Different whole numbers below ``size``, without a permutation of all where only a few are asked for."""
    if count * 4 > size:
        return torch.randperm(size, generator=noise)[:count]
    drawn = torch.randint(size, (2 * count,), generator=noise).tolist()
    kept = list(dict.fromkeys(drawn))[:count]
    while len(kept) < count:  # seldom: half of what is drawn would have to be there already
        kept = list(dict.fromkeys([*kept, *torch.randint(size, (count,), generator=noise).tolist()]))[:count]
    return torch.tensor(kept)


def _least(change: Tensor, count: int) -> Int[Tensor, "s k"]:
    return change.sort(dim=1, stable=True).indices[:, :count]
