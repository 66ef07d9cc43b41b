"""The networks that a claim is tried on: the shipped ones, five that are trained from seeds, or the user's own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from flatlens.claims.claim import ROBUST, STANDARD, TEXT, Claim
from flatlens.errors import DataError, FlatlensError
from flatlens.specs.values import DEFAULT_LINF_EPS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from flatlens.datasets import Dataset
    from flatlens.models.loaders import Loaded

DIGITS = "flatlens:digits"
EPS = {DIGITS: 0.3}
"""Radii in linf at which an attack on a standard network always succeeds, by the data; of others 8/255."""
SEEDS = (30, 31, 32, 33, 34)
"""Of the networks of ``--full``: initial weights, order of the samples and attack. No prototype used them."""
QUICK_SEED = 0
"""Of the one network that ``--quick`` trains for a claim whose networks are not among the shipped ones."""
TRAINING: dict[str, dict[str, Any]] = {
    STANDARD: {"epochs": 15, "lr": 0.003, "batch_size": 32, "weight_decay": 0.05},
    ROBUST: {"epochs": 30, "lr": 0.003, "batch_size": 32, "weight_decay": 0.05, "adversarial": "pgd", "eps": 0.1},
}
"""How they are trained, on the training split."""
ARCHITECTURE = "flatlens:cnn?seed={seed}"
SHIPPED = {STANDARD: "flatlens:digits-cnn", ROBUST: "flatlens:digits-cnn-robust", TEXT: "lm:flatlens-tiny"}


@dataclass(frozen=True)
class Net:
    """A network by name.

    Attributes:
        name: in tables and pages, unlike all others of a claim.
        uris: kind -> the name of the model; the twins of a case stand together.
        data: the name of its data.
        eps: radius in linf.
        seed: of its training, and of all noise; None of a network that was there.
        weights: what the user's own networks hold now, so that another one under the same name is measured anew.
        trainings: kind -> how it is trained, beside `TRAINING`; fields of a `TrainSpec`.
    """

    name: str
    uris: Mapping[str, str]
    data: str
    eps: float
    seed: int | None = None
    weights: str = ""
    trainings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether it is trained from its seed."""
        return self.seed is not None


def chosen(
    claim: Claim,
    *,
    full: bool,
    models: Sequence[str] = (),
    twins: Sequence[str] = (),
    data: str | None = None,
    eps: float | None = None,
) -> list[Net]:
    """The networks of a claim.

    Args:
        claim: whose ``kinds`` are wanted.
        full: five that are trained from `SEEDS`, else the shipped one.
        models: the user's own instead.
        twins: of these, trained against an attack; as many as there are models.
        data: of the models.
        eps: radius in linf.
    """
    uri = data or DIGITS
    radius = eps if eps is not None else EPS.get(uri.partition("?")[0], DEFAULT_LINF_EPS)
    if models:
        twin: Sequence[str | None] = [*twins, *[None] * (len(models) - len(twins))]
        return [
            Net(
                one,
                {claim.kinds[0]: one} | ({ROBUST: other} if other else {}),
                uri,
                radius,
                None,
                known(uri, one, other),
            )
            for one, other in zip(models, twin, strict=True)
        ]
    if TEXT in claim.kinds or not (full or claim.trainings):
        uris = {kind: SHIPPED[kind] for kind in claim.kinds}
        return [Net(uris[claim.kinds[0]], uris, uri, radius)]
    seeds = (claim.seeds or SEEDS) if full else (QUICK_SEED,)
    made = {kind: claim.trainings.get(kind, {}).get("model", ARCHITECTURE) for kind in claim.kinds}
    trainings = {
        kind: {key: value for key, value in fields.items() if key != "model"}
        for kind, fields in claim.trainings.items()
    }
    return [
        Net(
            f"seed {seed}",
            {kind: model.format(seed=seed) for kind, model in made.items()},
            uri,
            radius,
            seed,
            trainings=trainings,
        )
        for seed in seeds
    ]


@cache
def known(data: str, *uris: str | None) -> str:
    """The weights of models, by their hashes; of one that cannot be loaded nothing: it fails where it is measured.

    Remembered, as all claims ask for the same ones; `reproduce` forgets it when it begins.
    """
    from flatlens import datasets, models

    found = []
    for uri in filter(None, uris):
        with contextlib.suppress(FlatlensError):
            of = datasets.load(datasets.with_split(data, "test"))
            found.append(models.load(uri, shape=tuple(of.x.shape[1:]), classes=of.classes).sha256)
    return " ".join(found)


@dataclass
class Case:
    """One network at hand, with what a claim's ``measure`` needs.

    Attributes:
        net: which one.
        size: samples at most.
        full: whether the claim is tried in full.
    """

    net: Net
    size: int
    full: bool = False
    _loaded: dict[str, Loaded] = field(default_factory=dict)

    @cached_property
    def data(self) -> Dataset:
        """The test split of the network's data."""
        from flatlens import datasets

        return datasets.load(datasets.with_split(self.net.data, "test"))

    @property
    def eps(self) -> float:
        """Radius in linf."""
        return self.net.eps

    @property
    def seed(self) -> int:
        """Of all noise."""
        return self.net.seed or 0

    def loaded(self, kind: str = STANDARD) -> Loaded:
        """The network of a kind, trained now or found again; in eval mode."""
        if kind not in self._loaded:
            self._loaded[kind] = self._load(kind)
        return self._loaded[kind]

    def _load(self, kind: str) -> Loaded:
        from flatlens import models
        from flatlens.specs.train import TrainSpec
        from flatlens.training import recipes

        uri = self.net.uris[kind]
        if self.net.trained:
            how = self.net.trainings.get(kind) or TRAINING[kind]
            return recipes.obtain(uri, TrainSpec(self.net.data, seed=self.seed, **how))
        return models.load(uri, shape=tuple(self.data.x.shape[1:]), classes=self.data.classes)

    def model(self, kind: str = STANDARD) -> nn.Module:
        """The network of a kind; a claim must not change it."""
        return self.loaded(kind).model

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, right or not: ``x``, ``y`` and their numbers; at most `size`, the first of the test split."""
        import torch

        x, y, ids = (torch.from_numpy(part[: self.size]) for part in (self.data.x, self.data.y, self.data.ids))
        return x, y, ids

    def right(self, *kinds: str) -> tuple[Tensor, Tensor, Tensor]:
        """Samples that all networks of these kinds classify as labelled: ``x``, ``y`` and their numbers.

        At most `size`, the first of the test split. Without a kind: of the standard network.

        Raises:
            DataError: there are none.
        """
        import torch

        x, y, ids = (torch.from_numpy(part) for part in (self.data.x, self.data.y, self.data.ids))
        keep = torch.ones(len(y), dtype=torch.bool)
        for kind in kinds or (STANDARD,):
            keep &= predicted(self.model(kind), x) == y
        rows = keep.nonzero().flatten()[: self.size]
        if not len(rows):
            raise DataError(f"'{self.net.name}' is right at none of the {len(y)} samples of '{self.data.uri}'")
        return x[rows], y[rows], ids[rows]


def predicted(model: nn.Module, x: Tensor, *, batch: int = 256) -> torch.Tensor:
    """The classes that a network tells, ``[n]``."""
    import torch

    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(batch)])
