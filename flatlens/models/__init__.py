"""Models by name: which there are, and `load`. Imports no torch until a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flatlens.models.loaders import Loaded as Loaded

SCHEMES: dict[str, str] = {
    "flatlens": "models that come with flatlens, see below: flatlens:NAME[?option=value&…]",
    "file.py": "a function (or class) in a Python file that returns the model: path/to/file.py:factory",
    "pkg.module": "the same in an installed package: pkg.module:factory",
    "timm": "architectures of timm: timm:NAME[?pretrained=true]",
    "torchvision": "classifiers of torchvision: torchvision:NAME[?weights=DEFAULT]",
    "hf": "image classifiers of transformers, a folder or what was downloaded before: hf:FOLDER-OR-NAME",
    "export": "a program of torch.export, with --trust-pickle: export:FILE.pt2",
    "ckpt": "saved weights put into another model: ckpt:FILE?[key=KEY&]arch=URI",
}
"""Scheme -> one line about it."""

OBJECT = "object"
"""The scheme of what came from Python as an object: it has a name in the results, and cannot be loaded by it."""

OPTIONS = {
    "?mean=M&std=S": "inputs are normalised, (x − M) / S, by a number or one for each channel: mean=0.5,0.25,8/255"
}
"""What every name of a model takes -> one line about it."""

CODE = ("file.py", "pkg.module")
"""Of these, the ones that are code of somebody's; so is every plug-in."""

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


def load(
    uri: str, *, shape: tuple[int, ...], classes: int, trust_pickle: bool = False, trust_remote_code: bool = False
) -> Loaded:
    """The model that ``uri`` names, in eval mode, on the CPU.

    Naming the same model twice gives the same weights: what is untrained is initialised from the option ``seed``
    (0 unless given), and the global random numbers are left as they were.

    Args:
        uri: one of `BUILT_IN`, or a name by one of the other `SCHEMES` or of a plug-in.
        shape: of one input, without the samples' axis; what is built is fitted to it.
        classes: how many classes the data have.
        trust_pickle: let pickled weights, and programs of ``torch.export``, run code while they are read.
        trust_remote_code: let Python files beside an ``hf:`` model run.

    Raises:
        ModelError: no such model or option, or weights that are missing, damaged, misfit or not finite.
    """
    from flatlens.models import loaders
    from flatlens.specs.trust import Trust

    trust = Trust(trust_pickle, trust_remote_code)
    return loaders.load(uri, shape=shape, classes=classes, trust=trust)
