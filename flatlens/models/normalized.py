"""A model of others with its normalisation inside, so that its inputs live in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from flatlens.models.zoo import Normalize


class Normalized(nn.Module):
    """``model((x − mean) / std)``.

    Args:
        model: from ``[n, C, H, W]`` to logits ``[n, K]``, or an object with ``.logits``.
        mean: one number a channel, in units of inputs in [0, 1].
        std: the same; not zero.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(tuple(float(m) for m in mean), tuple(float(s) for s in std))
        self.model = model

    def forward(self, x: Float[Tensor, " n c h w"]) -> Any:
        """What the model returns for the normalised inputs."""
        return self.model(self.normalize(x))


def fitted(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """``values`` for so many channels: as they are, or their average where the numbers differ (grey images)."""
    values = tuple(float(v) for v in values)
    return values if len(values) in (1, channels) else (sum(values) / len(values),)


def target(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Where saved weights belong: the model itself, or the one that it normalises for if their names say so."""
    inside = isinstance(model, Normalized) and not any(name.startswith(("model.", "normalize.")) for name in weights)
    return model.model if inside and isinstance(model, Normalized) else model
