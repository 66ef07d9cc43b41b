"""Weights of torchvision, timm and transformers that are missing: fetched when that is allowed, hashed, recorded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flatlens import models
from flatlens.errors import ModelError
from flatlens.models import fetching, language
from flatlens.specs.trust import Trust
from tests.assets import package
from tests.language import tiny

COLOUR = (3, 32, 32)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Empty places for what was downloaded."""
    package("huggingface_hub", "pip install huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path / "flatlens"))
    return tmp_path


def refused(uri: str, shape: tuple[int, ...] = COLOUR) -> str:
    with pytest.raises(ModelError) as caught:
        models.load(uri, shape=shape, classes=10, download=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def broken(*given: object, **named: object) -> None:
    raise OSError("connection reset")


def test_weights_of_torchvision(hub, monkeypatch, capsys):
    torchvision = package("torchvision", "pip install --no-deps torchvision==0.28.0")
    uri, place = "torchvision:squeezenet1_1?weights=DEFAULT", hub / "torch" / "hub" / "checkpoints"
    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    assert "could not be downloaded from https://download.pytorch.org/models/squeezenet1_1-" in refused(uri)
    assert [file for file in place.iterdir() if file.suffix != ".lock"] == []
    net, asked = torchvision.models.squeezenet1_1(), []

    def whole(url, place, prefix, progress):
        asked.append((url, prefix))
        torch.save(net.state_dict(), place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", whole)
    loaded = models.load(uri, shape=COLOUR, classes=10, download=True)
    assert torch.equal(loaded.model.model.features[0].weight, net.features[0].weight)
    ((url, prefix),) = asked
    file = place / Path(url).name
    assert f"-{prefix}." in file.name and len(prefix) == 8
    assert capsys.readouterr().err == f"downloaded {file.name} from {url}, SHA-256 {sha256(file)}\n"
    kept = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert (kept["source"], kept["sha256"]) == (url, sha256(file))


def test_weights_of_timm(hub, monkeypatch):
    package("torchvision", "pip install --no-deps torchvision==0.28.0")
    timm = package("timm", "pip install --no-deps timm==1.0.31")
    uri = "timm:mobilenetv3_small_050?pretrained=true"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    assert "could not be downloaded from huggingface.co (OSError: connection reset)" in refused(uri)
    net, asked = timm.create_model("mobilenetv3_small_050"), []
    file = hub / "model.safetensors"
    save_file(net.state_dict(), file)

    def whole(repo_id, filename):
        asked.append((repo_id, filename))
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", whole)
    loaded = models.load(uri, shape=COLOUR, classes=10, download=True)
    assert torch.equal(loaded.model.model.conv_stem.weight, net.conv_stem.weight)
    name = asked[0][0]
    assert name.startswith("timm/mobilenetv3_small_050")
    (kept,) = (json.loads(one.read_text()) for one in (hub / "flatlens" / "downloads").iterdir())
    assert (kept["source"], kept["sha256"]) == (f"huggingface.co/{name}", sha256(file))


def test_a_file_that_the_hub_does_not_have(hub, monkeypatch):
    from huggingface_hub.errors import EntryNotFoundError

    def none(repo_id, filename):
        raise EntryNotFoundError(filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", none)
    with pytest.raises(ModelError, match=r"'a/b' on huggingface.co has no x or y; name another model"):
        fetching.fetch_of_hub("a/b", ["x", "y"])


def test_a_model_of_transformers(hub, monkeypatch, capsys):
    transformers = package("transformers", "pip install transformers==5.23.0")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=28, patch_size=7, num_channels=1, num_labels=10)
    net, asked = transformers.ViTForImageClassification(config), []
    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    assert "'own/er' could not be downloaded from huggingface.co (OSError: " in refused("hf:own/er", (1, 28, 28))
    place = hub / "hub" / "models--own--er" / "snapshots" / "0"

    def whole(repo_id, allow_patterns):
        asked.append(allow_patterns)
        net.save_pretrained(place)
        (place / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.3], "image_std": [0.4]}))
        (place.parents[1] / "refs").mkdir()
        (place.parents[1] / "refs" / "main").write_text("0")
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", whole)
    for _ in range(2):  # the second time it is there
        loaded = models.load("hf:own/er", shape=(1, 28, 28), classes=10, download=True)
        assert torch.equal(loaded.model.model.classifier.weight, net.classifier.weight)
    assert len(asked) == 1 and not any("bin" in pattern or "py" in pattern for pattern in asked[0])
    assert sha256(place / "model.safetensors") in capsys.readouterr().err


@pytest.mark.parametrize("trusted", [False, True])
def test_a_language_model(hub, monkeypatch, capsys, trusted):
    net, tokenizer = tiny()
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(ModelError, match=r"'own/er' could not be downloaded from huggingface.co \(OSError: "):
        language.load("lm:own/er", trust=Trust(download=True))
    with pytest.raises(ModelError, match="without --download nothing is fetched: hf download own/er"):
        language.load("lm:own/er")
    with pytest.raises(ModelError, match="'a/b/c' is no folder, and no name of a model such as owner/model"):
        language.load("lm:a/b/c", trust=Trust(download=True))
    place = hub / "hub" / "models--own--er" / "snapshots" / "0"

    def whole(repo_id, allow_patterns):
        asked.append(allow_patterns)
        net.save_pretrained(place)
        tokenizer.save_pretrained(place)
        (place.parents[1] / "refs").mkdir()
        (place.parents[1] / "refs" / "main").write_text("0")
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", whole)
    for _ in range(2):  # the second time it is there
        loaded = language.load("lm:own/er", trust=Trust(download=True, remote_code=trusted))
        assert torch.equal(loaded.model.lm_head.weight, net.lm_head.weight)
    assert len(asked) == 1 and "*.model" in asked[0] and ("*.py" in asked[0]) == trusted
    assert not any("bin" in pattern for pattern in asked[0])
    assert sha256(place / "model.safetensors") in capsys.readouterr().err
