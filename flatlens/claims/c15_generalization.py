"""C15: networks whose relative flatness measure is smaller generalize better, whatever their parametrisation."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.nets import DIGITS, Case
from flatlens.claims.statistics import Table, correlation, exceptions, mean, partial
from flatlens.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

ARCHITECTURE = "flatlens:mlp?width=64&depth=2"
SEEN = 300
"""Samples that are trained on; the others tell how well a network generalizes."""
RATES, BATCHES, DECAYS = (0.01, 0.03, 0.1, 0.3), (8, 32, 128), (0.0, 1e-3, 5e-3)
LOSS, EPOCHS = 0.05, 300
"""Training ends at this mean loss, and after so many epochs a network that has not reached it is left out."""

CLAIM = Claim(
    name="C15",
    title="Flatter networks generalize better",
    source="Petzka et al., arXiv 2001.00939",
    reported="relative flatness correlates with the generalization error, and does not change under reparametrisation",
    question="Over networks trained alike well, does κ of the training loss rank the error on samples not seen?",
    protocol={
        "nets": f"{ARCHITECTURE} by SGD: learning rates {', '.join(map(str, RATES))} × batches of "
        f"{', '.join(map(str, BATCHES))} × weight decay {', '.join(f'{one:g}' for one in DECAYS)}, each to a training "
        f"loss of {LOSS}; such a study for each of five seeds",
        "data": f"flatlens:digits, {SEEN} samples to train on, all others to test",
        "n": "networks of a study: 36, less those that do not get there; quick: ten recipes of one study",
        "statistic": "Spearman's rank correlation over the networks of a study of mean κ at the training samples with "
        "the share of wrong answers on the others; studies are the unit",
        "twins": "hidden2 × α and fc / α, α from 0.1 to 10 at random for each network: the same function",
    },
    parts=(
        Part("head", "κ of the head with the error", correlation("kappa", "error"), Region(low=0.3)),
        Part(
            "twins", "networks whose κ of the head differs from its reparametrised twin's by more than 0.1 %",
            exceptions("same_kappa"), Region(high=0), forced="κ of a layer does not change when it is multiplied by α "
            "and the next one by 1/α",
        ),
        Part("hidden", "κ of the layer before, hidden2, with the error", correlation("kappa_hidden", "error")),
        Part("twin", "κ of the head's twin with the error", correlation("kappa_twin", "error")),
        Part("trace", "Tr H of the head with the error", correlation("trace", "error")),
        Part("trace_twin", "Tr H of the twin's head with the error", correlation("trace_twin", "error")),
        Part("norm", "the weights' squared norm with the error", correlation("norm", "error")),
        Part("confidence", "mean confidence term Σ p(1 − p) with the error", correlation("confidence", "error")),
        Part("given", "κ of the head with the error, given that term", partial("kappa", "error", "confidence")),
        Part("gap", "κ of the head with test loss less training loss", correlation("kappa", "loss_gap")),
        Part("mean_error", "mean error of the networks", mean("error")),
    ),
    caveats=(
        "Small networks on 300 images of digits: their errors differ by few samples, and their ranks are noisy.",
        "All networks stop at the first epoch that reaches the training loss, and some overshoot it: they differ in "
        "confidence, on which κ depends most. The part given holds it fixed.",
        "A row is a network; n counts networks, and the five studies are the unit. No shipped network is used.",
    ),
    units=("seed", "network"),
    sizes=(10, 36),
    own_models="it trains networks of its own: how a model generalizes cannot be told from that model alone",
)  # fmt: skip


class Recipe(NamedTuple):
    """How one network of a study is trained."""

    lr: float
    batch: int
    decay: float


def measure(case: Case) -> Table:
    """A row a network: what it reaches, and its flatness.

    Raises:
        DataError: fewer than six networks reach the training loss.
    """
    import torch

    from flatlens import datasets, models

    data = datasets.load(datasets.with_split(DIGITS, "all"))
    seen = datasets.balanced(data.y, SEEN, case.seed)
    others = np.setdiff1d(np.arange(len(data)), seen)
    parts = [torch.from_numpy(part) for part in (data.x[seen], data.y[seen], data.x[others], data.y[others])]
    rows = []
    recipes = list(product(RATES, BATCHES, DECAYS))
    chosen = np.linspace(0, len(recipes) - 1, min(case.size, len(recipes))).round().astype(int)
    for number in chosen.tolist():
        seed = 100 * case.seed + number
        net = models.load(f"{ARCHITECTURE}&seed={seed}", shape=data.shape, classes=data.classes).model
        if trained(net, parts[0], parts[1], Recipe(*recipes[number]), seed=seed):
            rows.append({"sample": number} | row(net, *parts, seed=seed))
    if len(rows) < 6:
        raise DataError(f"{len(rows)} networks reach a training loss of {LOSS}; 6 are the least to rank")
    return {name: np.array([one[name] for one in rows]) for name in rows[0]}


def trained(net: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, *, seed: int) -> bool:
    """Train a network in place by SGD with momentum, until its mean training loss is at most `LOSS`.

    Args:
        net: in eval mode afterwards.
        x: inputs.
        y: labels.
        recipe: how.
        seed: of the order of the samples.

    Returns:
        Whether it got there.
    """
    import torch
    from torch.nn import functional

    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=recipe.decay)
    for _ in range(EPOCHS):
        net.train()
        for rows in torch.randperm(len(x), generator=rng).split(recipe.batch):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            if float(functional.cross_entropy(net(x), y)) <= LOSS:
                return True
    return False


def row(net: nn.Module, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, *, seed: int) -> dict[str, float | bool]:
    """One network: its error on other samples, and its curvature at those that it was trained on, with its twin's."""
    import torch
    from torch.nn import functional

    from flatlens.measure.curvature import curvature

    with torch.no_grad():
        losses = [float(functional.cross_entropy(net(inputs), at)) for inputs, at in ((x, y), (x_test, y_test))]
        error = float((net(x_test).argmax(1) != y_test).double().mean())
    other = twin(net, float(10 ** np.random.default_rng(seed).uniform(-1, 1)))
    here, there = (curvature(one, x, y, layers=["hidden2", "fc"]) for one in (net, other))
    assert isinstance(here, dict) and isinstance(there, dict)
    # The curvature of a mean of losses is the mean of their curvatures.
    kappa, kappa_twin = (float(found["fc"].relative_flatness.mean()) for found in (here, there))
    trace, trace_twin = (float(found["fc"].trace.mean()) for found in (here, there))
    return {
        "error": error,
        "loss_gap": losses[1] - losses[0],
        "training_loss": losses[0],
        "kappa": kappa,
        "kappa_twin": kappa_twin,
        "same_kappa": abs(kappa_twin / kappa - 1) <= 1e-3,
        "kappa_hidden": float(here["hidden2"].relative_flatness.mean()),
        "trace": trace,
        "trace_twin": trace_twin,
        "confidence": float(here["fc"].confidence_term.mean()),
        "norm": float(sum(parameter.detach().double().square().sum() for parameter in net.parameters())),
    }


def twin(net: nn.Module, alpha: float) -> nn.Module:
    """The same function with other weights: ``hidden2`` multiplied by α > 0, which ReLU lets through, ``fc`` by 1/α."""
    import copy

    import torch

    other = copy.deepcopy(net)
    with torch.no_grad():
        other.get_parameter("hidden2.weight").mul_(alpha)
        other.get_parameter("hidden2.bias").mul_(alpha)
        other.get_parameter("fc.weight").div_(alpha)
    return other
