"""AdvGAN (Xiao et al. 2018, arXiv 1801.02610): a generator that learns to perturb, walked along while it learns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from flatlens.attacks import keeping
from flatlens.attacks.fitting import Fitted, fit, seconds, sizes
from flatlens.attacks.generator import Aim, Generator
from flatlens.attacks.gradient import Target, check_counts, plain_eps
from flatlens.attacks.objectives import objective, targets
from flatlens.errors import AttackError, DataError
from flatlens.progress import Report
from flatlens.specs.attack_names import joined
from flatlens.specs.catalogue import ATTACKS
from flatlens.victims.images import ImageVictim
from flatlens.victims.noise import Noise
from flatlens.victims.precision import exact_arithmetic
from flatlens.victims.protocol import Batch, Pass, Victim

VERSION = 1
"""Of the way generators are fitted: a change of it fits anew."""
PART = 256
"""Inputs at a time where targets are looked for."""


@dataclass(frozen=True)
class Learnt:
    """What an `AdvGAN` has learnt, and of what.

    Attributes:
        fitted: the generator.
        sha256: of all its snapshots.
        seed: of its training.
        seen: a hash of each input that it learnt from.
        generator: makes the network that its snapshots are weights of.
        anew: the file of an earlier one was damaged, and it was fitted anew.
    """

    fitted: Fitted
    sha256: str
    seed: int
    seen: frozenset[bytes]
    generator: Callable[..., nn.Module] = Generator
    anew: bool = False


@dataclass(frozen=True)
class AdvGAN:
    """A generator network that perturbs inputs, while it learns to fool the model.

    Its iterates are x + G_t(x): the clean input, as the generator's last layer starts at 0, and then the generator
    after each of ``steps`` equal shares of its training; the last is the trained one. Steps are thus shares of a
    training, the same for all samples. It learns once, from the training split of a run's data, or, in Python, from the
    samples that are attacked, unless `fit` was given others.

    The generator ascends 10·min(S, 5) − gan·softplus(−D(x′)) − norm·max(0, ‖δ‖₂ − c), S the objective and D a
    discriminator that learns to tell x′ from the data (`flatlens.attacks.generator`).

    Args:
        eps: radius of the ball, in units of the input; one for all samples.
        norm: ``linf`` or ``l2``.
        steps: snapshots of the generator, at most as many as it makes optimiser's steps.
        target: ``None``, a label, ``next``, ``random`` or ``least-likely``.
        objective: ``margin`` as published, ``ce`` or ``dlr``.
        epochs: passes over the data that it learns from.
        width: channels of the generator's first layer.
        lr: the first learning rate.
        gan: the weight of looking like the data; 0 leaves the discriminator out.
        norm_weight: the weight of a short perturbation.
        z: numbers of noise that the generator takes beside the input; drawn once for each sample.
        learnt: what it has learnt; filled in by `fit`.
    """

    eps: float | Sequence[float] | Tensor = 8 / 255
    norm: str = "linf"
    steps: int = 20
    target: Target = None
    objective: str = "margin"
    epochs: int = 20
    width: int = 16
    lr: float = 5e-3
    gan: float = 1.0
    norm_weight: float = 1.0
    z: int = 0
    learnt: Learnt | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        eps = plain_eps(self.eps)
        if isinstance(eps, tuple):
            raise AttackError(
                f"eps has {len(eps)} values: advgan's generator learns one radius for all; give one number"
            )
        object.__setattr__(self, "eps", eps)
        objective(self.objective)
        check_counts(self.steps, 1)
        for name, option in ATTACKS["advgan"].options.items():
            key = option.argument or name
            value, kind = getattr(self, key), "whole number" if isinstance(option.default, int) else "number"
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (kind == "number" and isinstance(value, float))) or not option.low <= value <= option.high:
                raise AttackError(f"{key} = {value}: needs a {kind} from {option.low:g} to {option.high:g}")
        _ = self.aim((0.0, 1.0))

    @property
    def length(self) -> int:
        """Iterates that are yielded after the clean input."""
        return self.steps

    def aim(self, bounds: tuple[float, float]) -> Aim:
        """What the generator is to learn, for inputs within ``bounds``."""
        assert isinstance(self.eps, int | float)
        return Aim(
            float(self.eps), self.norm, self.objective, self.width, self.lr, self.gan, self.norm_weight, self.z, bounds
        )

    def describe(self) -> dict[str, Any]:
        """What a trace says of how it was made: options stand in the attack's name."""
        options = ATTACKS["advgan"].options
        said = joined("advgan", {name: getattr(self, option.argument or name) for name, option in options.items()})
        return {"attack": said, **{key: getattr(self, key) for key in ("eps", "norm", "steps", "objective")}}

    def fit(
        self,
        model: Victim | nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        bounds: tuple[float, float] = (0.0, 1.0),
        weights: str | None = None,
        progress: Report | None = None,
        generator: Callable[..., nn.Module] = Generator,
    ) -> AdvGAN:
        """The same attack, with a generator that has learnt to fool ``model`` on ``x``; itself, if it has learnt.

        Args:
            model: in eval mode, or a victim that was made of it; never changed.
            x: inputs ``[n, …]`` within the bounds.
            y: labels ``[n]``.
            seed: of all that is drawn.
            bounds: the range of valid inputs; a victim knows its own.
            weights: SHA-256 of the model's weights: then the generator is kept in the cache of `flatlens.files.places`
                and found again; a damaged one is fitted anew.
            progress: called after each step.
            generator: makes another network than `Generator`.

        Raises:
            AttackError: there are too few inputs or optimiser's steps, the target is no label of the model, or the loss
                is not finite.
            DataError: inputs that are no floating-point numbers, or not as many labels.
        """
        if self.learnt is not None:
            return self
        x, y = torch.as_tensor(x).detach().cpu(), torch.as_tensor(y).detach().cpu()
        if not x.is_floating_point() or y.shape != x.shape[:1]:
            raise DataError(
                f"advgan is given inputs {tuple(x.shape)} of {x.dtype} and labels {tuple(y.shape)}; needs "
                "floating-point numbers [n, …] and n labels"
            )
        victim = ImageVictim(model, x[:8], layers=(), bounds=bounds) if isinstance(model, nn.Module) else model
        victim.where.begin("generator's training", 0)

        def fitted() -> Fitted:
            aimed = self._targets(victim, x, y, seed)
            with exact_arithmetic(victim.device):
                return fit(
                    lambda here: _Logits.apply(here, victim), x, y, aim=self.aim(victim.bounds), steps=self.steps,
                    epochs=self.epochs, seed=seed, target=aimed, place=victim.place, generator=generator,
                    progress=progress,
                )  # fmt: skip

        if weights is None:
            found, anew = fitted(), False
        else:
            tried = victim(victim.place(x[: keeping.TRIED]), y[: keeping.TRIED], final=True)
            likeness = tried.logits.detach().cpu()
            found, anew = keeping.kept(
                self._key(victim, x, y, seed, weights), fitted, likeness, self._net(x, generator).state_dict()
            )
        victim.where.end()
        sha256 = keeping.digest(
            {f"{i}.{key}": held for i, one in enumerate(found.snapshots) for key, held in one.items()}
        )
        return replace(self, learnt=Learnt(found, sha256, seed, frozenset(_hashes(x)), generator, anew))

    def __call__(self, victim: Victim, batch: Batch, rng: Noise) -> Iterator[Pass]:
        """Yield the clean input, then the generator's inputs after each share of its training."""
        if self.learnt is None:
            raise AttackError(
                "advgan has learnt nothing yet: call its fit(model, x, y), and go on with what it returns"
            )
        net = self._net(batch.x, self.learnt.generator)
        aim = self.aim(victim.bounds)
        noise = rng.normal(batch.ids, batch.x.new_zeros(len(batch.x), self.z), "advgan-z") if self.z else None
        yield victim(batch.x, batch.y, final=True)
        for snapshot in self.learnt.fitted.snapshots:
            try:
                net.load_state_dict(snapshot)
            except RuntimeError as error:
                raise AttackError(
                    f"advgan has learnt from inputs of another shape than {tuple(batch.x.shape[1:])}; fit it anew"
                ) from error
            with torch.no_grad():
                x = aim.perturbed(batch.x, net, noise)
            yield victim(x, batch.y, final=True)

    def told(self, x: Tensor) -> dict[str, Any]:
        """What it says of what it has learnt, and how many of the samples ``x`` attacked it learnt from: plain data."""
        if self.learnt is None:
            return {}
        found = self.learnt.fitted
        return {
            "sha256": self.learnt.sha256,
            "seed": self.learnt.seed,
            "samples": len(self.learnt.seen),
            "attacked_among_them": sum(one in self.learnt.seen for one in _hashes(x)),
            "starts": found.starts,
            "lr": found.lr,
            "cosine": found.training.cosine,
            "collapsed": found.collapsed,
            "anew": self.learnt.anew,
            "training": (found.training.fooled, found.training.of),
            "fgsm": (found.fgsm.fooled, found.fgsm.of),
        }

    def lessons(self, victim: Victim, x: Tensor, y: Tensor, *, seed: int, weights: str | None) -> tuple[int, float]:
        """Passes of a batch, each forward and backward, and seconds, that `fit` takes; none if it was made before."""
        kept = weights is not None and keeping.place(self._key(victim, x, y, seed, weights)).exists()
        if kept or self.learnt is not None:
            return 0, 0.0
        size, batches = sizes(len(x))
        few, labels = victim.place(x[:size]), y[:size].to(victim.device)
        a_step = seconds(lambda here: _Logits.apply(here, victim), few, labels, self.aim(victim.bounds))
        return self.epochs * batches, self.epochs * batches * a_step

    def _key(self, victim: Victim, x: Tensor, y: Tensor, seed: int, weights: str) -> str:
        """A hash of all that the generator depends on."""
        known = [VERSION, weights, keeping.digest({"x": x, "y": y}), self.steps, self.epochs, self.target, seed]
        known += [asdict(self.aim(victim.bounds)), str(victim.dtype)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def _targets(self, victim: Victim, x: Tensor, y: Tensor, seed: int) -> Tensor | None:
        parts = [
            targets(self.target, victim, victim.place(x[index]), y[index].to(victim.device), index, Noise(seed))
            for index in torch.arange(len(x)).split(PART)
        ]
        there = [part.cpu() for part in parts if part is not None]
        return torch.cat(there) if there else None

    def _net(self, x: Tensor, generator: Callable[..., nn.Module]) -> nn.Module:
        """A network that a snapshot's weights fit, where and as ``x`` is."""
        made: nn.Module = generator(x.shape[1:], torch.Generator(), width=self.width, z=self.z)
        return made.to(x.device, x.dtype)


class _Logits(torch.autograd.Function):
    """A victim as a function of its inputs: its logits, whose gradient is that of its own pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, victim: Victim) -> Tensor:
        needed = ctx.needs_input_grad[0]
        here = victim(x, torch.zeros(len(x), dtype=torch.long, device=x.device), final=not needed)
        ctx.here = here if needed else None
        return here.logits.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        with torch.enable_grad():
            return ctx.here.grad(lambda here: (here.logits * gradients[0]).sum(1)), None


def _hashes(x: Tensor) -> Iterator[bytes]:
    """A short hash of each input."""
    for row in x.detach().cpu().contiguous().flatten(1).numpy():
        yield hashlib.blake2b(row.tobytes(), digest_size=8).digest()
