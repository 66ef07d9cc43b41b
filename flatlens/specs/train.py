"""`TrainSpec`: how a model is trained, as frozen plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from flatlens.errors import SpecError, unknown
from flatlens.specs.values import DEFAULT_LINF_EPS, flag

ADVERSARIAL = ("pgd",)
"""Ways of adversarial training."""


@dataclass(frozen=True)
class TrainSpec:
    """How a model is trained: the table ``[train]`` of a run, and the flags of ``flatlens train``.

    Attributes:
        data: the training data; the run's own when left out (its training split, where the data have splits).
        epochs: passes over the data.
        lr: the first learning rate of AdamW; it falls to zero along a cosine.
        batch_size: samples per step.
        weight_decay: decoupled, on all parameters.
        adversarial: ``pgd`` trains on attacked inputs instead of clean ones; ``none``, as TOML has no null, does not.
        eps: radius of that attack in linf; also of the attack that the robust accuracy is measured with.
        steps: gradient steps of the training's attack.
        limit: at most so many samples, all classes alike.
        seed: of the order of the samples and the attack's starts.
    """

    data: str | None = None
    epochs: int = 30
    lr: float = 3e-3
    batch_size: int = 64
    weight_decay: float = 0.0
    adversarial: str | None = None
    eps: float = DEFAULT_LINF_EPS
    steps: int = 7
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.adversarial is not None and self.adversarial not in ADVERSARIAL:
            raise SpecError(unknown("adversarial training", self.adversarial, ADVERSARIAL, where="there are"))
        for key in ("epochs", "batch_size", "steps", "limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise SpecError(f"{flag(key)} {value}: needs a whole number of at least 1")
        for key in ("lr", "eps"):
            if not (getattr(self, key) > 0 and math.isfinite(getattr(self, key))):
                raise SpecError(f"{flag(key)} {getattr(self, key):g}: needs a number above 0, for example 0.01")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise SpecError(f"--weight-decay {self.weight_decay:g}: needs a number of at least 0, for example 0.05")
        if self.seed < 0:
            raise SpecError(f"--seed {self.seed}: needs a whole number of at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is None."""
        return {key: value for key, value in asdict(self).items() if value is not None}
