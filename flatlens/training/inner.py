"""The axis ``adversarial``: the attack that makes the inputs that are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.attacks.balls import ball, column
from flatlens.attacks.fitting import is_collapsed
from flatlens.attacks.generator import Adversary, Aim
from flatlens.specs.options import Named
from flatlens.training.losses import Ascends, cross_entropy
from flatlens.victims.layers import as_logits

Points = Float[Tensor, "n ..."]
LINF = "linf"


class Inner(Protocol):
    """An attack within a training. The model is in eval mode, so that no statistics of its layers move."""

    @property
    def passes(self) -> int:
        """Forward and backward passes of a batch, without gradients of the weights."""

    @property
    def replays(self) -> int:
        """Steps of the weights on each batch: 1, but for `Free`."""

    def __call__(
        self,
        model: nn.Module,
        x: Points,
        y: Int[Tensor, " n"],
        ascends: Ascends,
        *,
        eps: float,
        bounds: tuple[float, float],
        rng: torch.Generator,
    ) -> Points:
        """Inputs within eps of ``x`` and within the bounds that raise ``ascends`` of the model's logits."""

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt so far, of plain data and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up again where `state_dict` was asked."""


class _Forgets:
    """An attack that begins each batch anew."""

    replays = 1

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


class _Climbs(_Forgets):
    """An attack that is steps of steepest ascent on each batch."""

    norm: str

    def way(self, eps: float) -> tuple[int, float, bool]:
        """How many steps, the size of each, and whether they begin at random."""
        raise NotImplementedError

    def __call__(
        self,
        model: nn.Module,
        x: Points,
        y: Int[Tensor, " n"],
        ascends: Ascends,
        *,
        eps: float,
        bounds: tuple[float, float],
        rng: torch.Generator,
    ) -> Points:
        """The last iterate."""
        steps, size, at_random = self.way(eps)
        return climb(
            model, x, ascends, eps=eps, steps=steps, size=size, norm=self.norm, bounds=bounds,
            rng=rng if at_random else None,
        )  # fmt: skip


@dataclass(frozen=True)
class PGD(_Climbs):
    """Projected gradient from a random start (Madry et al. 2018, arXiv 1706.06083); steps of 2.5 · eps / steps."""

    steps: int = 7
    norm: str = LINF

    @property
    def passes(self) -> int:
        """One for each step."""
        return self.steps

    def way(self, eps: float) -> tuple[int, float, bool]:
        """From a random start."""
        return self.steps, 2.5 * eps / self.steps, True


@dataclass(frozen=True)
class FGSM(_Climbs):
    """One step of ``size`` · eps, from a random start (Wong et al. 2020, 2001.03994) or the clean input.

    From the clean input every size of at least 1 is that of Goodfellow et al. 2015: the ball ends the step.
    """

    size: float = 1.25
    start: str = "random"
    norm: str = LINF
    passes = 1

    def way(self, eps: float) -> tuple[int, float, bool]:
        """One step."""
        return 1, self.size * eps, self.start == "random"


@dataclass
class Free:
    """Each batch ``replays`` times, the perturbation going on where the batch before left it (Shafahi et al. 2019).

    Perturbation and weights share a backward pass, so the loop itself moves it, by `learn`.
    """

    replays: int = 4
    norm: str = LINF
    passes = 0
    _delta: Tensor | None = field(default=None, repr=False)

    def __call__(
        self,
        model: nn.Module,
        x: Points,
        y: Int[Tensor, " n"],
        ascends: Ascends,
        *,
        eps: float,
        bounds: tuple[float, float],
        rng: torch.Generator,
    ) -> Points:
        """The inputs with the perturbation as it is."""
        if self._delta is None or len(self._delta) < len(x):
            grown = torch.zeros_like(x)
            if self._delta is not None:
                grown[: len(self._delta)] = self._delta.to(x.device)
            self._delta = grown
        self._delta = self._delta.to(x.device)  # a snapshot is read on the CPU
        return ball(self.norm).project(x + self._delta[: len(x)], x, eps, bounds)

    def learn(self, gradient: Points, eps: float) -> None:
        """Move the perturbation by a step of eps along the loss's gradient by the inputs that were trained on."""
        assert self._delta is not None
        within, n = ball(self.norm), len(gradient)
        here = self._delta[:n] + eps * within.steepest(gradient)
        self._delta[:n] = within.shrink(here, eps)

    def state_dict(self) -> dict[str, Any]:
        """The perturbation."""
        return {} if self._delta is None else {"delta": self._delta.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The perturbation, as it was."""
        held = state.get("delta")
        self._delta = None if held is None else held.clone()  # `learn` changes it in place


class Gan:
    """A generator that learns in turn with the classifier, a step before each batch (Lee et al. 2017, 1705.03387).

    Args:
        width: channels of the generator.
        lr: of the generator.
        norm: ``linf`` or ``l2``.
    """

    passes = 2
    replays = 1

    def __init__(self, width: int = 16, lr: float = 5e-3, norm: str = LINF) -> None:
        self._aim = Aim(eps=1.0, norm=norm, width=width, lr=lr)
        self._learner: Adversary | None = None
        self._state: Mapping[str, Any] = {}

    def __call__(
        self,
        model: nn.Module,
        x: Points,
        y: Int[Tensor, " n"],
        ascends: Ascends,
        *,
        eps: float,
        bounds: tuple[float, float],
        rng: torch.Generator,
    ) -> Points:
        """What the generator makes of the inputs, after it has learnt from them."""
        aim = replace(self._aim, eps=eps, bounds=bounds)
        if self._learner is None:
            own = torch.Generator().manual_seed(rng.initial_seed())  # leaves the order of the samples as it is
            with torch.random.fork_rng(devices=[]):  # layers draw their first weights before these are replaced
                self._learner = Adversary(aim, tuple(x.shape[1:]), own, x)
            if self._state:
                self._learner.load_state_dict(dict(self._state))
        self._learner.aim = aim
        self._learner.step(lambda inputs: as_logits(model(inputs)), x, y)
        return self._learner(x)

    def has_collapsed(self, model: nn.Module, x: Points, y: Int[Tensor, " n"]) -> bool:
        """Whether the generator fools next to nobody, or perturbs all inputs alike, though FGSM does not."""
        if self._learner is None:
            return False
        return is_collapsed(lambda inputs: as_logits(model(inputs)), self._learner, x, y, self._learner.aim)

    def state_dict(self) -> dict[str, Any]:
        """Generator, discriminator, and their optimisers."""
        return dict(self._state) if self._learner is None else self._learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, at the next batch."""
        self._learner, self._state = None, state


def climb(
    model: nn.Module,
    x: Points,
    ascends: Ascends,
    *,
    eps: float,
    steps: int,
    size: float,
    norm: str,
    bounds: tuple[float, float],
    rng: torch.Generator | None,
) -> Points:
    """Steps of steepest ascent in the ball of a norm: PGD, and with one step FGSM.

    Args:
        model: returns logits; it is used in the mode it is in, and its parameters' ``.grad`` are left alone.
        x: clean inputs ``[n, …]``.
        ascends: what is climbed, from logits to ``[n]``.
        eps: radius, in units of ``x``.
        steps: how many.
        size: of each, in the norm.
        norm: ``linf`` or ``l2``.
        bounds: of valid inputs.
        rng: a CPU generator for a start that is uniform in the ball; None to start at ``x``.
    """
    within = ball(norm)
    low, high = (x - eps).clamp(min=bounds[0]), (x + eps).clamp(max=bounds[1])

    def back(here: Points) -> Points:
        return here.clamp(low, high) if norm == LINF else within.project(here, x, eps, bounds)

    here = x
    if rng is not None and norm == LINF:
        noise = torch.rand(x.shape, generator=rng, dtype=x.dtype).to(x.device)
        here = low + (high - low) * noise
    elif rng is not None:
        noise = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        reach = torch.rand(len(x), generator=rng, dtype=x.dtype) ** (1 / max(noise[0].numel(), 1))
        here = back(x + eps * (within.steepest(noise) * column(reach, noise)).to(x.device))
    for _ in range(steps):
        here = here.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(ascends(as_logits(model(here))).sum(), here)
        here = back(here.detach() + size * within.steepest(gradient))
    return here.detach()


def perturb(
    model: nn.Module,
    x: Points,
    y: Int[Tensor, " n"],
    *,
    eps: float,
    steps: int,
    rng: torch.Generator,
    step_size: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Points:
    """Inputs within linf ``eps`` of ``x`` that raise the cross-entropy: PGD from a random start.

    ``step_size`` is 2.5·eps/steps unless given. ``model`` is used in the mode it is in.
    """
    size = 2.5 * eps / max(steps, 1) if step_size is None else step_size
    return climb(
        model, x, lambda logits: cross_entropy(logits, y), eps=eps, steps=steps, size=size, norm=LINF, bounds=bounds,
        rng=rng,
    )  # fmt: skip


def named(chosen: Named, *, steps: int, norm: str) -> Inner:
    """The attack of a name on the axis, with its options."""
    if chosen.name == "pgd":
        return PGD(steps, norm)
    made: dict[str, Callable[..., Inner]] = {"fgsm": FGSM, "free": Free, "gan": Gan}
    return made[chosen.name](**chosen.options, norm=norm)
