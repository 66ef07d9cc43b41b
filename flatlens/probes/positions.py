"""A language model at the target's positions: its answer, and its head's curvature, the mean and each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from flatlens.hessian.positions import HeadAtPositions
from flatlens.hessian.softmax import softmax
from flatlens.probes import ONE_ROW, Columns, Path
from flatlens.probes.flatness import columns
from flatlens.victims.layers import HEAD
from flatlens.victims.precision import wide
from flatlens.victims.protocol import Pass
from flatlens.victims.tokens import TokenVictim

EVERYWHERE = "head, all positions"
"""What the averaging of the paper's own code is called in ``layers``: over all positions, the prompt's included."""
_NAMES = (
    "nll", "rank_of_target", "greedy", "margin", "confidence_term", "feature_norm_sq", "weight_variance", "trace",
    "relative_flatness", "top_eigenvalue",
)  # fmt: skip


class MeanFlatness:
    """The curvature of the mean loss by the head's weight, one row a pass.

    Args:
        head: measures it.
        everywhere: where given, the victim whose positions are all averaged too, as in the paper's own code.
    """

    table: str = "layers"
    late: bool = False

    def __init__(self, head: HeadAtPositions, everywhere: TokenVictim | None = None) -> None:
        self._head, self._everywhere = head, everywhere
        self.found: Any = None

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """The columns of the head, ``[n]`` float64 each."""
        self.found = self._head(here.taps[HEAD].value, here.y, logits=here.logits.detach())
        rows: dict[str, Columns] = {HEAD: columns(self.found.mean)}
        if self._everywhere is not None and here.x.shape[1] == len(self._everywhere.encoding.slot):
            rows[EVERYWHERE] = _all_positions(self._everywhere, here)
        return rows


class Answer:
    """What greedy decoding gives; it goes after `MeanFlatness`, which has looked at each position.

    Args:
        means: has looked at the pass already.
    """

    table: str = "steps"
    late: bool = False

    def __init__(self, means: MeanFlatness) -> None:
        self._means = means

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """What greedy decoding gives, ``[n]`` each, float64.

        Returns:
            ``flipped``, whether it is the whole target; ``matched``, how many of its tokens; ``loss``, the mean
            negative log-likelihood of the target's tokens in nats; ``confidence`` and ``entropy`` (nats), means over
            the target's positions; ``margin`` and ``gap`` (logits), the least of them.
        """
        found = self._means.found
        right = found.greedy == here.y.to(found.greedy.device)
        means = {"loss": found.nll.mean(1), "confidence": found.confidence.mean(1), "entropy": found.entropy.mean(1)}
        least = {"margin": found.margin.amin(1), "gap": found.gap.amin(1)}
        return {ONE_ROW: {"flipped": right.all(1), "matched": right.sum(1), **means, **least}}


class EachPosition:
    """The same at each of the target's positions, a row each; it goes after `MeanFlatness`, which has computed it.

    Args:
        means: has looked at the pass already.
    """

    table: str = "positions"
    late: bool = False

    def __init__(self, means: MeanFlatness) -> None:
        self._means = means

    def __call__(self, here: Pass, path: Path) -> Mapping[str, Columns]:
        """The columns of each position, ``[n]`` each."""
        found = self._means.found
        return {
            str(t): {
                "token": here.y[:, t],
                **{name: getattr(found, name)[:, t] for name in _NAMES},
            }
            for t in range(here.y.shape[1])
        }


def _all_positions(victim: TokenVictim, here: Pass) -> Columns:
    """‖a‖² Σ p (1 − p), averaged over every position of prompt, slot and target: the quantity of the paper's code."""
    features = victim.everywhere(here.x.detach())[0]
    norms, terms = [], []
    for part in features.split(16):
        with torch.no_grad():
            logits = wide(victim.parts.head(part))
        norms.append(wide(part).square().sum(1))
        terms.append(softmax(logits).confidence_term)
    norm, term = torch.cat(norms), torch.cat(terms)
    mean = {"trace": norm * term, "feature_norm_sq": norm, "confidence_term": term}
    one = {name: values.mean().unsqueeze(0) for name, values in mean.items()}
    blank = torch.full_like(one["trace"], torch.nan)
    return {
        "method": "as in the paper's code",
        "exact": True,
        **one,
        "ggn_trace": one["trace"],
        "relative_flatness": one["trace"],
        "top_eigenvalue": blank,
    }
