"""`ImmunizeSpec`: how a model is immunized before it is attacked, as frozen plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from flatlens.errors import SpecError, unknown

CEILING, NONE = "ceiling", "none"
METHODS: dict[str, str] = {
    CEILING: "closed form: the largest ratio that any linear extractor reaches",
    "alg1": "Algorithm 1 of the paper: R_well of the primary and R_ill of the harmful task",
    "r-ill": "R_ill alone, a baseline: both tasks become ill conditioned",
    "opt-kappa": "the two condition numbers themselves, a baseline",
    "imma": "IMMA, a baseline: the loss that a few steps of fine-tuning leave; needs targets",
}
"""Method -> one line about it."""
MOST_CLASS = 1_000_000


@dataclass(frozen=True)
class ImmunizeSpec:
    """How a model is immunized: the table ``[immunize]`` of a run, and the flags of ``flatlens immunize``.

    A run takes the model with θ appended. In a table the method ``none`` stands for no immunization at all.

    Attributes:
        primary: data of the useful task; the run's own when left out.
        harmful: data of the harmful task; the run's own when left out.
        primary_classes: only these classes of the useful data, as ``0-4`` or ``5,7-9``; all when left out.
        harmful_classes: only these classes of the harmful data.
        layer: the Linear layer that θ is appended before.
        method: one of `METHODS`.
        ridge: ρ; ρ·trace/d is added to both Hessians.
        delta: of ``alg1``.
        balance: of ``ceiling``.
        target: the RIR at which to stop.
        max_cond: the largest condition number of θ.
        steps: tried at most.
        holdout: the share of each task's samples that θ does not see.
        limit: at most so many samples of each task, all classes alike.
        seed: of the choice of the samples held out.

    Raises:
        SpecError: a value that cannot be.
    """

    primary: str | None = None
    harmful: str | None = None
    primary_classes: str | None = None
    harmful_classes: str | None = None
    layer: str = "head"
    method: str = CEILING
    ridge: float = 0.01
    delta: float = 0.3
    balance: float = 0.5
    target: float | None = None
    max_cond: float = 1e6
    steps: int = 100
    holdout: float = 0.3
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SpecError(unknown("method", str(self.method), [*METHODS, NONE], where="there are"))
        within("ridge", self.ridge, 0, math.inf, "of at least 0, for example 0.01")
        check(self.delta, self.balance, self.target, self.max_cond, self.steps, self.holdout, self.seed)
        if self.limit is not None and self.limit < 1:
            raise SpecError(f"--limit {self.limit}: needs a whole number of at least 1")
        for name in ("primary", "harmful"):
            classes(name, getattr(self, f"{name}_classes"))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without what is None."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def check(delta: Any, balance: Any, target: Any, max_cond: Any, steps: Any, holdout: Any, seed: Any) -> tuple[
    float, float, float | None, float, int, float, int
]:  # fmt: skip
    """The numbers of an immunization, each in its range.

    Raises:
        SpecError: a value that cannot be.
    """
    return (
        within("delta", delta, 0, 1, "from 0 up to 1, such as 0.3"),
        within("balance", balance, 0, 1 + 1e-12, "from 0 to 1, such as 0.5"),
        None if target is None else within("target", target, 1, math.inf, "of at least 1: the RIR to stop at"),
        within("max-cond", max_cond, 1, math.inf, "of at least 1, such as 1e6"),
        int(within("steps", steps, 1, 1e9, "that is whole, at least 1", whole=True)),
        within("holdout", holdout, 0, 1, "from 0 up to 1: the share held out"),
        int(within("seed", seed, 0, 2**63, "that is whole, at least 0", whole=True)),
    )


def within(name: str, value: Any, low: float, high: float, needs: str, *, whole: bool = False) -> float:
    """A number from ``low`` to below ``high``.

    Raises:
        SpecError: it is none.
    """
    try:
        found = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = math.nan
    if not low <= found < high or (whole and found != int(found)):
        raise SpecError(f"--{name} {value}: needs a number {needs}")
    return found


def classes(name: str, text: str | None) -> tuple[int, ...]:
    """``0-4`` or ``5,7-9`` as numbers, ascending; none of None.

    Raises:
        SpecError: it is no such text; ``name``, primary or harmful, is told.
    """
    found: set[int] = set()
    for part in [] if text is None else text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or len(low + high) > 12:
            raise SpecError(f"--{name}-classes '{text}': needs numbers such as 0-4 or 5,7,9")
        if int(high or low) - int(low) > MOST_CLASS:
            raise SpecError(f"--{name}-classes '{text}': names more than a million classes")
        found |= set(range(int(low), int(high or low) + 1))
    return tuple(sorted(found))
