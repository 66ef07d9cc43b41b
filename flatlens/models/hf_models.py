"""``hf:FOLDER`` or ``hf:NAME``: image classifiers of transformers, from a folder or from what was downloaded before."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flatlens.errors import ModelError, one_line
from flatlens.extras import need, trouble
from flatlens.files.archives import check, leads_out
from flatlens.models import fetching
from flatlens.models.normalized import Normalized
from flatlens.specs.trust import Trust
from flatlens.specs.uris import Uri

_WHAT = "'hf:' models"
_NOT_HERE = "'{0}' is no folder, was not downloaded, and without --download nothing is fetched: hf download {0}"
_PREPROCESSOR = "preprocessor_config.json"


def make(uri: Uri, shape: tuple[int, ...], classes: int, trust: Trust) -> tuple[nn.Module, str]:
    """The classifier in float32 with eager attention, which can be differentiated twice, and where it comes from.

    It is normalised as its ``preprocessor_config.json`` says (``image_mean``, ``image_std`` and ``rescale_factor``),
    or not at all with ``normalize=none``. Nothing is downloaded unless ``trust.download``.

    Raises:
        ModelError: transformers or the model is missing, its files are damaged or do not fit each other, or it would
            have to run code of its own.
    """
    uri.only(["normalize"])
    normalize = uri.choice("normalize", ("own", "none"), "own") == "own"
    transformers = need("transformers", "hf", _WHAT, ModelError)
    if "torchvision" in sys.modules or find_spec("torchvision"):
        need("torchvision", "torchvision", _WHAT, ModelError)  # if it fails, so do they, without saying why
    folder = uri.file if uri.path and uri.file.is_dir() else None
    if folder is not None:
        _check_folder(folder, uri)
    elif not uri.path or uri.path.startswith((".", "/", "~")):
        raise ModelError(f"folder '{uri.path}' is not there; hf:FOLDER needs a model saved with save_pretrained")
    elif trust.download:
        fetching.fetch_folder_of_hub(uri.path)
    mean, std = _normalization(folder, uri) if normalize else ((0.0,), (1.0,))
    model = _load(transformers, str(folder or uri.path), uri, trust)
    return Normalized(
        model, mean, std
    ), f"transformers {transformers.__version__}, {type(model).__name__} of {uri.path}"


def _load(transformers: Any, where: str, uri: Uri, trust: Trust) -> nn.Module:
    try:
        auto = transformers.AutoModelForImageClassification
    except Exception as error:  # it imports its parts only now
        raise ModelError(trouble(_WHAT, "transformers", error)) from error
    try:
        with quiet(transformers):
            model, info = auto.from_pretrained(
                where,
                local_files_only=True,
                trust_remote_code=trust.remote_code,
                weights_only=True,
                attn_implementation="eager",
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # a damaged folder raises whatever its parts provoke
        raise ModelError(_refusal(error, uri)) from error
    for keys, said in (
        (info["missing_keys"], "lacks"),
        (info["unexpected_keys"], "has, and its architecture has not,"),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ModelError(
                f"'{uri.text}' {said} weight '{sorted(keys)[0]}'{more}; is it saved from an image classifier?"
            )
    return model


def _refusal(error: Exception, uri: Uri) -> str:
    said = str(error)
    if "trust_remote_code" in said:
        return (
            f"'{uri.text}' brings Python code of its own, which is not run; read it, and trust it with "
            "--trust-remote-code"
        )
    if "weights_only" in said or "WeightsUnpickler" in said or "Unsupported global" in said:
        return (
            f"the weights of '{uri.text}' are a pickle that could run code, which transformers does not read; "
            "save them as safetensors"
        )
    if not uri.file.is_dir() and ("connect" in said or "cached" in said or "offline" in said):
        return _NOT_HERE.format(uri.path)
    return f"'{uri.text}' cannot be loaded: {one_line(error, kind=True)}"


def _check_folder(folder: Path, uri: Uri) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"folder '{uri.path}' has no config.json; hf:FOLDER needs a model saved with save_pretrained")
    check_index(folder)


def check_index(folder: Path) -> None:
    """Refuse damaged files of weights, and indices that lead out of their folder.

    Raises:
        ModelError: there is one.
    """
    for index in sorted(folder.glob("*.index.json")):
        parts = read_json(index).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise ModelError(f"'{index}' has no weight_map of names to files; copy it again")
        for part in parts.values():
            if leads_out(part):
                raise ModelError(f"'{index}' names the file {part!r}, which leads out of its folder; copy it again")
    for pattern in ("*.bin", "*.pt"):
        for file in folder.glob(pattern):
            check(file, ModelError, stored=True)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' is no JSON file or is cut off ({one_line(error)}); copy it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"'{file}' holds no JSON object; copy it again")
    return found


def _normalization(folder: Path | None, uri: Uri) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for inputs in [0, 1], a number a channel each."""
    file = folder / _PREPROCESSOR if folder is not None else _cached(uri)
    if not file.is_file():
        raise ModelError(
            f"'{uri.text}' has no {_PREPROCESSOR}, so that its normalisation is not known; save its image processor "
            f"beside it, or say that it has none: hf:{uri.path}?normalize=none"
        )
    said = read_json(file)
    try:
        factor = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
        # Processors take bytes from 0 to 255; ours are 255 times smaller. Some then subtract 1.
        scale, offset = 255 * factor, 1.0 if said.get("rescale_offset", said.get("do_rescale_offset")) else 0.0
        plain = not said.get("do_normalize", True)
        means, stds = (
            tuple(float(v) for v in (value if isinstance(value, list) else [value]))
            for value in ((0.0, 1.0) if plain else (said["image_mean"], said["image_std"]))
        )
        return tuple((m + offset) / scale for m in means), tuple(s / scale for s in stds if s > 0)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"'{file}' has no image_mean and image_std of numbers; save the image processor again"
        ) from error


def _cached(uri: Uri) -> Path:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(uri.path, "config.json")
        preprocessor = try_to_load_from_cache(uri.path, _PREPROCESSOR)
    except ValueError as error:
        raise ModelError(fetching.NO_NAME.format(uri.path)) from error
    if not isinstance(found, str):
        raise ModelError(_NOT_HERE.format(uri.path))
    return Path(preprocessor) if isinstance(preprocessor, str) else Path(found).with_name(_PREPROCESSOR)


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and no warnings of what is checked here anyway."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
