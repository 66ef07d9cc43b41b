"""From a model's name to the model, with its weights checked."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from flatlens import uris
from flatlens.errors import ModelError, unknown
from flatlens.models import (
    BUILT_IN,
    SCHEMES,
    architectures,
    checkpoints,
    exported,
    factories,
    hf_models,
    normalized,
    plugins,
    timm_models,
    torchvision_models,
    zoo,
)
from flatlens.trust import NOTHING, Trust
from flatlens.uris import Uri

_SHIPPED = Path(__file__).parents[1] / "shipped"
_DIGITS_SHAPE, _DIGITS_CLASSES = (1, 8, 8), 10


@dataclass(frozen=True)
class Loaded:
    """A model and what it is.

    Attributes:
        model: in eval mode, on the CPU.
        uri: how it is named.
        sha256: of all parameters and buffers: names, shapes, dtypes and bytes.
        source: where the weights come from, for people.
        recipe_sha256: of what a trained model was made from, or None: recipe, data and initial weights.
    """

    model: nn.Module
    uri: str
    sha256: str
    source: str
    recipe_sha256: str | None = None


def load(uri: str, *, shape: tuple[int, ...], classes: int, trust: Trust = NOTHING) -> Loaded:
    """See `flatlens.models.load`."""
    parsed = uris.parse(uri, ModelError)
    if classes < 2:
        raise ModelError(f"'{uri}' cannot tell {classes} class; data of at least 2 classes are needed")
    with _seeded(0):  # a factory's random weights, too, are the same each time
        model, source = _build(parsed, tuple(shape), classes, trust)
    model.eval()
    _check_finite(model, uri)
    return Loaded(model, uri, sha256(model), source)


def sha256(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model)):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _check_finite(model: nn.Module, uri: str) -> None:
    for name, tensor in _tensors(model):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"weight '{name}' of '{uri}' holds {bad} values that are not finite; train or save the model again"
            )


def _build(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    """The model that ``uri`` names, and where it comes from."""
    if uri.scheme in _MAKERS:
        return _MAKERS[uri.scheme](uri, shape, classes, trust)
    if uri.scheme in plugins.found():
        return plugins.make(uri, shape, classes), f"made by the plug-in {uri.scheme}"
    if not uri.scheme or not uri.path:
        raise ModelError(unknown("model", uri.text, [*BUILT_IN, *_others()], where="there are"))
    return factories.make(uri, shape, classes), f"made by {uri.path} in {uri.scheme}"


def _checkpoint(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    uri.only(["arch"])
    if "arch" not in uri.options:
        raise ModelError(f"'{uri.text}' has no architecture; write ckpt:FILE.safetensors?arch=flatlens:cnn")
    arch = uri.options["arch"]
    model, _ = _build(uris.parse(arch, ModelError), shape, classes, trust)
    weights = checkpoints.read(uri.file, trust_pickle=trust.pickle)
    checkpoints.put(weights, normalized.target(model, weights), uri.path)
    return model, f"weights of {uri.path} in {arch}"


def _others() -> list[str]:
    return [f"{scheme}:…" for scheme in (*SCHEMES, *plugins.found()) if scheme != "flatlens"]


# ---- what comes with flatlens -------------------------------------------------------------------


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random weights from ``seed``; afterwards the global random numbers are as they were."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed the accelerators, whose states are not forked.
        torch.default_generator.manual_seed(seed)
        yield


def _built_in(uri: Uri, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, str]:
    name = uri.path
    if f"flatlens:{name}" not in BUILT_IN:
        raise ModelError(unknown("model", f"flatlens:{name}", BUILT_IN, where="flatlens comes with"))
    if name.startswith("digits-"):
        uri.only([])
        if (shape, classes) != (_DIGITS_SHAPE, _DIGITS_CLASSES):
            raise ModelError(
                f"'{uri.text}' takes inputs of shape {_DIGITS_SHAPE} and {_DIGITS_CLASSES} classes, the data have "
                f"{shape} and {classes}; use --data flatlens:digits, or --model flatlens:cnn"
            )
        model: nn.Module = zoo.cnn(shape, classes)
        checkpoints.put(checkpoints.read(_SHIPPED / f"{name}.safetensors"), model, name)
        return model, f"trained on flatlens:digits, shipped with flatlens as {name}.safetensors"
    seed = architectures.seed_of(uri)
    with _seeded(seed):
        model = architectures.make(uri, shape, classes)
    return model, f"built in, untrained, seed {seed}"


_MAKERS: dict[str, Callable[[Uri, tuple[int, ...], int, Trust], tuple[nn.Module, str]]] = {
    "flatlens": lambda uri, shape, classes, _: _built_in(uri, shape, classes),
    "ckpt": _checkpoint,
    "timm": timm_models.make,
    "torchvision": torchvision_models.make,
    "hf": hf_models.make,
    "export": exported.make,
}
