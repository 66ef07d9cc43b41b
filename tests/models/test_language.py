"""Language models by name: what is loaded, and one line for each kind of folder that is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import flatlens
from flatlens.errors import ModelError
from flatlens.models import language, load
from flatlens.models.language import check_model

SHIPPED = Path(flatlens.__file__).parent / "shipped" / "tiny-lm"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "model"))


def edited(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def remote(folder: Path) -> None:
    edited(folder, auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, model_type="strange")
    (folder / "code.py").write_text("raise SystemExit('this ran')\n")


def index_that_leads_out(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (without("config.json"), "has no config.json"),
    "no weights": (without("model.safetensors"), "it has no model.safetensors"),
    "a pickle": (pickled, "is a pickle, which could run code"),
    "cut off": (cut_off, "cannot be loaded"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "cannot be loaded|has no tokenizer"),
    "a weight is missing": (lacking, "lacks weight 'model.layers.1.mlp.up_proj.weight'"),
    "a weight is not finite": (not_finite, "weight 'model.norm.weight' .* not finite"),
    "a classifier": (lambda f: edited(f, architectures=["LlamaForSequenceClassification"]), "no causal language model"),
    "an encoder and decoder": (lambda f: edited(f, is_encoder_decoder=True), "no causal language model"),
    "quantised": (lambda f: edited(f, quantization_config={"quant_method": "gptq"}), r"is quantised \(gptq\)"),
    "code of its own": (remote, "brings Python code of its own|cannot be loaded"),
    "an index that leads out": (index_that_leads_out, "leads out of its folder"),
}


@pytest.mark.parametrize("which", DAMAGED)
def test_one_line_says_what_is_wrong_with_a_folder(which: str, folder: Path) -> None:
    damage, said = DAMAGED[which]
    damage(folder)
    with pytest.raises(ModelError, match=said) as told:
        language.load(f"lm:{folder}")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("lm:", "write lm:FOLDER"),
        ("lm:./nowhere", "is not there"),
        ("lm:nobody/no-such-model", "is no folder, was not downloaded"),
        ("lm:flatlens-tiny?x=1", "option 'x'"),
        ("hf:x", "is no language model"),
    ],
)
def test_one_line_says_how_language_models_are_named(uri: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        language.load(uri)


def test_a_folder_is_the_same_as_its_name(folder: Path) -> None:
    one, other = (language.load(uri) for uri in ("lm:flatlens-tiny", f"lm:{folder}"))
    assert one.sha256 == other.sha256 and one.model.dtype == torch.float32 and not one.model.training
    assert sum(p.numel() for p in one.model.parameters()) < 250_000
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1 << 20


def test_a_language_model_is_no_classifier_of_images() -> None:
    with pytest.raises(ModelError, match="is a language model"):
        load("lm:flatlens-tiny", shape=(1, 8, 8), classes=10)


@pytest.mark.parametrize(("model", "said"), [("a name", "is a str"), (torch.nn.Linear(2, 2), "get_input_embeddings")])
def test_one_line_says_what_is_no_language_model(model: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check_model(model)
