"""C15's networks: κ is that of the mean loss, twins are one function, and training ends where it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional

from flatlens import datasets, models
from flatlens.claims import c15_generalization as c15
from flatlens.errors import DataError


def made(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64 and twelve samples."""
    net = models.load(f"flatlens:mlp?width=5&depth=2&seed={seed}", shape=(1, 2, 3), classes=4).model.double()
    rng = torch.Generator().manual_seed(seed)
    return net, torch.rand(12, 1, 2, 3, generator=rng, dtype=torch.double), torch.arange(12) % 4


@pytest.mark.parametrize(("layer", "column"), [("fc", "kappa"), ("hidden2", "kappa_hidden")])
def test_flatness_is_that_of_the_mean_loss(layer: str, column: str) -> None:
    net, x, y = made()
    weight = net.get_submodule(layer).weight.detach()

    def loss(w: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(net, {f"{layer}.weight": w}, (x,)), y)

    # κ = Σ ⟨w_s, w_t⟩ Tr(H_{s,t}), from the dense Hessian [s, i, t, i].
    traces = torch.einsum("siti->st", hessian(loss)(weight))
    expected = float((weight @ weight.T * traces).sum().detach())
    assert c15.row(net, x, y, x, y, seed=0)[column] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 7.0])
def test_a_twin_is_the_same_function_of_the_same_kappa_and_another_trace(alpha: float) -> None:
    net, x, y = made()
    other = c15.twin(net, alpha)
    torch.testing.assert_close(other(x), net(x))
    here, there = (c15.row(one, x, y, x, y, seed=0) for one in (net, other))
    assert there["kappa"] == pytest.approx(here["kappa"]) and there["kappa_hidden"] == pytest.approx(
        here["kappa_hidden"]
    )
    assert there["trace"] == pytest.approx(alpha**2 * float(here["trace"]))
    assert here["same_kappa"] and here["kappa_twin"] == pytest.approx(here["kappa"])


def test_a_row_tells_error_and_losses() -> None:
    net, x, y = made()
    says = net(x).argmax(1)
    row = c15.row(net, x, y, x, says, seed=0)
    assert row["error"] == 0 and c15.row(net, x, y, x, (says + 1) % 4, seed=0)["error"] == 1
    assert row["training_loss"] == pytest.approx(functional.cross_entropy(net(x), y).item())


def test_training_ends_at_the_loss_or_says_that_it_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = datasets.load("flatlens:digits").take(range(20))
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)

    def net() -> nn.Module:
        return models.load(c15.ARCHITECTURE, shape=data.shape, classes=10).model

    found = net()
    assert c15.trained(found, x, y, c15.Recipe(0.1, 8, 0.0), seed=0) and not found.training
    assert functional.cross_entropy(found(x), y).item() <= c15.LOSS
    monkeypatch.setattr(c15, "EPOCHS", 2)
    assert not c15.trained(net(), x, y, c15.Recipe(1e-4, 8, 0.0), seed=0)


def test_too_few_networks_rank_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from flatlens.claims.nets import Case, Net

    monkeypatch.setattr(c15, "trained", lambda *_, **__: False)
    case = Case(Net("seed 0", {"standard": "-"}, "flatlens:digits", 0.3, 0), size=3)
    with pytest.raises(DataError, match=r"^0 networks reach a training loss of 0.05; 6 are the least to rank$"):
        c15.measure(case)


def test_a_study_spans_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    from flatlens.claims.nets import Case, Net

    tried: list[c15.Recipe] = []
    monkeypatch.setattr(c15, "trained", lambda net, x, y, recipe, seed: tried.append(recipe))
    for size in (10, 36):
        tried.clear()
        with pytest.raises(DataError):
            c15.measure(Case(Net("seed 0", {"standard": "-"}, "flatlens:digits", 0.3, 0), size=size))
        assert len(set(tried)) == len(tried) == size
        assert {one.lr for one in tried} == set(c15.RATES) and {one.batch for one in tried} == set(c15.BATCHES)
    assert np.prod([len(axis) for axis in (c15.RATES, c15.BATCHES, c15.DECAYS)]) == 36
