"""Training of small models, standard or defended along four axes, in torch's own terms.

A step, whatever the axes:

    attacked = inner(model, x, y)                    in eval mode; statistics stay
    gradient of loss(clean, attacked) + penalties    in train mode
    where weights are perturbed: the same once more at weights + deltas
    a step of AdamW
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flatlens.errors import DataError, ModelError, SpecError
from flatlens.files.atomic import disk, replacing
from flatlens.models import randomness
from flatlens.training.conditions import Conditions
from flatlens.training.inner import Free, Inner
from flatlens.training.losses import Adversarial, Loss, cross_entropy
from flatlens.training.passes import Pass, forward, head_of
from flatlens.training.penalties import CLEAN, Penalty
from flatlens.training.watch import Watch
from flatlens.training.weights import WeightStep, moved
from flatlens.victims.layers import as_logits


class History(NamedTuple):
    """What each epoch left: mean loss and share of right answers, both on the inputs trained with.

    ``epoch`` is the one whose weights the model ends with, counted from 1.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    epoch: int


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
    inner: Inner | None = None,
    loss: Loss | None = None,
    weights: WeightStep | None = None,
    penalty: Penalty | Sequence[Penalty] = (),
    eps: float = 0.1,
    eps_warmup: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    watch: Watch | None = None,
    conditions: Conditions | None = None,
    keep_best: bool = False,
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
        inner: an attack of `flatlens.training.inner`, or None to train on clean inputs.
        loss: one of `flatlens.training.losses`; `Adversarial` unless given. Without an attack it is the cross-entropy.
        weights: a perturbation of `flatlens.training.weights`, or None.
        penalty: one or several of `flatlens.training.penalties`.
        eps: radius of the attack, and the unit of the input-gradient penalty.
        eps_warmup: epochs in which it rises from 0 in equal steps.
        bounds: range of valid inputs.
        watch: looks at some samples after each epoch.
        conditions: looks at the head's features before the first epoch and after each.
        keep_best: end with the weights of the epoch that did best on the watched samples.
        snapshot: a file that holds all that the next epoch depends on, written after each; where it is there, the
            training goes on from it, to the same bits as if it had never stopped. It is the caller's to remove.
        progress: called after each step with the number of steps done, and the last loss.

    Raises:
        LayerError: the penalty needs a head, and the model has none.
        SpecError: `Free` with a loss of two passes, or with a perturbation of weights.
        DataError: inputs outside of the bounds that an attack stays within.
        ModelError: the loss stopped being finite.
        DiskError: the snapshot cannot be written.
    """
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    _check(x, inner, loss, weights, bounds)
    penalties = tuple(penalty) if isinstance(penalty, Sequence) else (penalty,)
    step = _Step(model, x, inner, loss or Adversarial(), weights, penalties, bounds, rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    batches = len(_parts(torch.arange(len(x)), batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches * step.replays)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if inner is not None:
        parts["inner"] = inner
    if watch is not None:
        parts["watch"] = watch
    if conditions is not None:
        parts["conditions"] = conditions
    state = _State(parts, rng)
    with randomness.seeded(rng.initial_seed(), model):
        if snapshot is not None and snapshot.exists():
            state.read(snapshot)
        if conditions is not None and not conditions.rows:
            conditions.look(model, 0)
        for epoch in range(len(state.losses), epochs):
            began, total, right = time.perf_counter(), 0.0, 0
            radius = eps * min(1.0, (epoch + 1) / (eps_warmup + 1))
            for index in _parts(torch.randperm(len(x), generator=rng), batch_size):
                inputs, labels = x[index.to(device)], y[index.to(device)]
                for _ in range(step.replays):
                    value, logits = step(optimizer, inputs, labels, epoch, radius)
                    if not torch.isfinite(value):
                        raise ModelError(
                            f"the loss is {value.item()} in epoch {epoch + 1}{step.blame}; lower lr {lr:g}"
                        )
                    optimizer.step()
                    schedule.step()
                    progress(schedule.last_epoch, float(value))
                total += float(value) * len(index)
                right += int((logits.argmax(1) == labels).sum())
            state.losses.append(total / len(x))
            state.rights.append(right / len(x))
            if watch is not None:
                seconds = time.perf_counter() - began
                rate = optimizer.param_groups[0]["lr"]
                last = epoch == epochs - 1
                watch.look(model, epoch + 1, total / len(x), right / len(x), rate, seconds, last=last, inner=inner)
                if keep_best and watch.is_best:
                    state.best = {k: v.detach().clone() for k, v in model.state_dict().items()}
            if conditions is not None:
                conditions.look(model, epoch + 1)
            if snapshot is not None:
                state.write(snapshot)
    model.eval()
    ends = epochs
    if state.best is not None and watch is not None:
        model.load_state_dict(state.best)
        ends = watch.best
    return History(tuple(state.losses), tuple(state.rights), ends)


def _check(
    x: Tensor, inner: Inner | None, loss: Loss | None, weights: WeightStep | None, bounds: tuple[float, float]
) -> None:
    """Refuse what would train on something else than what was asked for."""
    if inner is None:
        return
    if isinstance(inner, Free) and (weights is not None or (loss is not None and loss.passes > 1)):
        other = weights if weights is not None else loss
        raise SpecError(
            f"Free with {type(other).__name__}: free makes one pass, on attacked inputs alone, which moves the weights "
            "as well; use FGSM or PGD"
        )
    low, high = bounds
    slack = 4 * torch.finfo(x.dtype).eps * max(abs(low), abs(high))
    outside = int(((x < low - slack) | (x > high + slack)).flatten(1).any(1).sum())
    if outside:
        raise DataError(
            f"{outside} of {len(x)} inputs lie outside the bounds [{low:g}, {high:g}], which attacks stay within: they "
            f"run from {float(x.min()):g} to {float(x.max()):g}; scale them, or give bounds that hold them"
        )


class _Step:
    """What one step minimises, and its gradient; the optimiser's own step is the loop's."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        inner: Inner | None,
        loss: Loss,
        weights: WeightStep | None,
        penalties: tuple[Penalty, ...],
        bounds: tuple[float, float],
        rng: torch.Generator,
    ) -> None:
        self._model, self._inner, self._loss, self._weights = model, inner, loss, weights
        self._penalties, self._bounds, self._rng = penalties, bounds, rng
        self._head = head_of(model, x[:2]) if any(p.head for p in penalties) else None
        self._slope = any(p.slope for p in penalties) or isinstance(inner, Free)
        self._clean = inner is None or loss.passes > 1 or any(p.at == CLEAN for p in penalties)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.blame = ""
        """Of a loss that is not finite: which axis it comes from."""

    @property
    def replays(self) -> int:
        """Steps on each batch."""
        return 1 if self._inner is None else self._inner.replays

    def __call__(
        self, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, epoch: int, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Leave the gradient in the parameters' ``.grad``. Returns the objective, and the logits trained on."""
        attacked = None if self._inner is None else self._attack(x, y, eps)
        self._model.train()
        optimizer.zero_grad(set_to_none=True)
        value, here = self._objective(x, attacked, y, eps)
        if not torch.isfinite(value):
            return value.detach(), here.logits
        value.backward()
        if isinstance(self._inner, Free) and here.x.grad is not None:
            self._inner.learn(here.x.grad, eps)
        if self._weights is not None and self._weights.starts(epoch):
            own = [p for p in self._parameters if p.grad is not None]
            deltas = self._weights.deltas(own, [p.grad for p in own if p.grad is not None])
            with moved(self._model, own, deltas):
                optimizer.zero_grad(set_to_none=True)
                worse, _ = self._objective(x, attacked, y, eps)
                if not torch.isfinite(worse):
                    self.blame = self.blame or f", at weights made worse by --perturb-weights {_flag(self._weights)}"
                    return worse.detach(), here.logits.detach()
                worse.backward()
        return value.detach(), here.logits.detach()

    def _attack(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        assert self._inner is not None
        self._model.eval()  # the attack must not move the statistics of batch norms
        clean = None
        if self._loss.answers:
            with torch.no_grad():
                clean = as_logits(self._model(x))
        return self._inner(self._model, x, y, self._loss.ascends(clean, y), eps=eps, bounds=self._bounds, rng=self._rng)

    def _objective(self, x: Tensor, attacked: Tensor | None, y: Tensor, eps: float) -> tuple[Tensor, Pass]:
        """The mean objective with its graph, and the pass that is trained on."""
        clean = None
        if self._clean:
            clean = forward(self._model, self._leaf(x) if attacked is None else x, y, self._head)
        if attacked is None:
            assert clean is not None
            here, values = clean, cross_entropy(clean.logits, y)
        else:
            here = forward(self._model, self._leaf(attacked), y, self._head)
            values = self._loss(None if clean is None else clean.logits, here.logits, y)
        of_loss, added = values.mean(), []
        value, self.blame = of_loss, ""
        for penalty in self._penalties:
            at = clean if penalty.at == CLEAN and clean is not None else here
            added.append(penalty(self._model, at, eps).mean())
            value = value + added[-1]
        if not torch.isfinite(value):
            # One look at the sum in every step; which of its terms it comes from is looked for only here.
            self.blame = self._blamed(of_loss, added, [p for p in (clean, here) if p is not None])
        return value, here

    def _blamed(self, of_loss: Tensor, added: list[Tensor], passes: list[Pass]) -> str:
        """Which axis made an objective not finite; empty where the model's answers themselves are not."""
        if torch.isfinite(of_loss):
            wrong = (p for p, term in zip(self._penalties, added, strict=True) if not torch.isfinite(term))
            return f", by --penalty {_flag(next(wrong, self._penalties[-1]))}"
        # Finite answers of which a cross-entropy would be finite too: it is the loss's own doing.
        plain = torch.cat([cross_entropy(p.logits, p.y) for p in passes])
        return f", by --loss {_flag(self._loss)}" if self._inner is not None and torch.isfinite(plain).all() else ""

    def _leaf(self, x: Tensor) -> Tensor:
        return x.detach().requires_grad_(True) if self._slope else x


def _flag(axis: object) -> str:
    """What chooses an object of an axis on the command line."""
    name = type(axis).__name__
    return {"InputGradient": "gradient"}.get(name, name.lower())


def _parts(order: Tensor, size: int) -> list[Tensor]:
    """The order in batches; a last one of a single sample, which batch norm cannot take, joins the one before."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class _State:
    """All that the next epoch depends on."""

    def __init__(self, parts: Mapping[str, Any], rng: torch.Generator) -> None:
        self._parts, self._rng = parts, rng
        self.losses: list[float] = []
        self.rights: list[float] = []
        self.best: dict[str, Tensor] | None = None

    def write(self, file: Path) -> None:
        kept = {name: part.state_dict() for name, part in self._parts.items()} | {
            "rng": [self._rng.get_state(), *randomness.states(self._parts["model"])],
            "losses": self.losses,
            "rights": self.rights,
            "best": self.best,
        }
        with disk(file), replacing(file) as out:
            torch.save(kept, out)

    def read(self, file: Path) -> None:
        try:
            kept = torch.load(file, map_location="cpu", weights_only=True)
            for name, part in self._parts.items():
                if name in kept:
                    part.load_state_dict(kept[name])
            own, cpu, *gpus = kept["rng"]
            self.losses, self.rights, self.best = kept["losses"], kept["rights"], kept.get("best")
        except Exception as error:  # a damaged file raises whatever its bytes provoke
            raise ModelError(f"'{file}' is damaged; remove it, and the training begins anew") from error
        self._rng.set_state(own)
        randomness.go_on_from([cpu, *gpus], self._parts["model"])


@torch.no_grad()
def accuracy(model: nn.Module, x: Float[Tensor, " n *shape"], y: Int[Tensor, " n"], *, batch_size: int = 1024) -> float:
    """Share of right answers, 0 to 1, in the mode the model is in."""
    device = next(model.parameters()).device
    pairs = zip(x.split(batch_size), y.split(batch_size), strict=True)
    answers = ((as_logits(model(inputs.to(device))).argmax(1), labels.to(device)) for inputs, labels in pairs)
    return sum(int((answer == labels).sum()) for answer, labels in answers) / len(x)
