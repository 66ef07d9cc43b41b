"""The main job on real images: the valley is there, the robust model's is shallower, other data work as well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from safetensors.torch import save_file

import flatlens as fl
from flatlens import datasets
from flatlens.measure import run as execute
from flatlens.models import zoo
from flatlens.records.trajectory import Trace
from flatlens.specs.run import RunSpec
from flatlens.training import fit as training
from tests.assets import fashion_mnist, mnist
from tests.expected import cautioned

pytestmark = cautioned("flat-because-confident", "not-converged")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    """Both shipped models under the same attack, over the whole test split."""
    out = tmp_path_factory.mktemp("main")
    return {
        name: execute.run(
            RunSpec(f"flatlens:{name}", "flatlens:digits", eps=0.3, steps=25, step_size=0.03, control=("all",)),
            out / name,
        ).trace()
        for name in ("digits-cnn", "digits-cnn-robust")
    }


def mean_kappa(trace: Trace) -> np.ndarray:
    return trace.matrix("relative_flatness", layer="head").values.mean(axis=0)


def test_sharpness_rises_to_the_flips_and_falls_below_where_it_began(traces: dict[str, Trace]) -> None:
    trace = traces["digits-cnn"]
    kappa, flipped = mean_kappa(trace), trace.matrix("flipped").values
    peak = int(kappa.argmax())
    assert kappa[peak] >= 5 * kappa[0]
    assert kappa[-1] < kappa[0]
    assert flipped[:, -1].all()
    # Near the flips: some have flipped when the mean peaks, and some have not.
    assert 0.1 < flipped[:, peak].mean() < 0.9
    assert trace.valley().summary().valley_of_flipped.low > 0.8


def test_the_robust_model_flips_later_and_falls_less(traces: dict[str, Trace]) -> None:
    standard, robust = (mean_kappa(traces[name]) for name in ("digits-cnn", "digits-cnn-robust"))
    assert robust.max() / robust[-1] < standard.max() / standard[-1]
    steps = [traces[name].valley().summary().flip_step.value for name in ("digits-cnn", "digits-cnn-robust")]
    assert steps[1] > steps[0]


def test_the_line_to_another_class_has_the_valley_too_and_noise_has_not(traces: dict[str, Trace]) -> None:
    trace = traces["digits-cnn"]
    assert trace.valley(path="line-to-other-class").summary().valley_of_all.low > 0.5
    assert trace.valley(path="gaussian-noise").summary().valley_of_all.high < 0.1


FACTORY = '''
from flatlens.models.zoo import cnn

def factory(shape, classes):
    """Twice the width of the digits' network."""
    return cnn(shape, classes, width=16)
'''


def test_fashion_mnist_with_a_factory_of_ones_own(tmp_path: Path) -> None:
    data = datasets.load(f"idx:{fashion_mnist()}?split=train").take(np.arange(4000))
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    (tmp_path / "mine.py").write_text(FACTORY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.cnn((1, 28, 28), 10, width=16)
    training.train(model, x, y, epochs=3, rng=torch.Generator().manual_seed(0))
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    command = [
        sys.executable, "-m", "flatlens", "trace", "--json",
        "--model", f"ckpt:{tmp_path}/mine.safetensors?arch={tmp_path}/mine.py:factory",
        "--data", f"idx:{fashion_mnist()}", "--limit", "60", "--eps", "0.2", "--steps", "20", "--control", "all",
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["accuracy"]["clean"] > 0.7
    assert result["accuracy"]["attacked"] < 0.1
    assert result["paths"]["attack"]["valley_of_flipped"]["value"] > 0.3
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000
    trace = fl.open(tmp_path / "run")
    kappa = trace.matrix("relative_flatness").values
    assert np.median(kappa.max(1) / kappa[:, -1]) > 2


def flatlens(*words: str) -> dict[str, Any]:
    """The JSON object that a command prints."""
    command = [sys.executable, "-m", "flatlens", *words, "--json", "--quiet"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_mnist_from_training_to_the_report(tmp_path: Path) -> None:
    data = f"idx:{mnist()}"
    weights = tmp_path / "cnn.safetensors"
    trained = flatlens(
        "train", "--model", "flatlens:cnn", "--data", data, "--limit", "4000", "--epochs", "3", "--out", str(weights)
    )
    assert (trained["samples"], trained["test_samples"]) == (4000, 10_000) and trained["accuracy"] > 0.9
    result = flatlens(
        "trace", "--model", f"ckpt:{weights}?arch=flatlens:cnn", "--data", data, "--limit", "50", "--eps", "0.3",
        "--steps", "20", "--layer", "all", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert result["accuracy"]["clean"] > 0.85 and result["accuracy"]["attacked"] < 0.1
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000


SLOW = ("02", "03", "04", "05")
"""Notebooks whose functions the others' blocks and the documentation's call, too."""
NOTEBOOKS = [
    pytest.param(file, id=file.stem, marks=[pytest.mark.slow] if file.stem[:2] in SLOW else [])
    for file in sorted((ROOT / "notebooks").glob("*.ipynb"))
]


@pytest.mark.parametrize("file", NOTEBOOKS)
def test_notebooks_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if file.stem.startswith("02"):
        fashion_mnist()
    monkeypatch.setenv("FLATLENS_MNIST", str(tmp_path / "nowhere"))  # 03 runs on digits then
    said = printed(file, tmp_path, monkeypatch)
    assert not file.stem.startswith("03") or "digits, 1,347 images" in said


@pytest.mark.slow
def test_the_notebook_on_defences_runs_on_mnist_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLENS_MNIST", str(mnist()))
    said = printed(ROOT / "notebooks" / "03-defences.ipynb", tmp_path, monkeypatch)
    assert "MNIST, 4,000 images" in said and "weights have moved by 0;" in said


def printed(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a notebook small, in a folder; what it printed."""
    monkeypatch.setenv("FLATLENS_QUICK", "1")
    monkeypatch.setenv("FLATLENS_CACHE", str(folder / "cache"))
    notebook = nbformat.read(file, as_version=4)
    if file.stem.startswith(
        "04"
    ):  # a kernel of its own, in which torchvision beside the CPU's torch does not work either
        notebook.cells.insert(
            0, nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tests.conftest")
        )
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")
