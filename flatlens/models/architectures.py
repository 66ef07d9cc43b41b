"""The table of built-in architectures: for each its builder, its options with their limits, and the data it takes.

Defaults stand in the builders' signatures and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from flatlens.errors import ModelError
from flatlens.models import zoo
from flatlens.specs.uris import Uri

SEED_LIMIT = 2**32 - 1


class Names(NamedTuple):
    """An option that is one of several names."""

    known: tuple[str, ...]

    def read(self, uri: Uri, name: str) -> str:
        """What ``uri`` says for it."""
        return uri.choice(name, self.known, self.known[0])


class Whole(NamedTuple):
    """An option that is a whole number."""

    low: int
    high: int

    def read(self, uri: Uri, name: str) -> int:
        """What ``uri`` says for it."""
        return uri.whole(name, self.low, low=self.low, high=self.high)


@dataclass(frozen=True)
class Architecture:
    """One line of the table.

    Attributes:
        build: of shape, classes, and the options by name.
        options: name -> what it may be; ``seed`` is every architecture's.
        pixels: how long an image's shorter side must be; 0 if the inputs need be no images.
    """

    build: Callable[..., nn.Module]
    options: Mapping[str, Names | Whole]
    pixels: int = 1


_ACT = {"act": Names(tuple(zoo.ACTIVATIONS))}
_ACT_NORM = {**_ACT, "norm": Names(tuple(zoo.NORMS))}

ARCHITECTURES: dict[str, Architecture] = {
    "cnn": Architecture(zoo.cnn, {**_ACT, "width": Whole(1, 4096)}, pixels=2),
    "mlp": Architecture(zoo.mlp, {**_ACT, "width": Whole(1, 65536), "depth": Whole(1, 1000)}, pixels=0),
    "resnet18": Architecture(zoo.resnet18, {**_ACT_NORM, "width": Whole(1, 512)}),
    "wide-resnet-28-4": Architecture(zoo.wide_resnet, {**_ACT_NORM, "width": Whole(1, 256), "depth": Whole(10, 1000)}),
    "densenet121": Architecture(zoo.densenet121, {**_ACT_NORM, "growth": Whole(1, 256)}),
    "vgg11-bn": Architecture(zoo.vgg11, {**_ACT_NORM, "width": Whole(1, 512)}),
    "vit-tiny": Architecture(
        zoo.vit,
        {
            **_ACT,
            "width": Whole(1, 4096),
            "depth": Whole(1, 100),
            "heads": Whole(1, 256),
            "patch": Whole(1, 1024),
        },
    ),
}
"""Name, as in ``flatlens:NAME`` -> what it is."""


def seed_of(uri: Uri) -> int:
    """The option ``seed``, 0 unless given."""
    return uri.whole("seed", 0, low=0, high=SEED_LIMIT)


def make(uri: Uri, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The architecture that ``uri`` names, its weights drawn from torch's global random numbers.

    Args:
        uri: its path is one of `ARCHITECTURES`.
        shape: of one input.
        classes: number of logits.

    Raises:
        ModelError: no such option, a value that cannot be, or data of another kind.
    """
    kind = ARCHITECTURES[uri.path]
    uri.only([*kind.options, "seed"])
    options: dict[str, Any] = {name: kind.options[name].read(uri, name) for name in kind.options if name in uri.options}
    if kind.pixels and (len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < kind.pixels):
        size = f"{kind.pixels}×{kind.pixels}"
        raise ModelError(f"'{uri.text}' needs images [C, H, W] of {size} or more, not {shape}; use flatlens:mlp")
    try:
        return kind.build(shape, classes, **options)
    except ModelError as error:
        raise ModelError(f"{error} (in '{uri.text}')") from None
