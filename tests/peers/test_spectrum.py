"""The whole network's spectral density: PyHessian's, against the dense Hessian, and on the page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from flatlens.errors import DataError
from flatlens.measure.run import run
from flatlens.peers import spectrum
from flatlens.peers.pyhessian import pyhessian_density
from flatlens.records import runs
from flatlens.report import page_data
from flatlens.report.density import density
from flatlens.specs.run import RunSpec
from tests.expected import cautioned

SPEC = RunSpec("flatlens:digits-cnn", "flatlens:digits", eps=0.3, steps=10, limit=10)


def test_it_is_of_all_weights() -> None:
    """With as many steps as weights, Lanczos gives the dense Hessian's largest eigenvalue."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    x, y = torch.rand(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    values, weights = pyhessian_density(model, None, x, y, seed=0, steps=31)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(model, p, (x,)), y)

    blocks = hessian(loss)(parameters)
    sizes = {name: p.numel() for name, p in parameters.items()}
    dense = torch.cat([torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in sizes], 1) for a in sizes])
    truth = torch.linalg.eigvalsh(dense)
    # PyHessian divides its vectors by ‖v‖ + 1e-6.
    assert max(values) == pytest.approx(float(truth[-1]), rel=1e-5)
    assert min(values) == pytest.approx(float(truth[0]), rel=1e-3, abs=1e-6)
    assert sum(weights) == pytest.approx(1, abs=1e-6)


def test_it_is_kept_in_the_run_and_drawn(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flatlens", "trace", "--spectrum", "--out", str(tmp_path / "run"), "--quiet"]
    command += ["--model", SPEC.model, "--data", SPEC.data, "--eps", "0.3", "--steps", "10", "--limit", "10"]
    subprocess.run(command, check=True)
    trace = runs.load(tmp_path / "run").trace()
    assert trace.spectrum is not None
    largest = {
        at: max(
            v for a, v in zip(*trace.spectrum.select(["at", "eigenvalue"]).to_pydict().values(), strict=True) if a == at
        )
        for at in ("clean", "flip", "end")
    }
    assert largest["flip"] > 10 * largest["clean"]
    found = density(trace)
    assert found is not None and list(found.curves) == ["clean", "flip", "end"]
    for curve in found.curves.values():
        assert np.trapezoid(curve, found.position) == pytest.approx(1, rel=0.02)
    assert page_data.pages([trace])["runs"][0]["spectrum_samples"] == found.samples
    before = (tmp_path / "run" / "spectrum.parquet").stat().st_mtime_ns
    subprocess.run(command, check=True)
    assert (tmp_path / "run" / "spectrum.parquet").stat().st_mtime_ns == before


@cautioned("flat-because-confident", "too-large")
def test_it_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the inputs"):
        spectrum.add_spectrum(run(RunSpec(**(SPEC.__dict__ | {"images": "none"})), tmp_path / "a"))
    with pytest.raises(DataError, match="no sample flips"):
        spectrum.add_spectrum(run(RunSpec(**(SPEC.__dict__ | {"eps": 1e-6})), tmp_path / "b"))


@pytest.mark.parametrize(("words", "said"), [("--eps 1e-6", "no sample flips"), ("--images none", "needs the inputs")])
def test_the_command_shows_what_it_measured_without_one(words, said, tmp_path):
    command = [sys.executable, "-m", "flatlens", "trace", "--spectrum", "--out", str(tmp_path / "run")]
    command += ["--model", SPEC.model, "--data", SPEC.data, "--steps", "2", "--limit", "4", *words.split()]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert said in " ".join(shown.stderr.split()) and (tmp_path / "run" / "report.html").exists()
