"""Models by name: which there are, and `load`. Imports no torch until a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flatlens.models.loaders import Loaded as Loaded

SCHEMES: dict[str, str] = {
    "flatlens": "models that come with flatlens, see below: flatlens:NAME[?option=value&…]",
    "file.py": "a function (or class) in a Python file that returns the model: path/to/file.py:factory",
    "pkg.module": "the same in an installed package: pkg.module:factory",
    "ckpt": "saved weights put into another model: ckpt:FILE.safetensors?arch=URI",
}
"""Scheme -> one line about it."""

BUILT_IN: dict[str, str] = {
    "flatlens:digits-cnn": "CNN of 14,074 weights trained on flatlens:digits",
    "flatlens:digits-cnn-robust": "the same, trained against PGD (linf, eps 0.1)",
    "flatlens:cnn": "two convolutions, two Linear layers, untrained; options act, width, seed",
    "flatlens:mlp": "Linear layers, untrained; options act, width, depth, seed",
    "flatlens:resnet18": "ResNet-18 for small images, untrained; options act, norm, width, seed",
    "flatlens:wide-resnet-28-4": "WRN-28-4, pre-activation blocks, untrained; options act, norm, width, depth, seed",
    "flatlens:densenet121": "DenseNet-121 for small images, untrained; options act, norm, growth, seed",
    "flatlens:vgg11-bn": "VGG-11 with batch norm, one Linear layer as head, untrained; options act, norm, width, seed",
    "flatlens:vit-tiny": "vision transformer, untrained; options act, width, depth, heads, patch, seed",
}
"""Name of a model that comes with flatlens -> one line about it."""


def load(uri: str, *, shape: tuple[int, ...], classes: int) -> Loaded:
    """The model that ``uri`` names, in eval mode, on the CPU.

    Naming the same model twice gives the same weights: what is untrained is initialised from the option ``seed``
    (0 unless given), and the global random numbers are left as they were.

    Args:
        uri: one of `BUILT_IN`, or a name by one of the other `SCHEMES`.
        shape: of one input, without the samples' axis; what is built is fitted to it.
        classes: how many classes the data have.

    Raises:
        ModelError: no such model or option, or weights that are missing, damaged, misfit or not finite.
    """
    from flatlens.models import loaders

    return loaders.load(uri, shape=shape, classes=classes)
