"""flatlens against other libraries on the same single samples, and the traps of theirs that the wrappers avoid."""

from __future__ import annotations

import pytest
import torch
from curvlinops import HessianLinearOperator
from torch import nn

from flatlens.errors import LayerError
from flatlens.peers import pyhessian as peers
from tests.cases import BY_NAME, Case
from tests.hessian.test_any_layer import measured
from tests.oracles import truth

PAIRS = [("mlp", "0"), ("cnn", "3"), ("residual", "conv2"), ("conv1d", "3"), ("tokens", "mix")]


def single(case: Case, i: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = case.data()
    return x[i : i + 1], y[i : i + 1]


@pytest.mark.parametrize(("name", "layer"), [*PAIRS, ("mlp-gelu", "2"), ("residual-gelu", "conv2")])
def test_agrees_with_curvlinops(name: str, layer: str) -> None:
    case = BY_NAME[name]
    model, (x, y) = case.model(), single(case)
    weight = model.get_parameter(f"{layer}.weight")
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), [weight], [(x, y)])
    matrix = operator @ torch.eye(weight.numel(), dtype=torch.float64)
    _, found, _ = measured(model, x, y, [layer], probes=24)  # so small that 24 probes measure it whole
    assert found[layer].trace.item() == pytest.approx(matrix.trace().item(), rel=1e-6)
    top = torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]
    assert found[layer].top_eigenvalue.item() == pytest.approx(top.item(), rel=1e-6)


@pytest.mark.parametrize(("name", "layer"), PAIRS)
def test_agrees_with_pyhessian(name: str, layer: str) -> None:
    case = BY_NAME[name]
    model, (x, y) = case.model(), single(case)
    _, found, _ = measured(model, x, y, [layer])
    theirs = peers.pyhessian_trace(model, layer, x, y, probes=200, seed=0)
    assert abs(theirs.value - found[layer].trace.item()) < 3 * theirs.stderr
    value = peers.pyhessian_top_eigenvalue(model, layer, x, y, seed=0)
    assert value == pytest.approx(found[layer].top_eigenvalue.item(), rel=1e-3)


def test_pyhessians_top_eigenvalue_in_saturation() -> None:
    case = BY_NAME["mlp"]
    model, (x, y) = case.model(), single(case)
    with torch.no_grad():
        model[4].bias[0] += 25  # eigenvalues of 1e-10, far below the 1e-6 that PyHessian adds to its norms
    expected = truth(model, "2", x, y).top_eigenvalue.item()
    assert 0 < expected < 1e-9
    assert peers.pyhessian_top_eigenvalue(model, "2", x, y, seed=0) == pytest.approx(expected, rel=1e-3)


def test_pyhessians_density_runs_where_torch_has_no_eig() -> None:
    case = BY_NAME["mlp"]
    model, (x, y) = case.model(), single(case)
    values, weights = peers.pyhessian_density(model, "2", x, y, seed=0, steps=4)
    top = truth(model, "2", x, y).top_eigenvalue.item()
    assert max(values) == pytest.approx(top, rel=0.2)  # of one short run, without reorthogonalisation
    assert sum(weights) == pytest.approx(1, rel=1e-3)


def test_pyhessian_leaves_nothing_behind() -> None:
    case = BY_NAME["mlp"]
    model, (x, y) = case.model(), single(case)
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    first = peers.pyhessian_trace(model, "2", x, y, probes=20, seed=0)
    again = peers.pyhessian_trace(model, "2", x, y, probes=20, seed=0)
    other = peers.pyhessian_trace(model, "2", x, y, probes=20, seed=1)
    assert first == again != other  # a seed, and a second object on the same model that adds up nothing
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    for name, p in model.named_parameters():
        assert p.grad is None
        assert p.requires_grad
        assert torch.equal(p, before[name])


def test_pyhessians_stopping_rule_is_not_used_where_the_trace_is_negative() -> None:
    case = BY_NAME["mlp-gelu"]
    model, (x, _) = case.model(), single(case)
    with torch.no_grad():
        model[4].bias[1] += 8  # the wrong class leads: what Gauss–Newton leaves out dominates, here with a minus sign
    expected = [truth(model, "2", x[:1], torch.tensor([k])).trace.item() for k in range(10)]
    label = min(range(10), key=lambda k: expected[k])
    assert expected[label] < 0
    theirs = peers.pyhessian_trace(model, "2", x, torch.tensor([label]), probes=100, seed=0)
    assert abs(theirs.value - expected[label]) < 3 * theirs.stderr + 1e-12


def test_a_layer_that_is_not_there_is_named() -> None:
    case = BY_NAME["residual"]
    model, (x, y) = case.model(), single(case)
    with pytest.raises(LayerError, match=r"no layer 'conv3'; this model has: conv1, conv2, down, fc. Did you mean"):
        peers.dense(model, "conv3", x, y)
