"""Nothing runs code that its user has not trusted, and what is planted or damaged ends in one clear line."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from flatlens_cli import app, options
from safetensors.torch import save_file
from torch import nn

from flatlens import datasets, models
from flatlens.errors import DataError, FlatlensError, ModelError, SpecError
from flatlens.files import archives
from flatlens.measure import run as execute
from flatlens.models import checkpoints, zoo
from flatlens.records import runs
from flatlens.specs import run as spec
from flatlens.specs.run import RunSpec
from flatlens.victims.images import ImageVictim
from tests.assets import package

SHAPE = (1, 8, 8)


def load(uri: str, shape: tuple[int, ...] = SHAPE, **trust: bool) -> models.Loaded:
    return models.load(uri, shape=shape, classes=10, **trust)


def refused(uri: str, shape: tuple[int, ...] = SHAPE, **trust: bool) -> str:
    with pytest.raises(ModelError) as caught:
        load(uri, shape, **trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Planted:
    """A pickle that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


# ---- pickles ------------------------------------------------------------------------------------


def test_a_pickle_of_weights_needs_to_be_trusted(tmp_path):
    planted, file = tmp_path / "planted", tmp_path / "w.pt"
    torch.save({"fc.weight": Planted(planted)}, file)
    assert refused(f"ckpt:{file}?arch=flatlens:cnn").endswith("or trust it with --trust-pickle")
    assert refused(f"ckpt:{file}?arch=flatlens:cnn", trust_remote_code=True).endswith("trust it with --trust-pickle")
    assert not planted.exists()
    assert "holds no state_dict" in refused(f"ckpt:{file}?arch=flatlens:cnn", trust_pickle=True)
    assert planted.exists()


def test_a_whole_model_can_be_trusted(tmp_path):
    model = zoo.mlp(SHAPE, 10, width=4)
    torch.save(model, tmp_path / "m.pt")
    uri = f"ckpt:{tmp_path}/m.pt?arch=flatlens:mlp?width=4"
    assert "is a pickle that could run code" in refused(uri)
    assert torch.equal(load(uri, trust_pickle=True).model.fc.weight, model.fc.weight)
    (tmp_path / "m.pt").write_bytes(b"\x80\x02garbage")
    assert refused(uri, trust_pickle=True).startswith(f"'{tmp_path}/m.pt' is ")


@pytest.fixture
def vit(tmp_path):
    """A folder of transformers, with a pickle for weights."""
    transformers = package("transformers", "pip install transformers==5.23.0")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=10)
    folder = tmp_path / "vit"
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(folder)
    shutil.move(folder / "model.safetensors", tmp_path / "whole.safetensors")
    torch.save(model.state_dict() | {"planted": Planted(tmp_path / "planted")}, folder / "pytorch_model.bin")
    return folder


def test_a_pickle_of_transformers(vit, tmp_path):
    uri = f"hf:{vit}?normalize=none"
    for trust in ({}, {"trust_pickle": True, "trust_remote_code": True}):  # transformers reads none in any case
        assert refused(uri, **trust).endswith("which transformers does not read; save them as safetensors")
    assert not (tmp_path / "planted").exists()


def test_code_beside_a_model(vit, tmp_path):
    shutil.copy(tmp_path / "whole.safetensors", vit / "model.safetensors")
    (vit / "pytorch_model.bin").unlink()
    config = json.loads((vit / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForImageClassification": "own.M"}}
    (vit / "config.json").write_text(json.dumps(config))
    (vit / "own.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'planted')!r}).touch()\n"
        "from transformers import ViTConfig, ViTForImageClassification\n"
        "class C(ViTConfig):\n    model_type = 'own'\n"
        "class M(ViTForImageClassification):\n    config_class = C\n"
    )
    uri = f"hf:{vit}?normalize=none"
    for trust in ({}, {"trust_pickle": True}):
        assert refused(uri, **trust).endswith("which is not run; read it, and trust it with --trust-remote-code")
    assert not (tmp_path / "planted").exists()
    assert load(uri, trust_remote_code=True).model(torch.rand(2, *SHAPE)).logits.shape == (2, 10)
    assert (tmp_path / "planted").exists()


def test_a_planted_program_of_torch_export(tmp_path):
    program = torch.export.export(zoo.mlp(SHAPE, 10), (torch.rand(2, *SHAPE),))
    torch.export.save(program, tmp_path / "a.pt2")
    planted, file = tmp_path / "planted", tmp_path / "b.pt2"
    with zipfile.ZipFile(tmp_path / "a.pt2") as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            kept = pickle.dumps(Planted(planted)) if name.endswith("sample_inputs/model.pt") else old.read(name)
            new.writestr(name, kept)
    assert "can run code when it is read" in refused(f"export:{file}")
    assert not planted.exists()


# ---- the flags ----------------------------------------------------------------------------------


def run_cli(*words: object) -> int:
    return app.run([str(word) for word in words])


def test_trust_is_a_flag_and_stands_in_the_manifest(tmp_path, capsys):
    torch.save(zoo.mlp(SHAPE, 10, width=4), tmp_path / "m.pt")
    model = f"ckpt:{tmp_path}/m.pt?arch=flatlens:mlp?width=4"
    words = ["trace", "--model", model, "--data", "flatlens:digits", "--limit", 2, "--steps", 2, "--quiet"]
    assert run_cli(*words, "--out", tmp_path / "run") == 2
    assert "trust it with --trust-pickle" in capsys.readouterr().err
    assert run_cli(*words, "--out", tmp_path / "run", "--trust-pickle") == 0
    manifest = runs.load(tmp_path / "run").manifest
    assert manifest["trust_pickle"] is True and manifest["trust_remote_code"] is False
    capsys.readouterr()
    again = ["trace", "--config", tmp_path / "run" / "spec.toml", "--quiet", "--out", tmp_path / "again"]
    assert run_cli(*again) == 2  # a file does not trust for whoever runs it
    assert "asks for trust_pickle, which lets code run; if you trust its model, give --trust-pickle too" in (
        capsys.readouterr().err
    )
    assert run_cli(*again, "--trust-pickle") == 0
    assert run_cli("layers", "--model", model) == 2
    assert run_cli("layers", "--model", model, "--trust-pickle") == 0


def test_trust_is_no_part_of_what_a_run_is():
    plain = RunSpec(model="flatlens:cnn", data="flatlens:digits")
    trusting = RunSpec(model="flatlens:cnn", data="flatlens:digits", trust_pickle=True)
    assert plain.hash() == trusting.hash() and spec.difference(plain, trusting) == []


def test_trust_by_a_file(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('model = "flatlens:cnn"\ndata = "flatlens:digits"\ntrust_remote_code = true\n')
    with pytest.raises(SpecError, match="give --trust-remote-code too"):
        options.run_spec({}, file)
    assert options.run_spec({"trust_remote_code": True}, file).trust_remote_code
    assert options.run_spec({}, None, ["model=flatlens:cnn", "data=flatlens:digits", "trust_pickle=true"]).trust_pickle


# ---- archives -----------------------------------------------------------------------------------


def test_a_bomb_of_arrays(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x=np.zeros((4, 1, 1000, 1000), np.uint8), y=np.arange(4))
    assert len(datasets.load(f"npz:{file}")) == 4
    monkeypatch.setattr(archives, "MOST", 10**6)
    with pytest.raises(DataError) as caught:
        datasets.load(f"npz:{file}")
    assert "and would expand to 4,000," in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(", as a decompression bomb does; save it again")


def squeezed(file: Path, content: bytes, name: str) -> None:
    """The archive of torch.save in ``content``, compressed, with one more entry."""
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
        new.writestr(name, bytes(10**7))


@pytest.mark.parametrize("kind", ["ckpt", "export", "hf"])
def test_a_bomb_of_weights(tmp_path, kind):
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, stream)
    file = tmp_path / "pytorch_model.bin"
    squeezed(file, stream.getvalue(), "archive/data/9")
    if kind == "hf":
        package("transformers", "pip install transformers==5.23.0")
        (tmp_path / "config.json").write_text("{}")
    uri = {"ckpt": f"ckpt:{file}?arch=flatlens:cnn", "export": f"export:{file}", "hf": f"hf:{tmp_path}?normalize=none"}
    message = refused(uri[kind])
    assert message.startswith(f"'{file}' has ") and message.endswith("as a decompression bomb does; save it again")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..\\x", "C:\\x"])
def test_a_path_that_leads_out_of_an_archive(tmp_path, name):
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x" * 9)
    for call in (
        lambda: datasets.load(f"npz:{file}"),
        lambda: load(f"ckpt:{file}?arch=flatlens:cnn"),
        lambda: load(f"export:{file}", trust_pickle=True),
    ):
        with pytest.raises(FlatlensError, match="which leads out of it; get it from who made it"):
            call()


def test_a_path_that_leads_out_of_an_index(vit):
    index = vit / "model.safetensors.index.json"
    for name in ("../whole.safetensors", "/etc/passwd"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        assert refused(f"hf:{vit}?normalize=none") == (
            f"'{index}' names the file {name!r}, which leads out of its folder; copy it again"
        )
    for wrong in ("{", "{}", '{"weight_map": {"a": 3}}'):
        index.write_text(wrong)
        assert refused(f"hf:{vit}?normalize=none").startswith(f"'{index}' ")


def test_weights_of_wrong_shapes_or_cut_off(tmp_path):
    file = tmp_path / "w.safetensors"
    weights = zoo.mlp(SHAPE, 10, width=4).state_dict()
    save_file(weights | {"fc.weight": torch.zeros(10, 5)}, file)
    assert refused(f"ckpt:{file}?arch=flatlens:mlp?width=4").startswith("weight 'fc.weight' has shape (10, 5) in ")
    file.write_bytes(file.read_bytes()[:-3])
    assert "is damaged or cut off" in refused(f"ckpt:{file}?arch=flatlens:mlp?width=4")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "is damaged or cut off" in refused(f"ckpt:{file}?arch=flatlens:mlp?width=4")
    torch.save(weights, tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:-200])
    with pytest.raises(ModelError, match="is damaged or holds no weights"):
        checkpoints.read(tmp_path / "w.pt")


# ---- models that misbehave ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", ["raise RuntimeError('no\\nweights')", "raise SystemExit(3)", "import sys; sys.exit()"]
)
def test_a_factory_that_raises(tmp_path, body):
    file = tmp_path / "m.py"
    file.write_text(f"def f():\n    {body}\n")
    assert refused(f"{file}:f").startswith(f"'{file}:f' failed with ")
    file.write_text(body)
    assert refused(f"{file}:f").startswith(f"importing '{file}' failed with ")


class Restless(nn.Module):
    """Changes something of itself in every pass, by one of several ways; its logits stay what they are."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)
        self.unused = nn.Parameter(torch.zeros(4))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.way = way

    def forward(self, x):
        if self.way == "buffer in place":
            self.count += 1
        elif self.way == "buffer replaced":
            self.count = self.count + 1
        elif self.way == "whole number":
            self.passes.add_(1)
        elif self.way == "parameter":
            with torch.no_grad():
                self.unused.add_(1)
        elif self.way == "parameter's data":
            self.unused.data += 1
        elif self.way == "buffer deleted" and "count" in self._buffers:
            del self.count
        elif self.way == "same again":
            self.count = self.count.clone()
        elif self.way == "a cache" and "cache" not in self._buffers:
            self.register_buffer("cache", torch.ones(2))
        elif self.way == "raises":
            assert x.shape[1] == 3, "three channels\nare needed"
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(
    ("way", "name"),
    [("buffer in place", "buffer 'count'"), ("buffer replaced", "buffer 'count'"), ("whole number", "buffer 'passes'"),
     ("parameter", "parameter 'unused'"), ("parameter's data", "parameter 'unused'"),
     ("buffer deleted", "buffer 'count'")],
)  # fmt: skip
def test_a_model_that_changes_itself(way, name):
    with pytest.raises(ModelError) as caught:
        ImageVictim(Restless(way).eval(), torch.rand(4, *SHAPE))
    assert str(caught.value) == (
        f"the model changes its {name} in a forward pass; it must stay as it is while it is attacked: "
        "leave such updates out in eval mode"
    )


@pytest.mark.parametrize("way", ["nothing", "same again", "a cache"])
def test_a_model_that_stays_what_it_is(way):
    model = Restless(way).eval()
    assert ImageVictim(model, torch.rand(4, *SHAPE)).classes == 3
    assert ImageVictim(model.half(), torch.rand(4, *SHAPE), dtype=torch.float32).classes == 3


def test_a_model_that_raises():
    with pytest.raises(ModelError, match=r"the model fails on inputs of shape \(2, 1, 8, 8\): three channels are"):
        ImageVictim(Restless("raises").eval(), torch.rand(4, *SHAPE))


def test_a_changing_model_is_found_before_anything_runs(tmp_path):
    file = tmp_path / "m.py"
    file.write_text(
        "from torch import nn\nimport torch\nclass M(nn.Module):\n    def __init__(self, classes):\n"
        "        super().__init__(); self.fc = nn.Linear(64, classes); self.register_buffer('n', torch.zeros(()))\n"
        "    def forward(self, x):\n        self.n += 1\n        return self.fc(x.flatten(1))\n"
    )
    with pytest.raises(ModelError, match="the model changes its buffer 'n' in a forward pass"):
        execute.run(RunSpec(model=f"{file}:M", data="flatlens:digits", steps=2, limit=2), tmp_path / "run")
    assert not os.path.lexists(tmp_path / "run")
