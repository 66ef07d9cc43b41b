"""``timm:NAME``: architectures of timm, with or without their trained weights."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import nn

from flatlens.errors import ModelError, one_line, unknown
from flatlens.extras import need
from flatlens.models import fetching
from flatlens.models.normalized import Normalized, fitted
from flatlens.specs.trust import Trust
from flatlens.specs.uris import Uri

OPTIONS = ("pretrained", "classes", "img_size")


def make(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    """The model, normalised as its ``pretrained_cfg`` says, and where its weights come from.

    Untrained it is fitted to the data's channels and classes; with ``pretrained=true`` it keeps its own classes, and
    its weights must lie in the cache already, unless ``trust.download``.

    Raises:
        ModelError: timm is missing, does not have it, or its weights are not there.
    """
    uri.only(OPTIONS)
    pretrained = uri.choice("pretrained", ("true", "false"), "false") == "true"
    if len(shape) != 3:
        raise ModelError(f"'{uri.text}' needs images [C, H, W], not inputs of shape {shape}; use flatlens:mlp")
    timm = need("timm", "timm", "'timm:' models", ModelError)
    if not timm.is_model(uri.path):
        names = timm.list_models()
        near = difflib.get_close_matches(uri.path.casefold(), names, n=8, cutoff=0.5)
        raise ModelError(unknown("model of timm", uri.path, near, where=f"of its {len(names)}, the nearest are"))
    settings: dict[str, Any] = {}
    if "img_size" in uri.options:
        settings["img_size"] = uri.whole("img_size", 224, low=1, high=65536)
    if pretrained:
        if shape[0] != 3:
            raise ModelError(f"'{uri.text}' is trained on 3 channels, the data have {shape[0]}; use data in colour")
        if "classes" in uri.options:
            raise ModelError(f"'{uri.text}': pretrained=true keeps the model's own classes; leave classes out")
        settings |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(_cached(timm, uri, trust))}}
    else:
        settings |= {"in_chans": shape[0], "num_classes": uri.whole("classes", classes, low=2, high=1_000_000)}
    try:
        model = timm.create_model(uri.path, **settings)
    except Exception as error:  # whatever an architecture makes of its arguments, or a file's bytes provoke
        raise ModelError(f"'{uri.text}' cannot be made: {one_line(error, kind=True)}") from error
    mean, std = (fitted(model.pretrained_cfg[key], shape[0]) for key in ("mean", "std"))
    source = "with its trained weights" if pretrained else "untrained"
    return Normalized(model, mean, std), f"timm {timm.__version__}, {uri.path}, {source}"


def _cached(timm: Any, uri: Uri, trust: Trust) -> Path:
    """The trained weights' file, among what was downloaded before, or downloaded now if that is allowed."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    known = timm.get_pretrained_cfg(uri.path)
    if known is None or not (known.hf_hub_id or known.url):
        raise ModelError(f"timm has no trained weights for '{uri.path}'; name one of timm.list_pretrained()")
    names = [known.hf_hub_filename] if known.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for name in names if known.hf_hub_id else ():
        if isinstance(found := try_to_load_from_cache(known.hf_hub_id, name), str):
            return Path(found)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(known.url or "").name
    if known.url and file.is_file():
        return file
    if trust.download:
        return fetching.fetch_of_hub(known.hf_hub_id, names) if known.hf_hub_id else fetching.fetch_url(known.url, file)
    how = (
        f"hf download {known.hf_hub_id}"
        if known.hf_hub_id
        else f"curl -L {known.url} -o {folder / Path(known.url).name}"
    )
    raise ModelError(
        f"the trained weights of '{uri.text}' are not on this machine, and without --download nothing is fetched: {how}"
    )
