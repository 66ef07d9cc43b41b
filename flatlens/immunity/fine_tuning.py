"""Malicious fine-tuning as it happens: the whole network is trained on the harmful task, immunized and not.

A new head of the harmful classes takes the place of the network's own, on the same features, and all weights up to it
are trained with it, θ among them where one is appended. The protocol was fixed before any figure was seen, and is the
same for both networks:

- the harmful samples that θ was found on are trained on, those held out are tested on;
- SGD without momentum, the plain gradient that immunization is made against, and Adam, in batches of 64, no schedule;
- whoever fine-tunes chooses the learning rate: of three, for each network and optimizer, the one whose training loss
  is lowest after the last epoch, tried with the first seed;
- five seeds, which decide the new head's start and the order of the samples, alike for both networks.

The useful task is measured with the network's own head, kept frozen: what the network still answers, as it was given
away, while its features are changed under it. That is what a user of the fine-tuned weights would see. Refitting a
probe at each epoch would tell another thing: what could still be learnt from the features. Before the first epoch both
networks give the same answers, for θ is undone by the head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlens.errors import DataError
from flatlens.immunity.attackers import IDENTITY, IMMUNIZED
from flatlens.models import randomness
from flatlens.progress import Progress, Report
from flatlens.victims.checks import first_input
from flatlens.victims.layers import as_logits

EPOCHS, BATCH = 10, 64
SEEDS = (0, 1, 2, 3, 4)
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[float, ...]]] = {
    "sgd": (torch.optim.SGD, (1e-3, 1e-2, 1e-1)),
    "adam": (torch.optim.Adam, (1e-4, 1e-3, 1e-2)),
}
"""Optimizer -> how it is made, and the learning rates that are tried."""
HARMFUL, PRIMARY = "harmful", "primary"
"""Tasks."""
SCHEMA = pa.schema(
    [
        ("extractor", pa.string()),
        ("optimizer", pa.string()),
        ("seed", pa.int32()),
        ("epoch", pa.int32()),
        ("task", pa.string()),
        ("accuracy", pa.float64()),
        ("loss", pa.float64()),
    ]
)
"""A row an epoch and task, epoch 0 before the first: share of right answers, and mean cross-entropy in nats, on samples
that were held out. ``extractor`` is ``immunized`` or ``identity``, as in the table of attackers."""
AT_ONCE = 1024


class Network(NamedTuple):
    """A network as it is given away.

    Attributes:
        model: returns logits.
        head: the name of the Linear layer that the new head takes the place of; "" where the model itself is it.
    """

    model: nn.Module
    head: str


class Samples(NamedTuple):
    """Inputs ``[n, …]`` and labels ``[n]``."""

    x: Tensor
    y: Tensor


class Data(NamedTuple):
    """What is trained on and tested on; all labels are the network's own.

    Attributes:
        train: of the harmful task.
        harmful: held out of it.
        primary: held out of the useful task.
    """

    train: Samples
    harmful: Samples
    primary: Samples


class Trial(NamedTuple):
    """One fine-tuning."""

    extractor: str
    optimizer: str
    rate: float
    seed: int


class Done(NamedTuple):
    """What became of a trial.

    Attributes:
        training_loss: the mean over the last epoch's batches, in nats; infinite where it was not finite.
        rows: rows of `SCHEMA`.
    """

    training_loss: float
    rows: list[dict[str, Any]]


class Trials(Protocol):
    """Where finished trials are kept, so that an interrupted fine-tuning is gone on with."""

    def found(self, trial: Trial) -> Done | None:
        """What became of a trial that was finished before."""

    def keep(self, trial: Trial, done: Done) -> None:
        """Keep one that is finished."""


class FineTuned(NamedTuple):
    """What came of it.

    Attributes:
        table: rows of `SCHEMA`.
        rates: extractor -> optimizer -> the learning rate that was chosen.
    """

    table: pa.Table
    rates: dict[str, dict[str, float]]


def fine_tuned(
    immunized: Network,
    identity: Network,
    data: Data,
    *,
    epochs: int = EPOCHS,
    kept: Trials | None = None,
    progress: Report | None = None,
) -> FineTuned:
    """Fine-tune both networks on the harmful task, by each optimizer and with five seeds.

    Args:
        immunized: the network that is to be hard to misuse.
        identity: the same one as it was before; both have the same answers. Neither is changed.
        data: of both tasks.
        epochs: passes over the harmful samples.
        kept: where finished trials are kept.
        progress: called after each trial.

    Returns:
        The table, and the learning rates that were chosen.

    Raises:
        DataError: a label of the useful task that the network's own head does not know.
    """
    networks = {IMMUNIZED: immunized, IDENTITY: identity}
    with torch.no_grad():
        classes = as_logits(identity.model.eval()(data.primary.x[:1].to(_device(identity.model)))).shape[1]
    if (most := int(data.primary.y.max())) >= classes:
        raise DataError(
            f"the primary data have a label {most} and the model {classes} classes: the useful task is measured with "
            "the model's own head; give data of its classes"
        )
    total = len(networks) * sum(len(rates) + len(SEEDS) - 1 for _, rates in OPTIMIZERS.values())
    count, rows = 0, list[dict[str, Any]]()
    chosen: dict[str, dict[str, float]] = {}

    def done(trial: Trial) -> Done:
        nonlocal count
        found = kept.found(trial) if kept else None
        if found is None:
            found = _tuned(networks[trial.extractor], data, trial, epochs)
            if kept:
                kept.keep(trial, found)
        count += 1
        if progress:
            progress(Progress(count, total, f"fine-tuning the {trial.extractor} network by {trial.optimizer}"))
        return found

    for extractor in networks:
        for optimizer, (_, rates) in OPTIMIZERS.items():
            first = {rate: done(Trial(extractor, optimizer, rate, SEEDS[0])) for rate in rates}
            rate = min(rates, key=lambda rate: first[rate].training_loss)
            chosen.setdefault(extractor, {})[optimizer] = rate
            rows += first[rate].rows
            for seed in SEEDS[1:]:
                rows += done(Trial(extractor, optimizer, rate, seed)).rows
    return FineTuned(pa.Table.from_pylist(rows, SCHEMA), chosen)


def told(found: FineTuned, epochs: int) -> dict[str, Any]:
    """What it was and where it ended, as plain data.

    Returns:
        ``epochs``, ``seeds``, ``batch_size``, ``primary_head`` ("frozen"), ``rates``, and ``accuracy``: extractor ->
        optimizer -> task -> ``start``, ``first`` (after one epoch) and ``end``, means over seeds, and ``least`` and
        ``most`` at the end.
    """
    accuracy: dict[str, Any] = {}
    rows, moments = found.table.to_pylist(), {"start": 0, "first": 1, "end": epochs}
    for key in dict.fromkeys((row["extractor"], row["optimizer"], row["task"]) for row in rows):
        mine = [row for row in rows if (row["extractor"], row["optimizer"], row["task"]) == key]
        at = {name: [row["accuracy"] for row in mine if row["epoch"] == e] for name, e in moments.items()}
        of = accuracy.setdefault(key[0], {}).setdefault(key[1], {})
        means = {name: float(np.mean(values)) for name, values in at.items()}
        of[key[2]] = means | {"least": min(at["end"]), "most": max(at["end"])}
    plain = {"epochs": epochs, "seeds": list(SEEDS), "batch_size": BATCH, "primary_head": "frozen"}
    return plain | {"rates": found.rates, "accuracy": accuracy}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _tuned(network: Network, data: Data, trial: Trial, epochs: int) -> Done:
    """One fine-tuning, on a copy."""
    model = copy.deepcopy(network.model).requires_grad_(True)
    own = model.get_submodule(network.head)
    assert isinstance(own, nn.Linear)
    names = torch.unique(torch.cat([data.train.y, data.harmful.y]))
    y, harmful = (
        torch.searchsorted(names, data.train.y),
        Samples(data.harmful.x, torch.searchsorted(names, data.harmful.y)),
    )
    with randomness.seeded(trial.seed, model):
        new = nn.Linear(own.in_features, len(names)).to(own.weight)
        frozen = {id(parameter) for parameter in own.parameters()}
        weights = [parameter for parameter in model.parameters() if id(parameter) not in frozen]
        optimizer = OPTIMIZERS[trial.optimizer][0]([*weights, *new.parameters()], lr=trial.rate)
        order = torch.Generator().manual_seed(trial.seed)
        rows, loss = [*_judged(model, own, new, harmful, data.primary, trial, 0)], math.inf
        for epoch in range(1, epochs + 1):
            model.train()
            total = 0.0
            for index in torch.randperm(len(y), generator=order).split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                _, features = passed(model, own, data.train.x[index])
                value = F.cross_entropy(new(features), y[index].to(features.device))
                if torch.isfinite(value):
                    value.backward()
                    optimizer.step()
                total += value.item() * len(index)
            loss = total / len(y) if math.isfinite(total) else math.inf
            rows += _judged(model, own, new, harmful, data.primary, trial, epoch)
    return Done(loss, rows)


def passed(model: nn.Module, own: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The network's logits, and the features that its head takes."""
    seen: list[Tensor] = []
    hook = own.register_forward_pre_hook(lambda _, args, given: seen.append(first_input(args, given)), with_kwargs=True)
    try:
        logits = as_logits(model(x.to(_device(model))))
    finally:
        hook.remove()
    return logits, seen[0]


@torch.no_grad()
def _judged(
    model: nn.Module, own: nn.Module, new: nn.Linear, harmful: Samples, primary: Samples, trial: Trial, epoch: int
) -> Iterator[dict[str, Any]]:
    """Both tasks' rows of an epoch."""
    model.eval()
    for task, (x, y) in ((HARMFUL, harmful), (PRIMARY, primary)):
        passes = (passed(model, own, part) for part in x.split(AT_ONCE))
        said = torch.cat([new(features) if task == HARMFUL else logits for logits, features in passes]).cpu()
        yield {
            "extractor": trial.extractor,
            "optimizer": trial.optimizer,
            "seed": trial.seed,
            "epoch": epoch,
            "task": task,
            "accuracy": float((said.argmax(1) == y).double().mean()),
            "loss": float(F.cross_entropy(said.double(), y)),
        }


def by_rows(x: Any, y: Any, rows: Any) -> Samples:
    """Some of the inputs and labels, as tensors."""
    return Samples(torch.from_numpy(np.asarray(x)[rows]), torch.from_numpy(np.asarray(y)[rows]))


__all__ = ["Data", "Done", "FineTuned", "Network", "Samples", "Trial", "Trials", "fine_tuned", "passed", "told"]
