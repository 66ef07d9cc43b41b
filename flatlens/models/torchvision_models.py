"""``torchvision:NAME``: classifiers of torchvision, with or without their trained weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flatlens.errors import ModelError, one_line, unknown
from flatlens.extras import need
from flatlens.models import checkpoints, fetching
from flatlens.models.normalized import Normalized
from flatlens.specs.trust import Trust
from flatlens.specs.uris import Uri

OPTIONS = ("weights", "classes")


def make(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    """The model, normalised as the transforms of its weights say, and where its weights come from.

    Untrained it is fitted to the data's classes and normalised as its default weights would be; with ``weights=NAME``
    (or ``DEFAULT``) it keeps its own classes, and their file must lie in torch's cache already.

    Raises:
        ModelError: torchvision is missing, does not have it, or its weights are not there.
    """
    uri.only(OPTIONS)
    models = need("torchvision", "torchvision", "'torchvision:' models", ModelError).models
    names = models.list_models(module=models)
    if uri.path not in names:
        raise ModelError(unknown("classifier of torchvision", uri.path, names, where="it has"))
    if len(shape) != 3 or shape[0] != 3:
        raise ModelError(f"'{uri.text}' needs images [3, H, W], not inputs of shape {shape}; use timm: or flatlens:cnn")
    known = models.get_model_weights(uri.path)
    wanted = uri.options.get("weights")
    weights = _weights(uri, known, wanted, trust) if wanted is not None else None
    if weights is not None and "classes" in uri.options:
        raise ModelError(f"'{uri.text}': trained weights keep the model's own classes; leave classes out")
    settings = {} if weights else {"num_classes": uri.whole("classes", classes, low=2, high=1_000_000)}
    try:
        with _weights_only():
            model = models.get_model(uri.path, weights=weights, **settings)
    except Exception as error:  # whatever an architecture makes of its arguments, or a file's bytes provoke
        raise ModelError(f"'{uri.text}' cannot be made: {one_line(error, kind=True)}") from error
    transforms = (weights or known["DEFAULT"]).transforms()
    source = f"with its weights {weights.name}" if weights else "untrained"
    return Normalized(model, transforms.mean, transforms.std), f"torchvision, {uri.path}, {source}"


def _weights(uri: Uri, known: Any, name: str, trust: Trust) -> Any:
    names = [*known.__members__]
    if name not in names:
        raise ModelError(unknown("weights", name, names, where=f"'{uri.path}' has"))
    weights = known[name]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file() and trust.download:
        fetching.fetch_url(weights.url, file)
    if not file.is_file():
        raise ModelError(
            f"the trained weights of '{uri.text}' are not on this machine, and without --download nothing is fetched: "
            f"curl -L {weights.url} -o {file}"
        )
    checkpoints.read(file)  # says in one line what is wrong with them
    return weights


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Make torchvision, which does not ask for it, load with ``weights_only``."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
