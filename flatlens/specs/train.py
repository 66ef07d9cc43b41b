"""`TrainSpec`: how a model is trained, as frozen plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from flatlens.errors import SpecError, unknown
from flatlens.specs import defences
from flatlens.specs.defences import AXES, chosen
from flatlens.specs.values import DEFAULT_LINF_EPS, flag, typed

NORMS = ("linf", "l2")
"""Of the attacks that are trained against."""
KEEP = ("last", "best")
"""Which epoch's weights a training ends with."""


@dataclass(frozen=True)
class TrainSpec:
    """How a model is trained: the table ``[train]`` of a run, and the flags of ``flatlens train``.

    Attributes:
        data: the training data; the run's own when left out (its training split, where the data have splits).
        epochs: passes over the data.
        lr: the first learning rate of AdamW; it falls to zero along a cosine.
        batch_size: samples per step.
        weight_decay: decoupled, on all parameters.
        adversarial: the attack that makes the inputs trained on, one of `flatlens.specs.defences.ADVERSARIAL` with its
            options, such as ``fgsm?start=clean``; ``none``, as TOML has no null, is none.
        eps: radius of that attack; also of the attacks that robustness is measured with.
        steps: gradient steps of the training's attack.
        limit: at most so many samples, all classes alike.
        seed: of the order of the samples and the attack's starts.
        loss: one of `flatlens.specs.defences.LOSSES`; ``adversarial`` where there is an attack.
        perturb_weights: one of `flatlens.specs.defences.WEIGHTS`, or none.
        penalty: some of `flatlens.specs.defences.PENALTIES`, joined by ``+``, or none.
        norm: in which eps is measured, ``linf`` (the default) or ``l2``.
        eps_warmup: epochs in which eps rises from 0 in equal steps; 0 unless given.
        keep: ``last``, or ``best`` for the epoch that is best on samples held out of the training data.
        condition: also the condition number of a linear probe on the head's features at each epoch, with this ridge (0
            for none); it changes no weight.
        defence: a recipe, one of `flatlens.specs.defences.RECIPES`; it is resolved into the axes and then None.

    Raises:
        SpecError: a value that cannot be, or values that contradict each other.
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
    loss: str | None = None
    perturb_weights: str | None = None
    penalty: str | None = None
    norm: str | None = None
    eps_warmup: int | None = None
    keep: str | None = None
    defence: str | None = None
    condition: float | None = None

    def __post_init__(self) -> None:
        # One way to write each training: what came later is None at its default, so that older hashes stay.
        named = {axis: getattr(self, axis) for axis in ("defence", *AXES)}
        named = {axis: None if value is None else typed(axis, value, str, str) for axis, value in named.items()}
        plain = defences.resolved(named.pop("defence"), named)
        for key, values, default in (("norm", NORMS, "linf"), ("keep", KEEP, "last")):
            if (value := getattr(self, key)) is not None and value not in values:
                raise SpecError(unknown(key, value, values, where="there are"))
            plain[key] = None if value == default else value
        for key, value in (plain | {"defence": None}).items():
            object.__setattr__(self, key, value)
        if self.eps_warmup == 0:
            object.__setattr__(self, "eps_warmup", None)
        for key in ("epochs", "batch_size", "steps", "limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise SpecError(f"{flag(key)} {value}: needs a whole number of at least 1")
        for key in ("lr", "eps"):
            if not (getattr(self, key) > 0 and math.isfinite(getattr(self, key))):
                raise SpecError(f"{flag(key)} {getattr(self, key):g}: needs a number above 0, for example 0.01")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise SpecError(f"--weight-decay {self.weight_decay:g}: needs a number of at least 0, for example 0.05")
        if self.condition is not None and not 0 <= self.condition < math.inf:
            raise SpecError(f"--condition {self.condition:g}: needs a ridge of at least 0, for example 0.01")
        if self.seed < 0:
            raise SpecError(f"--seed {self.seed}: needs a whole number of at least 0")
        self._check_warmups()

    def _check_warmups(self) -> None:
        if self.eps_warmup is not None and not 0 < self.eps_warmup < self.epochs:
            raise SpecError(
                f"--eps-warmup {self.eps_warmup}: needs a whole number of epochs from 0 to {self.epochs - 1}"
            )
        for weights in chosen("perturb_weights", self.perturb_weights):
            if weights.options.get("warmup", 0) >= self.epochs:
                raise SpecError(
                    f"warmup={weights.options['warmup']} in '{self.perturb_weights}': needs a number of epochs below "
                    f"the {self.epochs} of the training"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is None."""
        return {key: value for key, value in asdict(self).items() if value is not None}
