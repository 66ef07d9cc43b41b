"""What an attack is to the loop: an `Attack` says all that is asked of it; `stated` makes one of anything that walks.

An attack of one's own is a generator ``attack(victim, batch, rng)`` that yields passes; whatever it does not say of
itself is filled in here, once, and nobody else asks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from flatlens.progress import Report
from flatlens.specs.catalogue import ATTACKS, TEXT_ATTACKS
from flatlens.specs.values import plain
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Pass, Victim

EXPECTED_STEPS = 40
"""Steps of an attack that does not say how many it takes: for the bar that shows progress, and for controls."""


@runtime_checkable
class Walks(Protocol):
    """Anything that yields passes: the one at the clean input first, that at the final iterate last."""

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Walk from ``batch.x``."""


@runtime_checkable
class Recorder(Protocol):
    """An attack that does not yield: it is run once on the user's own model and then replayed."""

    def record(self, model: nn.Module, batch: Batch, bounds: tuple[float, float]) -> tuple[Walks, dict[str, int]]:
        """Run it. Returns what replays it, and counts of what a reader must know (code -> samples)."""


@runtime_checkable
class Attack(Protocol):
    """An attack, and all that is asked of it."""

    @property
    def name(self) -> str:
        """As on the command line, where it has a name there."""

    @property
    def length(self) -> int:
        """Iterates of a path, the clean input not counted; `EXPECTED_STEPS` where it does not say."""

    @property
    def says_length(self) -> bool:
        """Whether it says how many steps it takes."""

    @property
    def radius(self) -> float | tuple[float, ...] | None:
        """Eps, in units of the input: one, or one for each sample; None where it has none."""

    @property
    def norm(self) -> str | None:
        """In which perturbations are measured; None where it does not say."""

    @property
    def step_size(self) -> float | None:
        """Of every step, in that norm; None where it has no one size."""

    @property
    def target(self) -> int | str | None:
        """A label, ``next``, ``random`` or ``least-likely``; None where it is not targeted."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Of another library's attack: the library, its version and the settings in effect."""

    def runs(self, classes: int) -> int:
        """How often it is run on each sample."""

    def describe(self) -> dict[str, Any]:
        """Its settings, as a trace tells them."""

    @property
    def learns(self) -> bool:
        """Whether it has to learn something of data before its first path."""

    def fit(
        self, victim: Victim, x: Tensor, y: Tensor, *, seed: int, weights: str | None, progress: Report | None
    ) -> Attack:
        """The same attack, having learnt what it needs to learn of the data ``x`` ``[n, …]``, ``y`` ``[n]``.

        ``weights`` is the SHA-256 of the model's, where what was learnt of it may be kept on the disk.
        """

    def lessons(self, victim: Victim, x: Tensor, y: Tensor, *, seed: int, weights: str | None) -> tuple[int, float]:
        """Passes of a batch, each forward and backward, and seconds, that `fit` would take."""

    def told(self, x: Tensor) -> Mapping[str, Any]:
        """What it says of what it has learnt, and of the samples ``x`` that are attacked, for a manifest."""

    def walker(self, model: nn.Module, batch: Batch, bounds: tuple[float, float]) -> tuple[Walks, Mapping[str, int]]:
        """What walks on one batch, and counts of what a reader must know of it (code -> samples)."""


@dataclasses.dataclass(frozen=True)
class Stated:
    """Somebody's attack as an `Attack`: what it does not say of itself is filled in."""

    own: Any
    name: str
    length: int
    says_length: bool
    radius: float | tuple[float, ...] | None
    norm: str | None
    step_size: float | None
    target: int | str | None
    provenance: Mapping[str, Any]

    def runs(self, classes: int) -> int:
        """How often it is run on each sample: once, if it does not say."""
        counted = getattr(self.own, "runs", None)
        return 1 if counted is None else int(counted(classes))

    def describe(self) -> dict[str, Any]:
        """Its settings: those it tells, or a dataclass's fields."""
        if hasattr(self.own, "describe"):
            said = dict(self.own.describe())
        elif dataclasses.is_dataclass(self.own) and not isinstance(self.own, type):
            said = dataclasses.asdict(self.own)
        else:
            said = {}
        return {key: plain(value) for key, value in said.items()}

    @property
    def learns(self) -> bool:
        """Whether it has something to learn."""
        return hasattr(self.own, "fit")

    def fit(
        self, victim: Victim, x: Tensor, y: Tensor, *, seed: int, weights: str | None, progress: Report | None
    ) -> Attack:
        """What its own ``fit`` returns; itself, where it has nothing to learn."""
        if not self.learns:
            return self
        return stated(self.own.fit(victim, x, y, seed=seed, weights=weights, progress=progress))

    def lessons(self, victim: Victim, x: Tensor, y: Tensor, *, seed: int, weights: str | None) -> tuple[int, float]:
        """What it says that learning takes; nothing, if it does not say."""
        if not hasattr(self.own, "lessons"):
            return 0, 0.0
        passes, seconds = self.own.lessons(victim, x, y, seed=seed, weights=weights)
        return passes, seconds

    def told(self, x: Tensor) -> Mapping[str, Any]:
        """What it says of what it has learnt."""
        return dict(self.own.told(x)) if hasattr(self.own, "told") else {}

    def walker(self, model: nn.Module, batch: Batch, bounds: tuple[float, float]) -> tuple[Walks, Mapping[str, int]]:
        """Itself, or what replays it."""
        return self.own.record(model, batch, bounds) if isinstance(self.own, Recorder) else (self.own, {})


def stated(attack: Any) -> Attack:
    """An `Attack` of anything that walks or records; of one that `stated` has made, itself."""
    if isinstance(attack, Stated):
        return attack

    def said(key: str, default: Any = None) -> Any:
        return plain(getattr(attack, key, default))

    return Stated(
        own=attack,
        name=_name(attack),
        length=int(said("length", EXPECTED_STEPS)),
        says_length=said("steps", said("length")) is not None,
        radius=said("eps"),
        norm=said("norm"),
        step_size=said("step_size"),
        target=said("target"),
        provenance=dict(said("provenance") or {}),
    )


def _name(attack: Any) -> str:
    own = getattr(attack, "name", None)
    if isinstance(own, str):
        return own
    kind = str(getattr(attack, "__name__", type(attack).__name__))
    return {entry.name: key for key, entry in (ATTACKS | TEXT_ATTACKS).items()}.get(kind, kind.lower())
