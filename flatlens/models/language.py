"""``lm:FOLDER`` or ``lm:NAME``: causal language models of transformers, with their tokenizers.

A folder as ``save_pretrained`` makes it, or what was downloaded before; ``lm:flatlens-tiny`` comes with flatlens.
Only with ``--download`` is one fetched that is not there; pickled weights are not read, and code beside a model runs
only with ``--trust-remote-code``.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flatlens.errors import ModelError, one_line
from flatlens.extras import need
from flatlens.models import fetching
from flatlens.models.hf_models import check_index, quiet
from flatlens.models.loaders import sha256
from flatlens.specs import uris
from flatlens.specs.trust import NOTHING, Trust

TINY = "flatlens-tiny"
"""The character model that comes with flatlens."""
_SHIPPED = Path(__file__).parents[1] / "shipped" / "tiny-lm"
_WHAT = "'lm:' models"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Language:
    """A language model and what it is.

    Attributes:
        model: causal, in eval mode, on the CPU.
        tokenizer: its own.
        uri: how it is named.
        sha256: of all parameters and buffers.
        source: where the weights come from, for people.
    """

    model: nn.Module
    tokenizer: Any
    uri: str
    sha256: str
    source: str


def load(uri: str, *, dtype: torch.dtype = torch.float32, trust: Trust = NOTHING) -> Language:
    """The model that ``lm:…`` names, and its tokenizer.

    Args:
        uri: ``lm:FOLDER`` or ``lm:NAME``.
        dtype: of its weights.
        trust: what may run code.

    Raises:
        ModelError: transformers is missing; there is no such model; it is no causal language model, has no tokenizer or
            weights, is damaged, or would have to run code.
    """
    parsed = uris.parse(uri, ModelError)
    if parsed.scheme != "lm" or not parsed.path:
        raise ModelError(f"'{uri}' is no language model; write lm:FOLDER, lm:NAME or lm:{TINY}")
    parsed.only([])
    transformers = need("transformers", "text", _WHAT, ModelError)
    if "torchvision" in sys.modules or find_spec("torchvision"):
        need("torchvision", "torchvision", _WHAT, ModelError)  # if it fails, so does transformers, without saying why
    folder = _SHIPPED if parsed.path == TINY else parsed.file if parsed.file.is_dir() else None
    if folder is not None:
        _check_folder(folder, parsed)
    elif parsed.path.startswith((".", "/", "~")):
        raise ModelError(f"folder '{parsed.path}' is not there; lm:FOLDER needs a model saved with save_pretrained")
    elif trust.download:
        fetching.fetch_folder_of_hub(parsed.path, ["*.model", *(["*.py"] if trust.remote_code else ())])
    model, tokenizer = _load(transformers, str(folder or parsed.path), parsed, dtype, trust)
    model.eval()
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"weight '{name}' of '{uri}' holds values that are not finite; save the model again")
    source = f"transformers {transformers.__version__}, {type(model).__name__} of {parsed.path}"
    return Language(model, tokenizer, uri, sha256(model), source)


def _load(transformers: Any, where: str, uri: uris.Uri, dtype: torch.dtype, trust: Trust) -> tuple[nn.Module, Any]:
    known = {"local_files_only": True, "trust_remote_code": trust.remote_code}
    try:
        with quiet(transformers), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.from_pretrained(where, **known)
            _check_config(config, uri)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                where, config=config, **known, use_safetensors=True, attn_implementation="eager", dtype=dtype,
                output_loading_info=True,
            )  # fmt: skip
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, **known)
    except ModelError:
        raise
    except Exception as error:  # a damaged folder raises whatever its parts provoke
        raise ModelError(_refusal(error, uri)) from error
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ModelError(f"'{uri.text}' lacks weight '{lacking[0]}'{more}; is it saved from a causal language model?")
    return model, tokenizer


def _check_config(config: Any, uri: uris.Uri) -> None:
    kinds = getattr(config, "architectures", None) or []
    if getattr(config, "is_encoder_decoder", False) or (
        kinds and not any("CausalLM" in k or "LMHead" in k for k in kinds)
    ):
        raise ModelError(
            f"'{uri.text}' is a {', '.join(kinds) or type(config).__name__}, no causal language model; one that "
            "predicts the next token (…ForCausalLM) is needed"
        )
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        kind = quantised.get("quant_method") if isinstance(quantised, dict) else type(quantised).__name__
        raise ModelError(
            f"'{uri.text}' is quantised ({kind}) and has no exact gradient; save it dequantised, in float32"
        )


def _check_folder(folder: Path, uri: uris.Uri) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"folder '{uri.path}' has no config.json; lm:FOLDER needs a model saved with save_pretrained")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        pickled = next((path.name for path in sorted(folder.glob("*.bin"))), None)
        what = f"'{pickled}' is a pickle, which could run code" if pickled else "it has no model.safetensors"
        raise ModelError(f"folder '{uri.path}': {what}; save the weights as safetensors (save_pretrained)")
    check_index(folder)


def _refusal(error: Exception, uri: uris.Uri) -> str:
    said = str(error)
    if "trust_remote_code" in said:
        return (
            f"'{uri.text}' brings Python code of its own, which is not run; read it, and trust it with "
            "--trust-remote-code"
        )
    if not uri.file.is_dir() and any(word in said for word in ("connect", "cached", "offline", "not a valid model")):
        return (
            f"'{uri.path}' is no folder, was not downloaded, and without --download nothing is fetched: "
            f"hf download {uri.path}"
        )
    if "okenizer" in said:
        return f"'{uri.text}' has no tokenizer that can be read ({one_line(error)}); save it beside the model"
    return f"'{uri.text}' cannot be loaded: {one_line(error, kind=True)}"


def check_model(model: object) -> None:
    """Refuse what is no causal language model, before anything is tried.

    Raises:
        ModelError: it is none, or in train mode.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model is a {type(model).__name__}; give a causal language model of transformers, or its name"
        )
    for needed in ("get_input_embeddings", "get_output_embeddings"):
        if not callable(getattr(model, needed, None)):
            raise ModelError(
                f"the model is a {type(model).__name__}, which has no {needed}(); give a causal language model of "
                "transformers (…ForCausalLM)"
            )
    if model.training:
        raise ModelError("the model is in train mode; call model.eval() first")
