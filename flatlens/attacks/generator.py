"""A generator of perturbations and its discriminator, learning against a classifier: AdvGAN's networks and losses.

Xiao et al. 2018, arXiv 1801.02610. The classifier is any callable from inputs to logits, and is never changed: the
attack `flatlens.attacks.advgan` learns against a frozen one, adversarial training against one that learns in turn.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.attacks.balls import ball
from flatlens.attacks.objectives import ascended
from flatlens.errors import AttackError, unknown

Points = Float[Tensor, "n *shape"]
Classifier = Callable[[Tensor], Tensor]
"""Inputs ``[n, …]`` to logits ``[n, K]``, differentiable by the inputs."""

WEIGHT, ENOUGH = 10.0, 5.0
"""How much the objective weighs, and from which value on, in its own units, more of it is worth nothing."""
LEAST = 3
"""Rows and columns of an image that has room for a 3×3 convolution; smaller inputs are taken as vectors."""
SLOPE = 0.2
"""Of the leaky ReLUs. With plain ones, the generator of a robust network's inputs never started to learn."""
BLOCKS = 2
"""Residual blocks in the middle of an image generator."""
NORMS = ("linf", "l2")


class Generator(nn.Module):
    """An input to a raw perturbation of its shape, 0 everywhere before it has learnt.

    Images ``[C, H, W]`` of any size from 3×3 on pass 3×3 convolutions alone, each but the last followed by an
    InstanceNorm and a LeakyReLU: one to half the size, residual blocks, and one at the whole size again. All other
    inputs are vectors, and pass an MLP with LayerNorms. Without the norms it learns one pattern for all inputs.

    Args:
        shape: of one input.
        rng: CPU generator that draws the first weights, with a standard deviation of 1/√fan-in; the last layer is 0.
        width: channels of the first convolution; an eighth of an MLP's hidden units.
        z: how many numbers of noise it takes beside the input; 0 makes it deterministic.
    """

    def __init__(self, shape: Sequence[int], rng: torch.Generator, *, width: int = 16, z: int = 0) -> None:
        super().__init__()
        self.shape, self.z = tuple(shape), z
        self.images = is_image(self.shape)
        if self.images:
            channels, height, columns = self.shape
            # Noise that were the same in every pixel would be taken away by the first norm.
            self.noise = nn.Linear(z, height * columns) if z else None
            self.first = _normed(channels + (z > 0), width)
            self.down = _normed(width, 2 * width, stride=2)
            self.middle = nn.ModuleList(
                nn.Sequential(_normed(2 * width, 2 * width), _normed(2 * width, 2 * width)) for _ in range(BLOCKS)
            )
            self.up = _normed(2 * width, width)
            self.last: nn.Module = nn.Conv2d(2 * width, channels, 3, padding=1)
        else:
            features, hidden = math.prod(self.shape), 8 * width
            sizes = (features + z, hidden, hidden)
            self.body = nn.Sequential(
                *(nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b), nn.LeakyReLU(SLOPE)) for a, b in pairwise(sizes))
            )
            self.last = nn.Linear(hidden, features)
        _draw(self, rng)
        for weight in self.last.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The raw perturbation of ``x`` ``[n, …]``; ``noise`` ``[n, z]`` where it takes any."""
        if not self.images:
            flat = x.flatten(1)
            found: Tensor = self.last(self.body(flat if noise is None else torch.cat([flat, noise], 1)))
            return found.view_as(x)
        if self.noise is not None:
            assert noise is not None
            x = torch.cat([x, self.noise(noise).view(-1, 1, *x.shape[2:])], 1)
        first = self.first(x)
        here = self.down(first)
        for block in self.middle:
            here = here + block(here)
        here = self.up(F.interpolate(here, size=first.shape[2:]))
        raw: Tensor = self.last(torch.cat([first, here], 1))
        return raw


class Discriminator(nn.Module):
    """An input to one logit: how much it looks like one of the data.

    Args:
        shape: of one input.
        rng: CPU generator that draws the first weights.
        width: as the generator's.
    """

    def __init__(self, shape: Sequence[int], rng: torch.Generator, *, width: int = 16) -> None:
        super().__init__()
        if is_image(shape):
            self.body = nn.Sequential(
                nn.Conv2d(shape[0], width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 1),
            )  # fmt: skip
        else:
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(math.prod(shape), 8 * width), nn.LeakyReLU(SLOPE), nn.Linear(8 * width, 1)
            )
        _draw(self, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[n]``."""
        found: Tensor = self.body(x)
        return found.squeeze(1)


@dataclass(frozen=True)
class Aim:
    """What a generator is to learn.

    Attributes:
        eps: radius of the ball around each input, in units of the input.
        norm: ``linf`` or ``l2``.
        objective: what it ascends, see `flatlens.attacks.objectives`.
        width: of both networks, see `Generator`.
        lr: Adam's learning rate, of both networks.
        gan: how much looking like the data weighs; 0 leaves the discriminator out.
        norm_weight: how much a short perturbation weighs: max(0, ‖δ‖₂ − c), c half the largest ‖δ‖₂ in the ball.
        z: how many numbers of noise the generator takes beside the input.
        bounds: the range of valid inputs.
    """

    eps: float
    norm: str = "linf"
    objective: str = "margin"
    width: int = 16
    lr: float = 5e-3
    gan: float = 1.0
    norm_weight: float = 1.0
    z: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise AttackError(unknown("norm", self.norm, NORMS, where="a generator has"))

    def long(self, x: Tensor) -> float:
        """The largest ‖δ‖₂ of a perturbation of one input of ``x`` ``[n, …]``."""
        return self.eps * (math.sqrt(x[0].numel()) if self.norm == "linf" else 1.0)

    def centred(self, x: Points) -> Points:
        """Inputs as the networks take them, from −1 to 1 within the bounds.

        As they are, all are much alike, and a network without a norm at its input gives one pattern for all.
        """
        low, high = self.bounds
        return (2 * x - (low + high)) / (high - low)

    def perturbed(self, x: Points, net: nn.Module, noise: Tensor | None) -> Points:
        """What a generator makes of ``x``, ``[n, …]``."""
        return self.adversarial(x, net(self.centred(x), noise))

    def adversarial(self, x: Points, raw: Points) -> Points:
        """Inputs within the ball around ``x`` and the bounds, ``[n, …]``: exactly, and exactly ``x`` where raw is 0.

        eps·tanh(raw) in linf, the nearest point of the ball to eps·raw in l2. What ball and bounds take away is passed
        straight through to the gradient by ``raw``.
        """
        within = ball(self.norm)
        delta = self.eps * raw.tanh() if self.norm == "linf" else within.shrink(self.eps * raw, self.eps)
        free = x + delta
        return _Through.apply(free, within.project(free.detach(), x, self.eps, self.bounds))


class Adversary:
    """A generator and its discriminator, learning a step at a time.

    Args:
        aim: what is to be learnt.
        shape: of one input.
        rng: CPU generator of the first weights and of the noise of each step.
        like: a tensor of the device and dtype to compute in.
        generator: makes another generator than `Generator`, with its arguments.
    """

    def __init__(
        self,
        aim: Aim,
        shape: Sequence[int],
        rng: torch.Generator,
        like: Tensor,
        generator: Callable[..., nn.Module] = Generator,
    ) -> None:
        self.aim, self._rng = aim, rng
        self.generator = generator(shape, rng, width=aim.width, z=aim.z).to(like.device, like.dtype)
        self._discriminator = Discriminator(shape, rng, width=aim.width).to(like.device, like.dtype)
        self._optimizers = [
            torch.optim.Adam(net.parameters(), lr=aim.lr) for net in (self.generator, self._discriminator)
        ]

    def __call__(self, x: Points, noise: Float[Tensor, "n z"] | None = None) -> Points:
        """Adversarial inputs of ``x``, without a graph; ``noise`` is drawn where it is needed and not given."""
        with torch.no_grad():
            return self.aim.perturbed(x, self.generator, self._noise(x) if noise is None else noise)

    def step(
        self, model: Classifier, x: Points, y: Int[Tensor, " n"], target: Int[Tensor, " n"] | None = None
    ) -> float:
        """Let discriminator and generator learn from one batch; the classifier's ``.grad`` stays as it is.

        The loss, in the published order: 10·max(−S, −5) + gan·softplus(−D(x')) + norm·max(0, ‖δ‖₂ − c), S the
        objective; the discriminator's: softplus(−D(x)) + softplus(D(x')).

        Returns:
            the generator's loss, before the step.

        Raises:
            AttackError: it is not finite.
        """
        aim, judge = self.aim, self._discriminator
        there = aim.perturbed(x, self.generator, self._noise(x))
        real, false = aim.centred(x), aim.centred(there)
        if aim.gan > 0:
            doubt = F.softplus(-judge(real)) + F.softplus(judge(false.detach()))
            _learn(self._optimizers[1], doubt.mean())
        worth = ascended(aim.objective, model(there), y, target)
        loss = WEIGHT * (-worth).clamp(min=-ENOUGH)
        if aim.gan > 0:
            loss = loss + aim.gan * F.softplus(-judge(false))
        if aim.norm_weight > 0:
            loss = loss + aim.norm_weight * (ball("l2").size(there - x) - aim.long(x) / 2).clamp(min=0)
        total = loss.mean()
        if not torch.isfinite(total):
            raise AttackError(f"the generator's loss is {total.item()}; lower its lr = {aim.lr:g}")
        _learn(self._optimizers[0], total)
        return float(total.detach())

    def slow(self, share: float) -> None:
        """Lower the learning rate along half a cosine: ``share``, 0 to 1, is how far it is from ``aim.lr`` to 0."""
        for one in self._optimizers:
            for group in one.param_groups:
                group["lr"] = self.aim.lr * (1 + math.cos(math.pi * share)) / 2

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self._discriminator.state_dict(),
            "optimizers": [one.state_dict() for one in self._optimizers],
            "rng": self._rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, to the same bits."""
        self.generator.load_state_dict(state["generator"])
        self._discriminator.load_state_dict(state["discriminator"])
        for one, held in zip(self._optimizers, state["optimizers"], strict=True):
            one.load_state_dict(copy.deepcopy(held))  # it would keep the very tensors, and change them
        self._rng.set_state(state["rng"])

    def _noise(self, x: Tensor) -> Tensor | None:
        if not self.aim.z:
            return None
        return torch.randn(len(x), self.aim.z, generator=self._rng, dtype=torch.float64).to(x.device, x.dtype)


class _Through(torch.autograd.Function):
    """The second argument's values with the first one's gradient."""

    @staticmethod
    def forward(ctx: Any, free: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def is_image(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape have channels, rows and columns, and room for a 3×3 convolution."""
    return len(shape) == 3 and min(shape[1:]) >= LEAST


def _normed(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.LeakyReLU(SLOPE),
    )


def _draw(net: nn.Module, rng: torch.Generator) -> None:
    """First weights of the standard deviation 1/√fan-in, and biases of 0."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                size = module.weight[0].numel() ** -0.5
                module.weight.copy_(size * torch.randn(module.weight.shape, generator=rng, dtype=torch.float64))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _learn(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step, by the gradients of the optimiser's own weights alone."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    optimizer.step()
