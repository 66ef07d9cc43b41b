"""One table of models: what is built, which layers can be probed, and which of them have exact Hessians."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Case(NamedTuple):
    """One model of the table.

    Attributes:
        name: in the tests' names.
        build: makes the model, float32, in eval mode.
        shape: of one input.
        classes: number of logits.
        smooth: layers with something smooth after them; all others, but for the head, are exact.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    smooth: tuple[str, ...] = ()

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The model with seeded weights, its batch norms with statistics as after training."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build()
            for m in model.modules():
                if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                    nn.init.uniform_(m.running_var, 0.3, 2.0)
                    nn.init.normal_(m.running_mean, std=0.3)
                    nn.init.uniform_(m.weight, -1.5, 1.5)
                    nn.init.normal_(m.bias, std=0.3)
        return model.to(dtype).eval()

    def data(self, n: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Inputs in [0, 1) and labels."""
        g = torch.Generator().manual_seed(1)
        x = torch.rand(n, *self.shape, generator=g, dtype=torch.float64).to(dtype)
        return x, torch.arange(n) % self.classes


class Residual(nn.Module):
    """Two batch-normed blocks with a shortcut, and pooling."""

    def __init__(self, act: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.act = act
        self.conv1, self.bn1 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.down, self.bn3 = nn.Conv2d(3, 4, 1, 2, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)) + self.bn3(self.down(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    """A patch embedding, one transformer block with fused attention, the mean of the tokens."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 6), nn.Linear(6, width)
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(a.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.fc(x.mean(1))


class Gated(nn.Module):
    """A SwiGLU block: smooth before ``down``, linear after it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.fc = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class Tokens(nn.Module):
    """Linear layers on (N, T, I), with a maximum over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.fc = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.leaky_relu(self.mix(F.relu(self.embed(x)))).amax(1))


class Windows(nn.Module):
    """Samples cut into windows that lie in the first axis, as in Swin; then put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.conv, self.fc = nn.Linear(2, 4), nn.Conv1d(2, 3, 2), nn.Linear(2 * 3 * 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = F.relu(self.inside(x.reshape(n * 2, 2, 2)))  # [2n, 2, 4]
        return self.fc(F.relu(self.conv(x)).reshape(n, -1))


def mlp(act: type[nn.Module], classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 7), act(), nn.Linear(7, classes))


def wide_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 40), nn.GELU(), nn.Linear(40, 12), nn.GELU(), nn.Linear(12, 4))


def cnn(act: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), act(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, bias=False), act(), nn.Flatten(),
        nn.Linear(16, 6), act(), nn.Linear(6, 4),
    )  # fmt: skip


def grouped() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2, padding_mode="circular"), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect"), nn.LeakyReLU(0.1),
        nn.Conv2d(8, 6, (2, 3), stride=(2, 1), padding=(1, 0), groups=2), nn.Hardtanh(-1, 1),
        nn.Conv2d(6, 3, 2, padding="same", padding_mode="replicate"), nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(3 * 1 * 1, 3),
    )  # fmt: skip


def conv1d() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=2, dilation=2, padding_mode="replicate"), nn.BatchNorm1d(4), nn.ReLU(),
        nn.Conv1d(4, 4, 4, stride=2, groups=2), nn.PReLU(), nn.Flatten(), nn.Linear(12, 2),
    )  # fmt: skip


CASES = [
    Case("mlp", lambda: mlp(nn.ReLU), (6,), 10),
    Case("mlp-two-classes", lambda: mlp(nn.ReLU, 2), (6,), 2),
    Case("mlp-gelu", lambda: mlp(nn.GELU), (6,), 10, ("0", "2")),
    Case("cnn", lambda: cnn(nn.ReLU), (1, 6, 6), 4),
    Case("cnn-in-place", lambda: cnn(lambda: nn.ReLU(inplace=True)), (1, 6, 6), 4),
    Case("cnn-silu", lambda: cnn(nn.SiLU), (1, 6, 6), 4, ("0", "3", "6")),
    Case("residual", Residual, (2, 5, 5), 5),
    Case("residual-gelu", lambda: Residual(F.gelu), (2, 5, 5), 5, ("conv1", "conv2", "down")),
    Case("grouped", grouped, (4, 4, 5), 3),
    Case("conv1d", conv1d, (2, 8), 2),
    Case("attention", Attention, (1, 4, 4), 4, ("patch", "qkv", "proj", "up")),
    Case("attention-wide", lambda: Attention(8), (1, 6, 6), 4, ("patch", "qkv", "proj", "up")),
    Case("mlp-wide-gelu", wide_mlp, (6,), 4, ("0", "2")),
    Case("swiglu", Gated, (5,), 4, ("gate", "up")),
    Case("tokens", Tokens, (4, 3), 3),
    Case("windows", Windows, (8,), 3),
]
MANY = Case("mlp-200-classes", lambda: mlp(nn.ReLU, 200), (6,), 200)
BY_NAME = {case.name: case for case in [*CASES, MANY]}
