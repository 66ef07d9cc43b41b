"""What a model made ready is to attacks and probes: a `Victim` makes a `Pass` at a batch of points.

The victim of classifiers of continuous inputs is `flatlens.victims.images.ImageVictim`; another kind of model needs
a class with what `Victim` asks for, whose passes are `Forward` or have what `Pass` asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flatlens.models.guard import Where
from flatlens.records.schema import ITERATE
from flatlens.victims.layers import Layer
from flatlens.victims.taps import Tap


class Batch(NamedTuple):
    """Samples that travel together: ``x`` ``[n, …]``, ``y`` ``[n]``, ``ids`` ``[n]`` (CPU, identify the noise).

    Of a language model ``y`` is ``[n, T]``, the tokens to be predicted. ``target`` ``[n]`` is the label wanted by a
    targeted attack, ``eps`` ``[n]`` each sample's radius where it has one of its own. For controls: ``other``
    ``[n, …]`` is a clean image of another class, ``end`` ``[n, …]`` what the attack has found. Of language models ``x``
    embeds the slot's ``tokens`` ``[n, S]``, and ``reached`` is where a path was broken off that is gone on with.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    target: Tensor | None = None
    other: Tensor | None = None
    eps: Tensor | None = None
    end: Tensor | None = None
    tokens: Tensor | None = None
    reached: Reached | None = None


class Reached(NamedTuple):
    """Step and point at which a path was broken off: ``point`` is tokens, embeddings or weights.

    A path that is gone on with begins there: its first pass is at this point, and of this step. Tokens are ``[n, S]``,
    embeddings ``[n, S, d]``, weights of tokens ``[n, S, V]``.
    """

    step: int
    point: Tensor


class Needs(NamedTuple):
    """What probes need of a victim's passes beyond their numbers.

    Attributes:
        graph: they differentiate a pass: it keeps a graph even where no attack asks for its gradient.
        twice: they differentiate it twice: fused attention, which cannot be, is left aside.
        copied: layers whose input something overwrites in place later in the pass: the tap keeps a copy.
    """

    graph: bool = False
    twice: bool = False
    copied: frozenset[str] = frozenset()


@runtime_checkable
class Pass(Protocol):
    """One forward pass on one live graph, which attack and probes share.

    Attributes:
        x: the input, a floating-point leaf that requires grad where a graph was kept, ``[n, …]``.
        y: labels ``[n]``, or of a language model the tokens to be predicted, ``[n, T]``.
        logits: ``[n, K]``, or ``[n, T, K]``.
        taps: the probed layers' inputs and outputs.
        tokens: what ``x`` embeds, ``[n, S]``, where it is text; else None.
        gradient: the objective's gradient, ``[n, …]``, once the attack has asked for it.
        rows: which samples of the batch these are, ``[n]`` on the CPU, ascending; None = all of them.
        kind: ``iterate``, ``best``, ``returned`` or ``discrete``.
        dead_share: the share of ReLU units that pass no gradient, ``[n]``; None where it was not asked for.
    """

    x: Tensor
    y: Tensor
    logits: Tensor
    taps: dict[str, Tap]
    tokens: Tensor | None
    gradient: Tensor | None
    rows: Tensor | None
    kind: str
    dead_share: Tensor | None

    @property
    def losses(self) -> Tensor:
        """Cross-entropy on the graph, in nats: ``[n]``, or ``[n, T]`` at each position."""

    @property
    def loss(self) -> Float[Tensor, " n"]:
        """Of each sample, on the graph: the mean over its positions where there are several."""

    def grad(self, objective: Callable[[Pass], Tensor]) -> Tensor:
        """∂ Σ objective / ∂x, ``[n, …]``. Frees the graph: probes come first, the attack's gradient last."""


@runtime_checkable
class Victim(Protocol):
    """A model made ready: evaluated, frozen, its probed layers tapped. It does not change once it is made."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def dtype(self) -> torch.dtype:
        """In which its passes are made."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The range in which inputs live."""

    @property
    def classes(self) -> int:
        """K, the number of logits."""

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The probed ones, by their names in the tables."""

    @property
    def head(self) -> str | None:
        """The module's name of the layer whose output is the logits, where there is one."""

    @property
    def where(self) -> Where:
        """Which pass is being made, for messages."""

    def __call__(self, x: Tensor, y: Tensor, *, final: bool = False) -> Pass:
        """One pass at ``x`` ``[n, …]``. ``final``: no gradient by the input will be asked for."""

    def place(self, x: Tensor) -> Tensor:
        """``x`` on the victim's device, in its dtype and memory format."""

    def needing(self, needs: Needs) -> Victim:
        """The same victim, whose passes are made as probes need them."""


class Forward:
    """A `Pass`, made from what a model returned."""

    def __init__(
        self, x: Tensor, y: Tensor, logits: Tensor, taps: dict[str, Tap], where: Where, *, tokens: Tensor | None = None
    ) -> None:
        self.x: Tensor = x
        self.y: Tensor = y
        self.logits: Tensor = logits
        self.taps: dict[str, Tap] = taps
        self.tokens: Tensor | None = tokens
        self.gradient: Tensor | None = None
        self.rows: Tensor | None = None
        self.kind = ITERATE
        self.dead_share: Tensor | None = None
        self.states: Tensor | None = None
        """Of a language model, the head's inputs at the slot, ``[n, S, d]``."""
        self.weights: Tensor | None = None
        """Of a slot that mixes tokens, the weight of each at each place, ``[n, S, V]``. The text that it is rounded to
        is the next pass, of kind ``discrete``."""
        self.encoding: Any = None
        """Of a language model, the prompt that the slot is in."""
        self._where = where

    @cached_property
    def losses(self) -> Tensor:
        """Cross-entropy on the graph, in nats: ``[n]``, or ``[n, T]`` at each position."""
        if self.logits.dim() == 2:
            return F.cross_entropy(self.logits, self.y, reduction="none")
        return F.cross_entropy(self.logits.flatten(0, 1), self.y.flatten(), reduction="none").view_as(self.y)

    @cached_property
    def loss(self) -> Float[Tensor, " n"]:
        """Of each sample, on the graph: the mean over its positions where there are several."""
        return self.losses if self.losses.dim() == 1 else self.losses.mean(1)

    def grad(self, objective: Callable[[Pass], Tensor]) -> Tensor:
        """∂ Σ objective / ∂x, ``[n, …]``. Frees the graph: probes come first, the attack's gradient last."""
        with self._where.watched():
            (self.gradient,) = torch.autograd.grad(objective(self).sum(), self.x)
        return self.gradient
