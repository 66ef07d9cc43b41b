"""Models by name: which there are, a line each. No torch."""

from __future__ import annotations

SCHEMES: dict[str, str] = {
    "flatlens": "models that come with flatlens, see below: flatlens:NAME[?option=value&…]",
    "file.py": "a function (or class) in a Python file that returns the model: path/to/file.py:factory",
    "pkg.module": "the same in an installed package: pkg.module:factory",
    "timm": "architectures of timm: timm:NAME[?pretrained=true]",
    "torchvision": "classifiers of torchvision: torchvision:NAME[?weights=DEFAULT]",
    "hf": "image classifiers of transformers, a folder or what was downloaded before: hf:FOLDER-OR-NAME",
    "robustbench": "models of RobustBench, from files that are there: robustbench:NAME[?dataset=cifar10&threat=Linf]",
    "lm": "causal language models of transformers, with their tokenizer: lm:FOLDER-OR-NAME, lm:flatlens-tiny",
    "export": "a program of torch.export, with --trust-pickle: export:FILE.pt2",
    "ckpt": "saved weights put into another model: ckpt:FILE?[key=KEY&]arch=URI",
}
"""Scheme -> one line about it."""

OBJECT = "object"
"""The scheme of what came from Python as an object: it has a name in the results, and cannot be loaded by it."""

OPTIONS = {
    "?mean=M&std=S": "inputs are normalised, (x − M) / S, by a number or one for each channel: mean=0.5,0.25,8/255",
    "?scale=S": "the head's weight and bias × S, so that the logits are: same decisions, another softmax",
}
"""What every name of a model takes -> one line about it."""

CODE = ("file.py", "pkg.module")
"""Those of them that run somebody's code. So does every plug-in."""

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
