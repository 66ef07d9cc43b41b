"""Training of small models, standard or adversarial (Madry et al. 2018), in torch's own terms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.errors import ModelError, SpecError, unknown
from flatlens.files.atomic import disk, replacing
from flatlens.specs.train import ADVERSARIAL


class History(NamedTuple):
    """What each epoch left: mean loss and share of right answers, both on the inputs trained with."""

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]


def train(
    model: nn.Module,
    x: Float[Tensor, " n *shape"],
    y: Int[Tensor, " n"],
    *,
    rng: torch.Generator,
    epochs: int = 30,
    lr: float = 3e-3,
    batch_size: int = 64,
    weight_decay: float = 0.0,
    adversarial: str | None = None,
    eps: float = 0.1,
    steps: int = 7,
    bounds: tuple[float, float] = (0.0, 1.0),
    snapshot: Path | None = None,
    progress: Callable[[int, float], None] = lambda done, loss: None,
) -> History:
    """Train ``model`` in place with AdamW and a cosine schedule; it is left in eval mode.

    Args:
        model: returns logits ``[n, K]``; its device is used.
        x: inputs.
        y: labels.
        rng: CPU generator that draws the order of the samples and the random starts.
        epochs: passes over the data.
        lr: the first learning rate; it falls to zero along a cosine.
        batch_size: samples per step.
        weight_decay: decoupled (AdamW), on all parameters.
        adversarial: None, or ``"pgd"`` to train on `perturb`-ed inputs instead of clean ones.
        eps: radius of the adversarial training's linf ball.
        steps: gradient steps of the adversarial training's attack.
        bounds: range of valid inputs.
        snapshot: a file that holds all that the next epoch depends on, written after each; where it is there, the
            training goes on from it, to the same bits as if it had never stopped. It is the caller's to remove.
        progress: called after each step with the number of steps done, and the last loss.

    Raises:
        SpecError: an unknown way of adversarial training.
        ModelError: the loss stopped being finite.
        DiskError: the snapshot cannot be written.
    """
    if adversarial is not None and adversarial not in ADVERSARIAL:
        raise SpecError(unknown("adversarial training", adversarial, ADVERSARIAL, where="there are"))
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    batches = len(_parts(torch.arange(len(x)), batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    state = _State(model, optimizer, schedule, rng)
    with torch.random.fork_rng(devices=[]):  # what the model draws by itself, as dropout does
        torch.default_generator.manual_seed(rng.initial_seed())
        if snapshot is not None and snapshot.exists():
            state.read(snapshot)
        for epoch in range(len(state.losses), epochs):
            total, right = 0.0, 0
            for index in _parts(torch.randperm(len(x), generator=rng), batch_size):
                inputs, labels = x[index.to(device)], y[index.to(device)]
                if adversarial == "pgd":
                    # In eval mode: the attack must not move the statistics of batch norms.
                    model.eval()
                    inputs = perturb(model, inputs, labels, eps=eps, steps=steps, rng=rng, bounds=bounds)
                model.train()
                logits = model(inputs)
                loss = F.cross_entropy(logits, labels)
                if not torch.isfinite(loss):
                    raise ModelError(f"the loss is {loss.item()} in epoch {epoch + 1}; lower lr {lr:g}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(index)
                right += int((logits.argmax(1) == labels).sum())
                progress(schedule.last_epoch, float(loss.detach()))
            state.losses.append(total / len(x))
            state.rights.append(right / len(x))
            if snapshot is not None:
                state.write(snapshot)
    model.eval()
    return History(tuple(state.losses), tuple(state.rights))


def _parts(order: Tensor, size: int) -> list[Tensor]:
    """The order in batches; a last one of a single sample, which batch norm cannot take, joins the one before."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class _State:
    """All that the next epoch depends on."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        rng: torch.Generator,
    ) -> None:
        self._model, self._optimizer, self._schedule, self._rng = model, optimizer, schedule, rng
        self.losses: list[float] = []
        self.rights: list[float] = []

    def write(self, file: Path) -> None:
        kept = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "rng": [self._rng.get_state(), torch.get_rng_state()],
            "losses": self.losses,
            "rights": self.rights,
        }
        with disk(file), replacing(file) as out:
            torch.save(kept, out)

    def read(self, file: Path) -> None:
        try:
            kept = torch.load(file, map_location="cpu", weights_only=True)
            self._model.load_state_dict(kept["model"])
            self._optimizer.load_state_dict(kept["optimizer"])
            self._schedule.load_state_dict(kept["schedule"])
            own, everyones = kept["rng"]
            self.losses, self.rights = kept["losses"], kept["rights"]
        except Exception as error:  # a damaged file raises whatever its bytes provoke
            raise ModelError(f"'{file}' is damaged; remove it, and the training begins anew") from error
        self._rng.set_state(own)
        torch.set_rng_state(everyones)


def perturb(
    model: nn.Module,
    x: Float[Tensor, " n *shape"],
    y: Int[Tensor, " n"],
    *,
    eps: float,
    steps: int,
    rng: torch.Generator,
    step_size: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Float[Tensor, " n *shape"]:
    """Inputs within linf ``eps`` of ``x`` that raise the loss: PGD from a random start.

    ``step_size`` is 2.5·eps/steps unless given. ``model`` is used in the mode it is in.
    """
    step_size = 2.5 * eps / steps if step_size is None else step_size
    low, high = (x - eps).clamp(min=bounds[0]), (x + eps).clamp(max=bounds[1])
    noise = torch.rand(x.shape, generator=rng, dtype=x.dtype).to(x.device)
    here = low + (high - low) * noise
    for _ in range(steps):
        here.requires_grad_(True)
        loss = F.cross_entropy(model(here), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, here)
        here = torch.clamp(here.detach() + step_size * gradient.sign(), low, high)
    return here


@torch.no_grad()
def accuracy(model: nn.Module, x: Float[Tensor, " n *shape"], y: Int[Tensor, " n"], *, batch_size: int = 1024) -> float:
    """Share of right answers, 0 to 1, in the mode the model is in."""
    device = next(model.parameters()).device
    pairs = zip(x.split(batch_size), y.split(batch_size), strict=True)
    right = sum(int((model(inputs.to(device)).argmax(1) == labels.to(device)).sum()) for inputs, labels in pairs)
    return right / len(x)
