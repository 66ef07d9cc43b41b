"""The product of spectral norms: exact for linear maps, an upper bound for what is known, and refused for the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlens import models
from flatlens.models.normalized import normalized
from flatlens.training import lipschitz as module
from flatlens.training.lipschitz import STEEPEST, lipschitz, spectral_norm
from tests.cases import BY_NAME


def jacobian(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂ logits / ∂x, ``[K, numel]``."""
    return torch.autograd.functional.jacobian(lambda v: model(v.unsqueeze(0))[0].flatten(), x).reshape(-1, x.numel())


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


AFFINE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "tokens": (lambda: nn.Linear(3, 6), (4, 3)),
    "conv": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 6, 5)),
    "stride": (lambda: nn.Conv2d(2, 3, 3, stride=2), (2, 6, 5)),
    "circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2, padding_mode="circular"), (2, 5, 5)),
    "dilated": (lambda: nn.Conv1d(2, 3, 3, padding=2, dilation=2), (2, 9)),
    "volume": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
    "average": (lambda: nn.AvgPool2d(3, stride=1), (2, 6, 6)),
    "to-one": (lambda: nn.AdaptiveAvgPool2d(1), (2, 6, 6)),
}


@pytest.mark.parametrize("way", ["exact", "iterated"])
@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_part_counts_by_the_map_that_it_is(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = AFFINE[name]
    part, x = make().double().requires_grad_(False), torch.rand(1, *shape, dtype=torch.float64)
    if way == "iterated":
        monkeypatch.setattr(module, "EXACT", 0)
    assert spectral_norm(part, x) == pytest.approx(norm(jacobian(part, x[0])), rel=1e-9 if way == "exact" else 1e-4)


def test_a_chain_of_linear_maps_is_the_product_of_their_norms() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    expected = norm(model[1].weight.detach()) * norm(model[3].weight.detach())
    assert lipschitz(model, torch.rand(2, 2, 4)).value == pytest.approx(expected, rel=1e-12)
    wrapped = normalized(model, [0.1, 0.2], [0.5, 0.25], (2, 4))
    assert lipschitz(wrapped, torch.rand(2, 2, 4)).value == pytest.approx(expected / 0.25, rel=1e-12)


class Written(nn.Module):
    """A network whose activations and shapes are in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.pool, self.fc = nn.MaxPool2d(3, stride=2), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.conv(x))))
        return self.fc(torch.tanh(x.view(x.size(0), -1)))


def trained_norms(model: nn.Module) -> nn.Module:
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.1, 2.0)
            nn.init.normal_(part.weight)
    return model


BOUNDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (BY_NAME[name].model, BY_NAME[name].shape)
       for name in ("mlp", "mlp-gelu", "cnn", "cnn-silu", "cnn-in-place", "grouped", "conv1d")},
    "written": (lambda: trained_norms(Written()), (1, 6, 6)),
    "digits-cnn": (lambda: models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model, (1, 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDED)
def test_no_two_inputs_are_further_apart_than_the_bound_allows(name: str) -> None:
    make, shape = BOUNDED[name]
    model, g = make().double().eval(), torch.Generator().manual_seed(0)
    found = lipschitz(model, torch.rand(1, *shape))
    assert found.value is not None and found.why == ""
    steepest = 0.0
    for scale in (1e-3, 1.0, 30.0):
        x = scale * torch.randn(4, *shape, generator=g, dtype=torch.float64)
        steepest = max(steepest, *(norm(jacobian(model, one)) for one in x))
    assert 0 < steepest <= found.value * (1 + 1e-9)
    assert found.value < 1e4 * steepest


@pytest.mark.parametrize("kind", [nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.SELU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid,
                                  nn.Tanh, nn.Softsign, nn.Softplus, nn.CELU])  # fmt: skip
def test_slopes_are_the_steepest_rounded_up(kind: type[nn.Module]) -> None:
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(kind()(x).sum(), x)
    assert float(slope.abs().max()) <= STEEPEST[kind] <= float(slope.abs().max()) * 1.01


def test_overlapping_windows_count_by_how_many_an_input_lies_in() -> None:
    pool = nn.Sequential(nn.MaxPool2d(3, stride=1), nn.Flatten())
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[0, 0, 2, 2] = 1  # the maximum of all nine windows
    assert float(pool(x).norm()) == 3 == lipschitz(pool.eval(), x).value
    assert lipschitz(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()).eval(), x).value == 1


class Hooked(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 3))
        self[0].register_forward_hook(lambda *given: 2 * given[2])


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "residual": (BY_NAME["residual"].model, BY_NAME["residual"].shape, "'add' joins two paths, as in residual"),
    "zoo-resnet": (lambda: models.load("flatlens:resnet18?width=4", shape=(1, 8, 8), classes=4).model, (1, 8, 8),
                   "joins two paths"),
    "zoo-densenet": (lambda: models.load("flatlens:densenet121", shape=(1, 8, 8), classes=4).model, (1, 8, 8), "paths"),
    "swiglu": (lambda: models.load("flatlens:mlp?act=swiglu", shape=(4,), classes=3).model, (4,), "paths"),
    "attention": (BY_NAME["attention"].model, BY_NAME["attention"].shape, "'norm1' is a LayerNorm"),
    "function": (BY_NAME["tokens"].model, BY_NAME["tokens"].shape, "is leaky_relu, and how much that may stretch"),
    "large": (lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 363, 363),
              "part '0' takes inputs of 131,769 numbers; a spectral norm is looked for up to 131,072"),
    "hooks": (Hooked, (4,), "part '0' has hooks"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_product_does_not_bound_is_refused_by_its_name(name: str) -> None:
    make, shape, said = REFUSED[name]
    found = lipschitz(make().eval(), torch.rand(1, *shape))
    assert found.value is None and said in found.why and "\n" not in found.why, found
