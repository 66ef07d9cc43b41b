"""`flatlens immunize --whole-network`: a network that loads again by one name, and what it has lost."""

from __future__ import annotations

import json

import pytest
import torch

from flatlens import datasets, models
from flatlens.immunity import fine_tuning
from tests.expected import cautioned

pytestmark = cautioned("few-samples", "constant-features", "singular", "not-held-out")
DIGITS = "flatlens:digits?split=all"
GIVEN = ["--model", "flatlens:digits-cnn", "--primary", DIGITS, "--primary-classes", "0-4", "--harmful", DIGITS]
GIVEN += ["--harmful-classes", "5-9", "--limit", "120", "--whole-network", "--epochs", "2"]


def test_what_it_destroys_is_measured_and_it_loads_again(flatlens, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "SEEDS", (0,))
    out = tmp_path / "o"
    done = flatlens("immunize", *GIVEN, "--out", out, "--json", "--quiet")
    told = json.loads(done.out)
    assert told["method"] == "alg1" and told["epochs"] == 2 and "fine_tuning" not in told
    assert told["rir"] == pytest.approx(told["i"] / told["ii"])
    for when in ("before", "after"):
        assert 0 <= told[when]["harmful_probe"] <= 1 and told[when]["harmful"]["condition_number"] > 1
    made = models.load(told["model"]["loads_by"], shape=(1, 8, 8), classes=10).model
    plain = models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    x = torch.from_numpy(datasets.load(DIGITS).x[:50])
    with torch.no_grad():
        assert (made(x) - plain(x)).abs().max() > 1e-3
    condition = flatlens("condition", "--model", told["model"]["loads_by"], "--data", DIGITS, "--ridge", "0.01")
    assert condition.code == 0
    # Found again, with a fine-tuning added; the network stays to the bit.
    weights = (out / "model.safetensors").read_bytes()
    monkeypatch.setattr("flatlens.immunity.network_folder.immunized", None)
    tuned = flatlens("immunize", *GIVEN, "--fine-tune", "--out", out)
    assert "whole network fine-tuned" in tuned.out and "what is lost" in tuned.out
    again = json.loads(flatlens("immunize", *GIVEN, "--out", out, "--json", "--quiet").out)
    assert again["fine_tuning"]["epochs"] == 2 and (out / "model.safetensors").read_bytes() == weights
    assert {file.name for file in out.iterdir() if not file.name.startswith(".")} == {
        "network.json", "model.safetensors", "finetuning.parquet",
    }  # fmt: skip
    assert {key: again[key] for key in ("before", "after", "rir")} == {k: told[k] for k in ("before", "after", "rir")}
    other = flatlens("immunize", *GIVEN, "--ridge", "0.1", "--out", out)
    assert other.code == 2 and "holds a result with ridge 0.01, not 0.1" in other.err
    # A result of the one kind is not mixed with the other.
    theta = flatlens("immunize", *GIVEN[:-3], "--out", out)
    assert theta.code == 2 and "holds other files" in theta.err
    (out / "model.safetensors").write_bytes(b"other")
    assert "model.safetensors is not what was written" in flatlens("immunize", *GIVEN, "--out", out).err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([*GIVEN, "--method", "ceiling"], "--method ceiling: a whole network is immunized by alg1 or r-ill"),
        ([*GIVEN, "--holdout", "0"], "--holdout 0 leaves no samples"),
        (
            ["--primary", "table:a.csv?target=y", "--harmful", "table:a.csv?target=y", "--whole-network"],
            "needs --model",
        ),
    ],
)
def test_what_cannot_be_is_one_line(flatlens, tmp_path, flags, said):
    done = flatlens("immunize", *flags, "--out", tmp_path / "o")
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done.err
