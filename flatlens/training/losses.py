"""The axis ``loss``: what is minimised, from the logits of clean and of attacked inputs, for each sample.

All is computed from log-probabilities: probabilities underflow, and log(0) or 0 · log(0) is the NaN that the published
codes are known for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flatlens.specs.options import Named

Logits = Float[Tensor, "n k"]
Labels = Int[Tensor, " n"]
Ascends = Callable[[Logits], Float[Tensor, " n"]]
"""What the inner attack climbs: from the logits at its inputs, for each sample."""


class Loss(Protocol):
    """A loss on two passes."""

    @property
    def passes(self) -> int:
        """Passes with gradients of the weights: 1, or 2 where clean inputs are trained on beside the attacked."""

    @property
    def answers(self) -> bool:
        """Whether `ascends` needs the clean logits."""

    def ascends(self, clean: Logits | None, y: Labels) -> Ascends:
        """What the attack climbs, given the model's clean answer."""

    def __call__(self, clean: Logits | None, attacked: Logits, y: Labels) -> Float[Tensor, " n"]:
        """The loss of each sample; ``clean`` is None where `passes` is 1."""


def cross_entropy(logits: Logits, y: Labels) -> Float[Tensor, " n"]:
    """−log p_y for each sample."""
    return F.cross_entropy(logits, y, reduction="none")


def divergence(clean: Logits, attacked: Logits) -> Float[Tensor, " n"]:
    """KL(p(clean) ‖ p(attacked)) for each sample: finite for all finite logits, as its gradient is."""
    return F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


class _ClimbsCrossEntropy:
    answers = False

    def ascends(self, clean: Logits | None, y: Labels) -> Ascends:
        return lambda logits: cross_entropy(logits, y)


@dataclass(frozen=True)
class Adversarial(_ClimbsCrossEntropy):
    """The cross-entropy at the attacked inputs (Madry et al. 2018, arXiv 1706.06083)."""

    passes = 1

    def __call__(self, clean: Logits | None, attacked: Logits, y: Labels) -> Float[Tensor, " n"]:
        """ℓ(x')."""
        return cross_entropy(attacked, y)


@dataclass(frozen=True)
class Mix(_ClimbsCrossEntropy):
    """(ℓ(x) + λ ℓ(x')) / (1 + λ), λ = ``weight`` (Goodfellow et al. 2015, arXiv 1412.6572)."""

    weight: float = 1.0
    passes = 2

    def __call__(self, clean: Logits | None, attacked: Logits, y: Labels) -> Float[Tensor, " n"]:
        """Their weighted mean."""
        assert clean is not None
        return (cross_entropy(clean, y) + self.weight * cross_entropy(attacked, y)) / (1 + self.weight)


@dataclass(frozen=True)
class TRADES:
    """ℓ(x) + β KL(p(x) ‖ p(x')); the attack climbs the divergence (Zhang et al. 2019, arXiv 1901.08573)."""

    beta: float = 6.0
    passes = 2
    answers = True

    def ascends(self, clean: Logits | None, y: Labels) -> Ascends:
        """KL(p(x) ‖ p(x')), p(x) fixed."""
        assert clean is not None
        fixed = clean.detach()
        return lambda logits: divergence(fixed, logits)

    def __call__(self, clean: Logits | None, attacked: Logits, y: Labels) -> Float[Tensor, " n"]:
        """The cross-entropy of the clean answer, and β times how far the attacked one is from it."""
        assert clean is not None
        return cross_entropy(clean, y) + self.beta * divergence(clean, attacked)


@dataclass(frozen=True)
class MART(_ClimbsCrossEntropy):
    """BCE(x') + β KL(p(x) ‖ p(x')) (1 − p_y(x)) (Wang et al. 2020, ICLR, eq. 12).

    BCE = −log p_y(x') − log(1 − max_{k≠y} p_k(x')); the published code adds constants within the logarithms.
    """

    beta: float = 5.0
    passes = 2

    def __call__(self, clean: Logits | None, attacked: Logits, y: Labels) -> Float[Tensor, " n"]:
        """The boosted cross-entropy, and the divergence where the clean answer is unsure."""
        assert clean is not None
        log_p = attacked.log_softmax(1)
        wrong = log_p.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1, keepdim=True)
        # log(1 − p_k) is the logarithm of the sum of the others: exact also where p_k is 1 to the last bit.
        others = log_p.scatter(1, wrong, -torch.inf).logsumexp(1)
        unsure = 1 - clean.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
        return F.nll_loss(log_p, y, reduction="none") - others + self.beta * divergence(clean, attacked) * unsure


def named(chosen: Named) -> Loss:
    """The loss of a name on the axis, with its options."""
    made: dict[str, Callable[..., Loss]] = {"adversarial": Adversarial, "mix": Mix, "trades": TRADES, "mart": MART}
    return made[chosen.name](**chosen.options)
