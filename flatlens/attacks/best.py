"""The best point so far, of attacks whose result is not their last iterate."""

from __future__ import annotations

import torch
from torch import Tensor

from flatlens.attacks.balls import column


class Best:
    """Keeps for each sample the point with the highest score; one that fools the model beats any that does not."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.detach().clone()
        self.score = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def see(self, x: Tensor, score: Tensor, fooled: Tensor) -> None:
        """Look at one point of each sample: ``x`` ``[n, …]``, ``score`` and ``fooled`` ``[n]``."""
        better = (fooled & ~self.fooled) | ((fooled == self.fooled) & (score.detach() > self.score))
        self.x = torch.where(column(better, x), x.detach(), self.x)
        self.score = torch.where(better, score.detach(), self.score)
        self.fooled |= fooled
