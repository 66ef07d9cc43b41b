"""The loss's derivatives along the path: against autograd, mpmath, and a network that is linear along every step."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatlens as fl
from flatlens.probes.bending import cumulants


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_cumulants_are_the_losss_derivatives(classes: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(classes)
    z = scale * torch.randn(6, classes, generator=rng, dtype=torch.float64)
    v = torch.randn(6, classes, generator=rng, dtype=torch.float64)
    s = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    found = F.cross_entropy(z + s.unsqueeze(1) * v, torch.zeros(6, dtype=torch.int64), reduction="none")
    derivatives = []
    for _ in range(3):
        (found,) = torch.autograd.grad(found.sum(), s, create_graph=True)
        derivatives.append(found.detach())
    second, third = cumulants(z, v)
    torch.testing.assert_close(second, derivatives[1], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(third, derivatives[2], rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("gap", [1, 30, 100, 600])
def test_certain_answers_keep_their_digits(gap: int) -> None:
    z, v = [0.0, float(gap), -3.0], [0.7, -0.2, 1.1]
    second, third = cumulants(torch.tensor([z], dtype=torch.float64), torch.tensor([v], dtype=torch.float64))
    with mpmath.workdps(400):
        total = mpmath.fsum(mpmath.exp(a) for a in z)
        p = [mpmath.exp(a) / total for a in z]
        mean = mpmath.fsum(a * mpmath.mpf(b) for a, b in zip(p, v, strict=True))
        moments = [mpmath.fsum(a * (mpmath.mpf(b) - mean) ** k for a, b in zip(p, v, strict=True)) for k in (2, 3)]
    for found, exact in zip((second, third), moments, strict=True):
        assert float(abs(mpmath.mpf(float(found[0])) / exact - 1)) < 1e-12


def test_along_an_attack() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double().eval()
    x = torch.rand(5, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    trace = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.3, steps=4), images="all", batch_size=2)
    second, third = (trace.matrix(name).values for name in ("path_second", "path_third"))
    assert np.isnan(second[:, 0]).all() and np.isnan(third[:, 0]).all()
    loss = trace.matrix("loss").values
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    assert trace.images is not None
    kept = torch.from_numpy(np.asarray(trace.images.x, dtype=np.float64)).reshape(5, 5, 6)
    logits = kept @ weight.T + bias
    for step in range(1, 5):
        v = logits[:, step] - logits[:, step - 1]
        mine = cumulants(logits[:, step], v)
        np.testing.assert_allclose(second[:, step], mine[0], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(third[:, step], mine[1], rtol=1e-4, atol=1e-9)
    assert np.isfinite(loss).all() and (second[:, 1:] >= 0).all()


def test_a_best_point_is_no_step() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).eval()
    x = torch.rand(3, 6)
    y = model(x).argmax(1)
    steps = fl.trace(model, x, y, attack=fl.attacks.APGDCE(eps=0.3, steps=5)).steps.to_pandas()
    assert steps[steps.kind == "best"].path_second.isna().all() and steps[steps.step > 0].path_second.notna().any()
