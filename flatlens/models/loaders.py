"""From a model's name to the model, with its weights checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import torch
from torch import Tensor, nn

from flatlens.errors import ModelError, unknown
from flatlens.models import (
    BUILT_IN,
    OBJECT,
    SCHEMES,
    appended,
    architectures,
    checkpoints,
    exported,
    factories,
    guard,
    hf_models,
    normalized,
    plugins,
    robustbench_models,
    scaled,
    statedicts,
    timm_models,
    torchvision_models,
    zoo,
)
from flatlens.models.randomness import seeded
from flatlens.specs import uris
from flatlens.specs.trust import NOTHING, Trust
from flatlens.specs.uris import Uri

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
        reached: the record of its training, ``test`` the data and ``accuracy`` what it reached there; or None.
    """

    model: nn.Module
    uri: str
    sha256: str
    source: str
    recipe_sha256: str | None = None
    reached: Mapping[str, object] | None = None


def load(uri: str, *, shape: tuple[int, ...], classes: int, trust: Trust = NOTHING) -> Loaded:
    """See `flatlens.models.load`."""
    parsed = uris.parse(uri, ModelError)
    if classes < 2:
        raise ModelError(f"'{uri}' cannot tell {classes} class; data of at least 2 classes are needed")
    with seeded(0):  # a factory's random weights, too, are the same each time
        model, source = _build(parsed, tuple(shape), classes, trust)
    try:
        guard.check_kind(model)
    except ModelError as error:
        raise ModelError(f"{error} (in '{uri}')") from None
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
    """The model that ``uri`` names, as its options say normalised, scaled, θ appended; and where it comes from."""
    if scaled.OPTION in uri.options and uri.scheme in MAKERS:
        model, source = _build(uri.without(scaled.OPTION), shape, classes, trust)
        return scaled.of_uri(model, uri, shape), f"{source}, logits × {uri.options[scaled.OPTION]}"
    if appended.OPTION in uri.options and uri.scheme in MAKERS:
        file = uris.location(uri.options[appended.OPTION])
        model, source = _build(uri.without(appended.OPTION), shape, classes, trust)
        return appended.of_file(model, file), f"{source}, θ of {file} appended"
    given = normalized.asked(uri)
    if given is not None and uri.scheme == "robustbench":  # whose normalisation is in the model's own code
        raise ModelError(f"'{uri.text}' normalises its inputs by itself; leave mean and std out")
    plain = uri.without(*normalized.OPTIONS)
    if given is None:
        return _made(plain, shape, classes, trust)
    if plain.scheme == "hf" and "normalize" not in plain.options:  # its own is not asked for, and need not be there
        plain = replace(plain, options=plain.options | {"normalize": "none"})
    model, source = _made(plain, shape, classes, trust)
    try:
        model = normalized.normalized(model, *given, shape)
    except ModelError as error:
        raise ModelError(f"{error} (in '{uri.text}')") from None
    return model, source


def _made(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    if uri.scheme == OBJECT:
        raise ModelError(
            f"'{uri.text}' came from Python as an object and cannot be loaded by its name; run that script again, or "
            "name the model, for example my_model.py:factory"
        )
    if uri.scheme == "lm":
        raise ModelError(
            f"'{uri.text}' is a language model, and this is of image classifiers; trace it with prompts as data"
        )
    if uri.scheme in MAKERS:
        return MAKERS[uri.scheme](uri, shape, classes, trust)
    if uri.scheme in plugins.found():
        return plugins.make(uri, shape, classes), f"made by the plug-in {uri.scheme}"
    if not uri.scheme or not uri.path:
        raise ModelError(f"{unknown('model', uri.text, [*BUILT_IN, *_others()], where='there are')}{_meant(uri)}")
    return factories.make(uri, shape, classes), f"made by {uri.path} in {uri.scheme}"


def _checkpoint(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    uri.only(["arch", "key"])
    key = uri.options.get("key")
    if "arch" not in uri.options:
        return _whole(uri, key, trust)
    arch = uris.parse(uri.options["arch"], ModelError)
    late = {key: arch.options[key] for key in (appended.OPTION, scaled.OPTION) if key in arch.options}
    if late and arch.scheme in MAKERS:  # which came after arch=, and belong to the weights
        outer = {**late, "arch": _text(arch.without(*late))}
        return _build(replace(uri, options=uri.options | outer), shape, classes, trust)
    if key is None and "key" in arch.options and arch.scheme not in ("ckpt", *plugins.found()):
        arch, key = arch.without("key"), arch.options["key"]  # which was meant for the file, and came after arch=
    model, _ = _build(arch, shape, classes, trust)
    given = normalized.asked(arch)
    beside = uris.location(arch.scheme).parent if arch.scheme.endswith(".py") else Path.cwd()
    content = checkpoints.content(uri.file, trust_pickle=trust.pickle, beside=beside)
    found = statedicts.candidates(content, uri.path) if key is None else statedicts.under(content, key, uri.path)
    if all(normalized.carried(one.weights) for one in found) and not isinstance(model, normalized.Normalized):
        model = normalized.normalized(model, (0.0,), (1.0,), shape)
    inside = [model.model] if isinstance(model, normalized.Normalized) else []
    chosen, target = statedicts.choose(found, [*inside, model], uri.path)
    normalized.make_room(target, chosen.weights)
    statedicts.put(chosen.weights, target, uri.path, chosen.key)
    if given is not None:  # over what the weights brought with them
        model = normalized.normalized(model, *given, shape)
    which = f"{chosen.key} of " if chosen.key else ""
    return model, f"weights of {which}{uri.path} in {uri.options['arch']}"


def _text(uri: Uri) -> str:
    """A name put together again."""
    options = "&".join(f"{key}={value if key == 'arch' else quote(value)}" for key, value in uri.options.items())
    return f"{uri.scheme}:{uri.path}{'?' if options else ''}{options}"


def _whole(uri: Uri, key: str | None, trust: Trust) -> tuple[nn.Module, str]:
    """A model that was pickled with its code's names, by itself or under a key."""
    asks = f"'{uri.text}' has no architecture; write ckpt:FILE.safetensors?arch=flatlens:cnn"
    if not trust.pickle:
        raise ModelError(asks)
    found = statedicts.modules(checkpoints.content(uri.file, trust_pickle=True, beside=uri.file.parent), key)
    if not found:
        raise ModelError(f"{asks}: the file holds no whole model{f' under {key!r}' if key else ''}")
    if len(found) > 1:
        raise ModelError(
            f"'{uri.path}' holds several models: {', '.join(found)}; say which: {uri.scheme}:{uri.path}?key="
            f"{next(iter(found))}"
        )
    (name, model), *_ = found.items()
    return model, f"the model {name} pickled in {uri.path}" if name else f"the model pickled in {uri.path}"


def _meant(uri: Uri) -> str:
    """A hint at what a name without a scheme or a path was probably meant to be."""
    name = uri.path or uri.scheme
    if name.endswith(".py"):
        return f" A Python file needs the name of a function in it: {name}:make"
    if name.endswith((".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")):
        return f" Saved weights need an architecture: ckpt:{name}?arch=my_model.py:make"
    return ""


def _others() -> list[str]:
    return [f"{scheme}:…" for scheme in (*SCHEMES, *plugins.found()) if scheme != "flatlens"]


# ---- what comes with flatlens -------------------------------------------------------------------


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
        statedicts.put(checkpoints.read(_SHIPPED / f"{name}.safetensors"), model, name)
        return model, f"trained on flatlens:digits, shipped with flatlens as {name}.safetensors"
    seed = architectures.seed_of(uri)
    with seeded(seed):
        model = architectures.make(uri, shape, classes)
    return model, f"built in, untrained, seed {seed}"


MAKERS: dict[str, Callable[[Uri, tuple[int, ...], int, Trust], tuple[nn.Module, str]]] = {
    "flatlens": lambda uri, shape, classes, _: _built_in(uri, shape, classes),
    "ckpt": _checkpoint,
    "timm": timm_models.make,
    "torchvision": torchvision_models.make,
    "hf": hf_models.make,
    "robustbench": robustbench_models.make,
    "export": exported.make,
}
