"""Immunization of a whole network: its weights are trained so that the harmful task becomes ill conditioned.

The useful task's cross-entropy by the network's own head, plus WEIGHT · (log R_well of a batch's primary features + log
R_ill of a batch of harmful ones), or the latter alone (`deep_terms`); Adam. The protocol was fixed before any figure
that is told was seen.

A linear map before the head hides nothing, and this does: features that the harmful task needs are destroyed. What is
lost is measured on samples that were held out, beside the condition numbers: the accuracy of a least-squares probe on
the features, for which conditioning is no obstacle, on both tasks, and that of the network's own head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from flatlens.errors import DataError, ModelError, SpecError
from flatlens.files.atomic import disk, replacing
from flatlens.hessian.condition import Floats, condition_of
from flatlens.immunity.deep_terms import METHODS
from flatlens.immunity.fine_tuning import Data, Network, Samples, passed
from flatlens.models import randomness
from flatlens.progress import Progress, Report
from flatlens.victims.layers import as_logits

WEIGHT, RATE, BATCH, EPOCHS = 1.0, 1e-3, 256, 10
PROBE_RIDGE = 1e-6
"""Of the least-squares probe, times the mean eigenvalue: so small that conditioning is no obstacle to it."""
AT_ONCE = 1024


class Judged(NamedTuple):
    """What a network can do, on samples that were held out.

    Attributes:
        primary_accuracy: the share of right answers of its own head on the useful task.
        primary_probe: that of a least-squares probe on its features, learnt on the other samples.
        harmful_probe: the same on the harmful task.
        primary: ``condition_number`` (with the ridge), ``effective`` and ``rank`` of the useful task's features.
        harmful: those of the harmful task's.
    """

    primary_accuracy: float
    primary_probe: float
    harmful_probe: float
    primary: dict[str, float | None]
    harmful: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return self._asdict()


class Parts(NamedTuple):
    """The samples of both tasks, those trained on and those held out; all labels are the network's own."""

    primary: Samples
    primary_held: Samples
    harmful: Samples
    harmful_held: Samples

    def tuning(self) -> Data:
        """What a fine-tuning takes of them."""
        return Data(self.harmful, self.harmful_held, self.primary_held)


def immunized(
    network: Network,
    parts: Parts,
    *,
    method: str = "alg1",
    ridge: float = 1e-2,
    epochs: int = EPOCHS,
    seed: int = 0,
    snapshot: Path | None = None,
    identity: str = "",
    progress: Report | None = None,
) -> nn.Module:
    """A copy of a network, trained to make the harmful task ill conditioned and to go on with the useful one.

    Args:
        network: the network; not changed.
        parts: the samples; those held out are not looked at.
        method: one of `METHODS`.
        ridge: ρ, in units of the mean eigenvalue of each batch's Hessian.
        epochs: passes over the primary samples.
        seed: of the order of the samples.
        snapshot: a file that holds all that the next epoch depends on; where it is there, it is gone on from, to the
            same bits. It is the caller's to remove.
        identity: what the training is of; a snapshot of another one is not gone on from.
        progress: called after each epoch.

    Returns:
        The network, in eval mode.

    Raises:
        SpecError: a method that there is not.
        ModelError: the objective stopped being finite, or the snapshot is damaged.
    """
    if method not in METHODS:
        raise SpecError(f"--method {method}: a whole network is immunized by {' or '.join(METHODS)}")
    model = copy.deepcopy(network.model).requires_grad_(True)
    head = model.get_submodule(network.head)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(seed)
    with randomness.seeded(seed, model):
        begun = _read(snapshot, identity, model, optimizer, order)
        for epoch in range(begun, epochs):
            model.train()
            for own, other in _batches(len(parts.primary.y), len(parts.harmful.y), order):
                optimizer.zero_grad(set_to_none=True)
                logits, primary = passed(model, head, parts.primary.x[own])
                _, harmful = passed(model, head, parts.harmful.x[other])
                value = F.cross_entropy(logits, parts.primary.y[own].to(logits.device))
                value = value.cpu() + WEIGHT * METHODS[method](primary, harmful, ridge)
                if not torch.isfinite(value):
                    raise ModelError(f"the objective is {value.item()} in epoch {epoch + 1}; give a larger --ridge")
                value.backward()
                optimizer.step()
            _write(snapshot, identity, model, optimizer, order, epoch + 1)
            if progress:
                progress(Progress(epoch + 1, epochs, "immunizing the whole network"))
    return model.eval().requires_grad_(False)


def judged(network: Network, parts: Parts, ridge: float) -> Judged:
    """What a network can do; see `Judged`.

    Raises:
        DataError: a label of the useful task that the network's own head does not know.
    """
    model = network.model.eval()
    head = model.get_submodule(network.head)
    (x, _), (held, logits), (z, _), (z_held, _) = (_features(model, head, samples.x) for samples in parts)
    if (most := int(parts.primary.y.max())) >= logits.shape[1]:
        raise DataError(
            f"the primary data have a label {most} and the model {logits.shape[1]} classes: a whole network is trained "
            "with its own head; give data of its classes"
        )
    return Judged(
        float((logits.argmax(1) == parts.primary_held.y).double().mean()),
        _probe(x, parts.primary.y, held, parts.primary_held.y),
        _probe(z, parts.harmful.y, z_held, parts.harmful_held.y),
        _figures(held, ridge),
        _figures(z_held, ridge),
    )


def weights(model: nn.Module) -> bytes:
    """The bytes of a file of a network's weights."""
    return save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})


def _batches(primary: int, harmful: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of a batch of each task, for each batch of the useful one; batch norms need two samples."""
    for own in torch.randperm(primary, generator=order).split(BATCH):
        other = torch.randperm(harmful, generator=order)[:BATCH]
        if len(own) > 1:
            yield own, other


@torch.no_grad()
def _features(model: nn.Module, head: nn.Module, x: Tensor) -> tuple[Floats, Tensor]:
    taken = [passed(model, head, part) for part in x.split(AT_ONCE)]
    features = torch.cat([features for _, features in taken]).cpu().double().numpy()
    return features, torch.cat([as_logits(logits) for logits, _ in taken]).cpu()


def _probe(x: Floats, y: Tensor, held: Floats, z: Tensor) -> float:
    """The accuracy of the least-squares probe; it has a constant among its features."""
    names = np.unique(y.numpy())
    x, held = (np.column_stack([part, np.ones(len(part))]) for part in (x, held))
    added = (PROBE_RIDGE * float((x**2).sum()) / x.shape[1]) ** 0.5 * np.eye(x.shape[1])
    targets = (y.numpy()[:, None] == names).astype(np.float64)
    w, *_ = np.linalg.lstsq(np.vstack([x, added]), np.vstack([targets, np.zeros((len(added), len(names)))]), rcond=None)
    return float((names[(held @ w).argmax(1)] == z.numpy()).mean())


def _figures(x: Floats, ridge: float) -> dict[str, float | None]:
    names = ("condition_number", "effective", "rank")
    try:
        found = condition_of(x, ridge)
    except DataError:  # too few samples, or no features are left: there is no figure
        return dict.fromkeys(names)
    told = {name: getattr(found, name) for name in names}
    return {name: value if math.isfinite(value) else None for name, value in told.items()}


def _write(
    file: Path | None, identity: str, model: nn.Module, optimizer: Any, order: torch.Generator, epochs: int
) -> None:
    if file is None:
        return
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epochs, "identity": identity}
    with disk(file), replacing(file) as out:
        torch.save(kept | {"rng": [order.get_state(), *randomness.states(model)]}, out)


def _read(file: Path | None, identity: str, model: nn.Module, optimizer: Any, order: torch.Generator) -> int:
    """How many epochs a snapshot is of, which is put into the model; 0 where there is none of this training."""
    if file is None or not file.exists():
        return 0
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        if kept["identity"] != identity:
            return 0
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        own, cpu, *gpus = kept["rng"]
        epochs = int(kept["epochs"])
    except Exception as error:  # a damaged file raises whatever its bytes provoke
        raise ModelError(f"'{file}' is damaged; remove it, and the training begins anew") from error
    order.set_state(own)
    randomness.go_on_from([cpu, *gpus], model)
    return epochs


__all__ = ["METHODS", "Judged", "Parts", "immunized", "judged", "weights"]
