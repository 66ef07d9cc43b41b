"""Models of RobustBench: a file of the library's own class in its layout, by name; and what is said without it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from flatlens_cli import app

from flatlens import models
from flatlens.errors import ModelError, SpecError
from flatlens.extras import ROBUSTBENCH
from flatlens.models import robustbench_models
from flatlens.specs.run import RunSpec
from flatlens.sweeps import grid
from tests.assets import missing, package

COLOUR = (3, 32, 32)
NAME = "Hendrycks2020AugMix_WRN"
URI = f"robustbench:{NAME}?threat=corruptions&root="
"""The smallest of the zoo: WRN-40-2."""


@pytest.fixture(scope="module")
def library():
    for needed in ("torchvision", "timm", "pyautoattack", "geotorch", "torchdiffeq", "gdown", "jinja2"):
        package(needed, ROBUSTBENCH)
    if not find_spec("robustbench"):
        missing("robustbench", ROBUSTBENCH)
    return robustbench_models._library()


def entry(library):
    return library.all_models[library.BenchmarkDataset("cifar10")][library.ThreatModel("corruptions")][NAME]


@pytest.fixture(scope="module")
def net(library):
    torch.manual_seed(3)
    return entry(library)["model"]().eval()


@pytest.fixture(scope="module")
def root(net, tmp_path_factory):
    """A folder as RobustBench lays it out; names begin with ``module.``, as most of the zoo's do."""
    place = tmp_path_factory.mktemp("robustbench")
    (place / "cifar10" / "corruptions").mkdir(parents=True)
    weights = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": weights}, place / "cifar10" / "corruptions" / f"{NAME}.pt")
    return place


def load(uri, shape=COLOUR, **trust):
    return models.load(uri, shape=shape, classes=10, **trust)


def refused(uri, shape=COLOUR, **trust):
    with pytest.raises(ModelError) as caught:
        load(uri, shape, **trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_of_the_zoo(library, net, root):
    loaded = load(f"{URI}{root}")
    x = torch.rand(3, *COLOUR)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), net(x))
        own = torch.nn.functional.conv2d(2 * x - 1, net.conv1.weight, padding=1)  # mu = sigma = 0.5
        assert torch.allclose(loaded.model.conv1((x - loaded.model.mu) / loaded.model.sigma), own, atol=1e-5)
    assert loaded.source == f"RobustBench 1.1.1, {NAME} of cifar10, corruptions"
    assert "autoattack" not in sys.modules and "autoattack.state" not in sys.modules


def test_it_is_traced(library, root, tmp_path, capsys):
    x = np.random.default_rng(0).random((2, *COLOUR), np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(2))
    words = ["trace", "--model", f"{URI}{root}", "--data", f"npz:{tmp_path}/a.npz", "--steps", "1", "--limit", "2"]
    assert app.run([*words, "--download", "--out", f"{tmp_path}/run"]) == 0, capsys.readouterr().err
    assert "download" not in (tmp_path / "run" / "spec.toml").read_text()


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("robustbench:Wong2020Fst", ["no model of RobustBench for cifar10 and Linf 'Wong2020Fst'; of its ",
                                     "Did you mean 'Wong2020Fast'?"]),
        ("robustbench:Rony2019Decoupling", ["There is one for dataset=cifar10&threat=L2."]),
        ("robustbench:Wong2020Fast?threat=linf", ["no threat 'linf'; there are: Linf, L2, corruptions.",
                                                  "Did you mean 'Linf'?"]),
        ("robustbench:Wu2020Adversarial?dataset=cifar100&threat=L2", ["no threat 'L2'; there are: Linf, corruptions."]),
        ("robustbench:Wong2020Fast?dataset=cifar", ["no dataset 'cifar'; there are: cifar10, cifar100, imagenet.",
                                                    "Did you mean 'cifar1"]),
        ("robustbench:Wong2020Fast?norm=Linf", ["no option 'norm'; 'robustbench:Wong2020Fast' has: dataset, threat, "]),
        ("robustbench:Wong2020Fast?mean=0.5&std=0.5", ["normalises its inputs by itself; leave mean and std out"]),
        ("robustbench:Chen2020Adversarial", ["is an ensemble of 3 files, and only models of one file are taken"]),
        ("robustbench:Debenedetti2022Light_XCiT-S12", ["has no file of RobustBench's own"]),
        ("robustbench:Standard_R50?dataset=imagenet", ["has no file of RobustBench's own"]),
        ("robustbench:../Wong2020Fast", ["no model of RobustBench for cifar10 and Linf '../Wong2020Fast'"]),
    ],
)  # fmt: skip
def test_a_wrong_name(library, uri, parts):
    said = refused(uri, download=True)
    assert all(part in said for part in parts), said


def test_images_without_colour(library, root):
    assert "needs images [3, H, W]" in refused(f"{URI}{root}", (1, 28, 28))


def test_a_file_that_is_missing(library, tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path))
    file = tmp_path / "robustbench" / "cifar10" / "Linf" / "Wong2020Fast.pt"
    assert refused("robustbench:Wong2020Fast") == (
        f"the weights of 'robustbench:Wong2020Fast' are not on this machine; they are looked for in '{file}': fetch "
        f"them with --download, or gdown 1Re--_lf3jCEw9bnQqGkjw3J7v2tSZKrv -O '{file}', or name where RobustBench "
        "keeps them by root=FOLDER"
    )
    assert not file.parent.exists()


class Code:
    def __reduce__(self):
        return (getattr, (3, "no_such"))


def test_a_file_that_cannot_be_read(library, net, tmp_path):
    folder = tmp_path / "cifar10" / "corruptions"
    folder.mkdir(parents=True)
    file, uri = folder / f"{NAME}.pt", f"{URI}{tmp_path}"
    torch.save({"state_dict": net.state_dict(), "more": Code()}, file)
    assert refused(uri).startswith(f"'{file}' is a pickle that could run code and is not read; ")
    file.write_bytes(file.read_bytes()[:5000])
    assert refused(uri).startswith(f"'{file}' is ")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, file)
    assert refused(uri).startswith(f"'{file}' cannot be loaded as '{uri}': RuntimeError: ")


class Note:
    """What a training script may have left in its file."""


def test_a_pickle_that_is_trusted(library, net, tmp_path, monkeypatch):
    folder = tmp_path / "cifar10" / "corruptions"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    torch.save({"state_dict": net.state_dict(), "more": Note()}, folder / f"{NAME}.pt")
    assert "is not read" in refused(f"{URI}{tmp_path}")
    x = torch.rand(1, *COLOUR)
    assert torch.equal(load(f"{URI}{tmp_path}", trust_pickle=True).model(x), net(x))
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("module", ["robustbench.utils", "geotorch", "gdown"])
def test_a_package_that_is_not_installed(library, monkeypatch, module):
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    absent = module.partition(".")[0]
    assert refused("robustbench:Wong2020Fast") == (f"'robustbench:' models need the package '{absent}': {ROBUSTBENCH}")


# ---- by network ---------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path))
    return tmp_path / "robustbench" / "cifar10" / "corruptions"


SHORT = f"robustbench:{NAME}?threat=corruptions"


def test_a_download_that_breaks_off(library, empty, monkeypatch):
    def broken(number, place):
        place.write_bytes(b"half")
        place.with_name("of-the-client.part").write_bytes(b"half")
        raise OSError("connection reset")

    monkeypatch.setattr(library, "download_gdrive_new", broken)
    said = refused(SHORT, download=True)
    assert said.startswith(f"'{NAME}.pt' could not be downloaded from https://drive.google.com/uc?id=")
    assert "(OSError: connection reset)" in said
    assert [file for file in empty.iterdir() if file.suffix != ".lock"] == []
    monkeypatch.setattr(library, "download_gdrive_new", lambda number, place: None)  # gdown's way to say no
    assert "nothing came" in refused(SHORT, download=True)
    assert [file for file in empty.iterdir() if file.suffix != ".lock"] == []


def test_a_download_that_is_interrupted(library, empty, monkeypatch):
    def stopped(number, place):
        place.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "download_gdrive_new", stopped)
    with pytest.raises(KeyboardInterrupt):
        load(SHORT, download=True)
    assert [file for file in empty.iterdir() if file.suffix != ".lock"] == []


def test_a_download(library, net, root, empty, monkeypatch, capsys):
    content = (root / "cifar10" / "corruptions" / f"{NAME}.pt").read_bytes()
    asked = []

    def whole(number, place):
        asked.append(number)
        place.write_bytes(content)

    monkeypatch.setattr(library, "download_gdrive_new", whole)
    (empty / f".{NAME}.pt.download").mkdir(parents=True)  # of a process that was killed
    (empty / f".{NAME}.pt.download" / "left.part").write_bytes(b"half")
    x = torch.rand(1, *COLOUR)
    for _ in range(2):
        assert torch.equal(load(SHORT, download=True).model(x), net(x))
    assert asked == [entry(library)["gdrive_id"]]
    sha256, source = hashlib.sha256(content).hexdigest(), f"https://drive.google.com/uc?id={asked[0]}"
    assert f"downloaded {NAME}.pt from {source}, SHA-256 {sha256}\n" == capsys.readouterr().err
    kept = json.loads((empty / f"{NAME}.pt.json").read_text())
    assert (kept["sha256"], kept["source"], kept["bytes"]) == (sha256, source, len(content))
    assert {file.name for file in empty.iterdir()} - {f".{NAME}.pt.lock"} == {f"{NAME}.pt", f"{NAME}.pt.json"}


def test_the_permission_is_no_part_of_a_spec():
    one = RunSpec(model=SHORT, data="flatlens:digits")
    other = RunSpec(model=SHORT, data="flatlens:digits", download=True)
    assert one.hash() == other.hash() and one.to_toml() == other.to_toml() and "download" not in one.to_dict()


def test_the_ready_sweep_names_models_that_there_are(library, tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path))
    cells = grid.read(Path(__file__).parents[2] / "data" / "sweeps" / "robustbench.toml").cells
    names = {cell.spec.model for cell in cells}
    assert len(cells) == 2 * len(names) == 12 and {cell.spec.eps for cell in cells} == {8 / 255}
    for name in names:
        assert refused(name).startswith(f"the weights of '{name}' are not on this machine; ")


def test_a_sweep_that_asks_for_downloads_by_itself(tmp_path):
    tables = {"run": {"model": SHORT, "data": "flatlens:digits", "download": True}}
    with pytest.raises(SpecError) as caught:
        grid.cells_of(tables, name="theirs.toml")
    assert str(caught.value) == (
        "'theirs.toml' asks for download, by which files are fetched; if they may, give --download too"
    )
    assert grid.cells_of(tables, name="mine.toml", download=True).cells[0].spec.download
