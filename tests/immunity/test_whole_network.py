"""Immunization of whole networks: its terms by dense matrices, what it destroys by plain numpy, the same bits again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flatlens.errors import DataError, ModelError, SpecError
from flatlens.immunity import terms, whole_network
from flatlens.immunity.deep_terms import log_ill, log_well
from flatlens.immunity.fine_tuning import Network, Samples
from flatlens.immunity.whole_network import Parts, immunized, judged, weights
from tests.expected import cautioned

pytestmark = cautioned("few-samples")
RIDGE, TASKS = 1e-2, ("harmful", "primary")


def random(n, d, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng, dtype=torch.float64) * torch.logspace(0, 1, d)


def dense(x, ridge):
    k = x.T @ x / len(x)
    return k / (np.trace(k) / len(k)) + ridge * np.eye(len(k))


@pytest.mark.parametrize(("deep", "plain"), [(log_well, terms.well), (log_ill, terms.ill)])
@pytest.mark.parametrize("n", [40, 3])
def test_the_terms_are_logarithms_of_those_of_matrices(deep, plain, n):
    """With more samples than features, and with fewer; whatever the scale."""
    x = random(n, 5)
    expected = np.log(plain(dense(x.numpy(), RIDGE)).value)
    assert float(deep(x, RIDGE)) == pytest.approx(expected, rel=1e-10)
    assert float(deep(x.float() * 1e4, RIDGE)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("deep", [log_well, log_ill])
def test_their_gradients_are_those_of_differences(deep):
    x = random(12, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: deep(x, RIDGE), [x], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(("deep", "worse"), [(log_well, -1), (log_ill, 1)])
def test_descending_them_moves_the_condition_number(deep, worse):
    x = random(30, 4)
    q = torch.eye(4, dtype=torch.float64, requires_grad=True)
    before = np.linalg.cond(dense(x.numpy(), RIDGE))
    for _ in range(30):
        (slope,) = torch.autograd.grad(deep(x @ q, RIDGE), q)
        q = (q - 0.05 * slope / slope.abs().max()).detach().requires_grad_()
    after = np.linalg.cond(dense((x @ q).detach().numpy(), RIDGE))
    assert (after / before > 1.3) if worse > 0 else (after / before < 0.7)


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 5), nn.Tanh())
        return nn.Sequential(*layers, nn.Linear(5, 4)).eval()


def samples(n, classes, seed):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    # The harmful task's inputs lie elsewhere: of one distribution for both tasks nothing could be immunized.
    x = x if classes[0] == 0 else x * torch.logspace(0, -2, 6) + torch.tensor([0.0, 1, -1, 1, -1, 1])
    return Samples(x, (x[:, 0] > 0).long() + classes[0])


PARTS = Parts(samples(300, (0, 1), 0), samples(90, (0, 1), 1), samples(200, (2, 3), 2), samples(70, (2, 3), 3))
NETWORK = Network(net(), "6")


def test_what_a_network_can_do_is_measured_on_samples_held_out():
    found = judged(NETWORK, PARTS, RIDGE)
    with torch.no_grad():
        x, held, z, z_held = (NETWORK.model[:6](s.x).double().numpy() for s in PARTS)
        right = (NETWORK.model(PARTS.primary_held.x).argmax(1) == PARTS.primary_held.y).double().mean()
    assert found.primary_accuracy == pytest.approx(float(right))
    for name, a, y, b, z_ in (
        ("primary_probe", x, PARTS.primary.y, held, PARTS.primary_held.y),
        ("harmful_probe", z, PARTS.harmful.y, z_held, PARTS.harmful_held.y),
    ):
        one, other = (np.c_[v, np.ones(len(v))] for v in (a, b))
        sign = np.where(y.numpy() == y.numpy().min(), -1.0, 1.0)
        w = np.linalg.lstsq(one, sign, rcond=None)[0]
        expected = float((((other @ w) > 0) == (z_.numpy() == z_.numpy().max())).mean())
        assert getattr(found, name) == pytest.approx(expected, abs=1e-12), name
    k = held.T @ held / len(held)
    k += RIDGE * np.trace(k) / 5 * np.eye(5)
    assert found.primary["condition_number"] == pytest.approx(np.linalg.cond(k)) and found.primary["rank"] == 5


@pytest.mark.parametrize("method", ["alg1", "r-ill"])
def test_the_harmful_task_becomes_ill_conditioned_and_the_network_is_not_changed(method, monkeypatch):
    monkeypatch.setattr(whole_network, "RATE", 1e-2)
    state = {name: value.clone() for name, value in NETWORK.model.state_dict().items()}
    made = immunized(NETWORK, PARTS, method=method, epochs=25, ridge=1e-4)
    before, after = judged(NETWORK, PARTS, 1e-4), judged(Network(made, "6"), PARTS, 1e-4)
    i, ii = (getattr(after, t)["condition_number"] / getattr(before, t)["condition_number"] for t in TASKS)
    assert i > 3 * ii if method == "alg1" else i > 3
    assert after.primary_accuracy > before.primary_accuracy
    assert not made.training and all(torch.equal(state[k], v) for k, v in NETWORK.model.state_dict().items())


@pytest.mark.parametrize("after", [1, 3])
def test_killed_and_gone_on_with_it_ends_in_the_same_bits(after, tmp_path):
    def stop(progress):
        if progress.done == after:
            raise KeyboardInterrupt

    whole = weights(immunized(NETWORK, PARTS, epochs=4))
    file = tmp_path / "a.pt"
    with pytest.raises(KeyboardInterrupt):
        immunized(NETWORK, PARTS, epochs=4, snapshot=file, identity="a", progress=stop)
    seen = []
    assert weights(immunized(NETWORK, PARTS, epochs=4, snapshot=file, identity="a", progress=seen.append)) == whole
    assert [progress.done for progress in seen] == list(range(after + 1, 5))
    # Of another training it begins anew; a damaged one is told.
    seen.clear()
    immunized(NETWORK, PARTS, epochs=1, snapshot=file, identity="b", progress=seen.append)
    assert len(seen) == 1
    file.write_bytes(b"PK")
    with pytest.raises(ModelError, match="is damaged"):
        immunized(NETWORK, PARTS, epochs=4, snapshot=file, identity="a")


def test_what_cannot_be_is_one_line():
    with pytest.raises(SpecError, match="--method imma: a whole network is immunized by alg1 or r-ill"):
        immunized(NETWORK, PARTS, method="imma")
    other = PARTS._replace(primary=samples(9, (4, 5), 0), primary_held=samples(9, (4, 5), 0))
    with pytest.raises(DataError, match="a label 5 and the model 4 classes"):
        judged(NETWORK, other, RIDGE)
    nothing = Network(net(), "6")
    with torch.no_grad():
        nothing.model[0].weight[0, 0] = np.nan
    with pytest.raises(ModelError, match="the objective is nan in epoch 1"):
        immunized(nothing, PARTS)
