"""Training of small models, standard or adversarial (Madry et al. 2018), in torch's own terms."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.errors import ModelError, SpecError, unknown

ADVERSARIAL = ("pgd",)


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
) -> History:
    """Train ``model`` in place with Adam and a cosine schedule; it is left in eval mode.

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

    Raises:
        SpecError: an unknown way of adversarial training.
        ModelError: the loss stopped being finite.
    """
    if adversarial is not None and adversarial not in ADVERSARIAL:
        raise SpecError(unknown("adversarial training", adversarial, ADVERSARIAL, where="there are"))
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    batches = math.ceil(len(x) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    losses, rights = [], []
    for epoch in range(epochs):
        total, right = 0.0, 0
        for index in torch.randperm(len(x), generator=rng).to(device).split(batch_size):
            inputs, labels = x[index], y[index]
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
        losses.append(total / len(x))
        rights.append(right / len(x))
    model.eval()
    return History(tuple(losses), tuple(rights))


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
