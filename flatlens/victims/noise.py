"""Randomness as an argument: noise that belongs to a sample, whatever batch or device it is computed on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def stream(*key: int | str) -> torch.Generator:
    """The stream of random numbers that belongs to a key of whole numbers and names, on the CPU."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@dataclass(frozen=True)
class Noise:
    """Draws one stream for each (seed, sample id, restart, purpose), on the CPU, so that devices and batches agree."""

    seed: int
    restart: int = 0

    def generator(self, sample: int, purpose: str) -> torch.Generator:
        """The stream of one sample for one purpose."""
        return stream(self.seed, sample, self.restart, purpose)

    def normal(self, ids: Tensor, like: Tensor, purpose: str) -> Tensor:
        """Standard normal noise of the shape of ``like`` ``[n, …]``, a stream per sample."""
        return self._stack(torch.randn, ids, like, purpose)

    def uniform(self, ids: Tensor, like: Tensor, purpose: str) -> Tensor:
        """Uniform noise in [−1, 1) of the shape of ``like`` ``[n, …]``, a stream per sample."""
        return 2 * self._stack(torch.rand, ids, like, purpose) - 1

    def integer(self, sample: int, high: int, purpose: str) -> int:
        """A whole number in [0, high) for one sample."""
        return int(torch.randint(high, (1,), generator=self.generator(sample, purpose)))

    def _stack(self, draw: object, ids: Tensor, like: Tensor, purpose: str) -> Tensor:
        # float64 and then rounded: a float32 run sees the float64 run's noise.
        rows = [
            draw(like.shape[1:], generator=self.generator(i, purpose), dtype=torch.float64)  # type: ignore[operator]
            for i in ids.tolist()
        ]
        return torch.stack(rows).to(like.device, like.dtype)
