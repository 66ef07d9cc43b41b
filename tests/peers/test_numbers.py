"""PyHessian's numbers of single samples, kept beside ours."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flatlens as fl
from flatlens.measure import run as execute
from flatlens.peers import spectrum
from flatlens.records import runs
from flatlens.specs.run import RunSpec

SPEC = RunSpec(
    "flatlens:digits-cnn", "flatlens:digits", eps=0.3, steps=8, limit=20, device="cpu", layer=("head", "conv1")
)


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        return spectrum.add_spectrum(execute.run(SPEC, tmp_path_factory.mktemp("peers") / "run"))


def test_they_stand_beside_ours(added: runs.Run) -> None:
    trace = runs.load(added.path).trace()
    assert trace.peers is not None and trace.spectrum is not None
    rows = trace.peers.to_pylist()
    assert len(rows) == 9 and {row["at"] for row in rows} == {"clean", "flip", "end"}
    assert len({row["sample"] for row in rows}) == 3
    valley = trace.valley()
    kappa = {name: trace.matrix(name, layer="head") for name in ("trace", "top_eigenvalue")}
    for row in rows:
        i = np.flatnonzero(valley.sample == row["sample"])[0]
        assert row["step"] == {"clean": 0, "flip": valley.flip_step[i], "end": 8}[row["at"]]
        assert row["layer"] == "head" and row["exact"] and row["trace_se"] == 0
        for name, found in kappa.items():
            assert row[name] == found.values[i, row["step"]]
        # Theirs is an estimate of the same number, and its interval says how good it is.
        assert abs(row["peer_trace"] - row["trace"]) <= 6 * row["peer_trace_se"] and row["peer_trace_se"] > 0
        assert row["peer_top_eigenvalue"] == pytest.approx(row["top_eigenvalue"], rel=2e-3)
        assert row["peer_probes"] == spectrum.PROBES


def test_what_is_there_is_not_made_again(added: runs.Run, tmp_path: Path) -> None:
    before = {name: (added.path / f"{name}.parquet").stat().st_mtime_ns for name in ("spectrum", "peers")}
    spectrum.add_spectrum(runs.load(added.path))
    assert before == {name: (added.path / f"{name}.parquet").stat().st_mtime_ns for name in before}


def test_a_run_that_has_only_the_density_gets_them(added: runs.Run, tmp_path: Path) -> None:
    trace = replace(added.trace(), peers=None)
    trace.save(tmp_path / "older")
    older = runs.load(tmp_path / "older")
    assert older.trace().peers is None
    older.manifest["files"].pop("spec.toml")  # written again below, by its names
    (older.path / "spec.toml").write_bytes((added.path / "spec.toml").read_bytes())
    from flatlens.files.sealing import file_sha256

    older.manifest["files"]["spec.toml"] = file_sha256(older.path / "spec.toml")
    found = spectrum.add_spectrum(older).trace()
    assert found.peers is not None and found.peers.equals(added.trace().peers)
    assert found.spectrum is not None and found.spectrum.equals(trace.spectrum)
