"""The rows of a wide head's weight, read in blocks: float64 sums without a float64 copy of the weight."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from flatlens.hessian.softmax import Others
from flatlens.victims.precision import wide, wide_device

ENTRIES = 2**18
"""Numbers of the weight widened at once: 2 MB, which stay in the cache until they are used."""
CLOSE = 1e-4
"""A variance below this part of the mean ‖w‖² is summed anew from differences: the quick form loses 4 digits there."""


class Blocks:
    """A weight ``[K, I]``, kept in its own dtype and widened block by block.

    Args:
        weight: of any floating dtype; referred to, not copied.
        bias: of the layer, ``[K]``.
        block: rows widened at once; as many as fit in the cache when left out.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, block: int | None = None) -> None:
        self.weight: Tensor = weight.detach()
        self.bias: Tensor | None = None if bias is None else wide(bias.detach())
        self._block = block or max(1, ENTRIES // self.weight.shape[1])
        self.norms_sq: Tensor = torch.cat([rows.square().sum(1) for _, rows in self._rows()])

    def logits(self, a: Float[Tensor, "n i"]) -> Float[Tensor, "n k"]:
        """W·a + b at float64 inputs ``a``."""
        # Few inputs: the product with the weight on the left is the faster one, and its result is turned.
        out, columns = a.new_empty(len(a), len(self.weight)), a.T.contiguous()
        for place, rows in self._rows():
            out[:, place] = (rows @ columns).T
        return out if self.bias is None else out.add_(self.bias)

    def variance_over_rest(self, seen: Others) -> Float[Tensor, " n"]:
        """Σ_k p_k ‖w_k − w̄‖² / r, with r = 1 − p_top: defined, and right, where p_top is 1 to rounding.

        With v_k = w_k − w_top it is E_q ‖v‖² − r ‖E_q v‖². The sums are taken over w first, which needs one product
        with the weight for all inputs; where that cancels, over v, input by input.
        """
        mean = seen.q.new_zeros(len(seen.q), self.weight.shape[1])
        for place, rows in self._rows():
            mean.addmm_(seen.q[:, place], rows)
        top = wide(self.weight[seen.top])
        size = seen.q @ self.norms_sq + self.norms_sq[seen.top]
        far = size - 2 * (top * mean).sum(1)
        out = far - seen.rest * (mean - top).square().sum(1)
        for i in (out < CLOSE * size).nonzero().flatten().tolist():
            out[i] = self._from_differences(seen.q[i], top[i], seen.rest[i])
        return out

    def _from_differences(self, q: Float[Tensor, " k"], top: Float[Tensor, " i"], rest: Tensor) -> Tensor:
        far, mean = q.new_zeros(()), torch.zeros_like(top)
        for place, rows in self._rows():
            v = rows - top
            far += q[place] @ v.square().sum(1)
            mean += q[place] @ v
        return far - rest * mean.square().sum()

    def _rows(self) -> Iterator[tuple[slice, Float[Tensor, "b i"]]]:
        """The rows, float64, with their places; each block is overwritten by the next."""
        narrow = self.weight.dtype != torch.float64
        device = wide_device(self.weight.device)
        shape = (min(self._block, len(self.weight)), self.weight.shape[1])
        # One buffer for all blocks: fresh memory costs more than the arithmetic.
        held = torch.empty(shape if narrow else 0, dtype=torch.float64, device=device)
        for begin in range(0, len(self.weight), self._block):
            rows = self.weight[begin : begin + self._block]
            yield slice(begin, begin + len(rows)), held[: len(rows)].copy_(rows) if narrow else rows
