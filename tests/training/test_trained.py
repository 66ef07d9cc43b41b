"""Models by recipe: cut off and gone on with to the same bits, kept with what they reach, found again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flatlens import datasets, models
from flatlens.errors import ModelError, ResourceError, RunError, SpecError
from flatlens.measure import run as execute
from flatlens.specs.run import RunSpec, from_dict, train_from_dict
from flatlens.specs.toml import read_toml
from flatlens.specs.train import TrainSpec
from flatlens.training import judging
from flatlens.training import recipes as trained
from flatlens.training.fit import accuracy
from flatlens.training.fit import train as fit

COMMAND = [str(Path(sys.executable).with_name("flatlens")), "train"]
RECIPE = TrainSpec("flatlens:digits", epochs=3, lr=0.01, limit=300)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judging, "ROBUST_SAMPLES", 60)  # enough to judge by; what a model reaches is not the subject


def same(one: Path, two: Path) -> bool:
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- cut off ---------------------------------------------------------------------------------------------------------


CUT = [*COMMAND, "--model", "flatlens:cnn", "--data", "flatlens:digits", "--limit", "300", "--epochs", "8",
       "--adversarial", "pgd", "--eps", "0.1", "--steps", "3", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training gives that nothing cuts off."""
    out = tmp_path_factory.mktemp("uncut") / "whole.safetensors"
    subprocess.run([*CUT, "--out", str(out)], check=True)
    return out


@pytest.mark.faults
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_training_cut_off_goes_on_to_the_same_bits(tmp_path: Path, uncut: Path, blow: signal.Signals) -> None:
    words, out = CUT, tmp_path / "cut.safetensors"
    with subprocess.Popen([*words, "--out", str(out)], stderr=subprocess.PIPE, text=True) as process:
        part = out.with_name("cut.safetensors.part")
        while process.poll() is None and not part.exists():
            time.sleep(0.002)
        assert process.poll() is None, "finished before it could be stopped"
        process.send_signal(blow)
        _, complained = process.communicate()
    if blow == signal.SIGINT:
        assert (process.returncode, complained.count("\n")) == (130, 1) and "goes on from there" in complained
    assert not out.exists()
    done = subprocess.run([*words, "--out", str(out), "--json"], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["resumed"] == "resumed"
    assert same(uncut, out)
    assert not list(tmp_path.glob("*.part*")) and not list(tmp_path.glob(".*tmp"))


def test_what_a_model_draws_by_itself_goes_on_too(tmp_path: Path) -> None:
    """Dropout and batch norm: the global random state and the statistics belong to the snapshot."""
    digits = datasets.load("flatlens:digits")
    x, y = torch.from_numpy(digits.x[:97]), torch.from_numpy(digits.y[:97])

    def fresh() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10)
            )

    def until(limit: float) -> nn.Module:
        def stop(done: int, loss: float) -> None:
            if done > limit:
                raise KeyboardInterrupt

        model = fresh()
        # 97 samples in batches of 16 leave one, which batch norm refuses: it joins the batch before it.
        fit(model, x, y, rng=torch.Generator().manual_seed(3), epochs=4, batch_size=16,
            snapshot=tmp_path / "state", progress=stop)  # fmt: skip
        return model

    before = torch.random.get_rng_state()
    whole = until(1e9)
    (tmp_path / "state").unlink()
    with pytest.raises(KeyboardInterrupt):
        until(15)
    resumed = until(1e9)
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_snapshot(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"nothing")
    digits = datasets.load("flatlens:digits").take(range(20))
    model = models.load("flatlens:cnn", shape=(1, 8, 8), classes=10).model
    with pytest.raises(ModelError, match="is damaged; remove it"):
        fit(model, torch.from_numpy(digits.x), torch.from_numpy(digits.y), rng=torch.Generator(),
            epochs=1, snapshot=tmp_path / "state")  # fmt: skip


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_accuracies_are_those_of_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "cnn.safetensors"
    made = trained.train("flatlens:cnn", replace(RECIPE, eps=0.1), file)
    record = json.loads(file.with_suffix(".json").read_text())
    test = datasets.load("flatlens:digits?split=test")
    model = models.load(f"ckpt:{file}?arch=flatlens:cnn", shape=(1, 8, 8), classes=10).model
    assert record["accuracy"] == made.accuracy == accuracy(model, torch.from_numpy(test.x), torch.from_numpy(test.y))
    assert 0 < record["robust_accuracy"] < record["accuracy"]
    assert record["samples"] == 300 and record["test_samples"] == 450 and len(record["loss"]) == 3
    assert record["weights_sha256"] == models.loaders.sha256(model)


def test_finished_is_left_and_another_recipe_refused(tmp_path: Path) -> None:
    file = tmp_path / "cnn.safetensors"
    assert trained.train("flatlens:cnn", RECIPE, file).resumed == "new"
    before = file.stat().st_mtime_ns
    assert trained.train("flatlens:cnn", RECIPE, file).resumed == "finished"
    assert file.stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"another recipe \(epochs 1 instead of 3\); name another, or use --force"):
        trained.train("flatlens:cnn", replace(RECIPE, epochs=1), file)
    assert trained.train("flatlens:cnn", replace(RECIPE, epochs=1), file, force=True).resumed == "new"
    assert file.stat().st_mtime_ns != before


def test_a_run_trains_once_and_finds_the_model_again(tmp_path: Path) -> None:
    spec = RunSpec(
        model="flatlens:cnn", data="flatlens:digits", limit=20, eps=0.3, steps=3, train=replace(RECIPE, data=None)
    )
    one = execute.run(spec, tmp_path / "one")
    (weights,) = (tmp_path / "cache").glob("*.safetensors")
    before = weights.stat().st_mtime_ns
    two = execute.run(replace(spec, steps=4), tmp_path / "two")
    assert weights.stat().st_mtime_ns == before
    assert one.manifest["weights_sha256"] == two.manifest["weights_sha256"]
    assert one.trace().valley().summary().correct.value > 0.5  # untrained, it is 0.1
    # The run's own spec names the data, and reruns it.
    stored = from_dict(read_toml(tmp_path / "one" / "spec.toml"))
    assert stored.train == RECIPE and stored == one.spec
    assert execute.run(stored, tmp_path / "one").resumed == "finished"
    execute.run(replace(spec, train=replace(RECIPE, seed=1)), tmp_path / "three")
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


def test_a_recipe_on_the_command_line(tmp_path: Path) -> None:
    words = [COMMAND[0], "trace", "--model", "flatlens:mlp", "--data", "flatlens:digits", "--limit", "5",
             "--steps", "1", "--set", "train.epochs=2", "--set", "train.adversarial='pgd'", "--quiet"]  # fmt: skip
    done = subprocess.run([*words, "--out", str(tmp_path / "run")], check=True, capture_output=True)
    assert done.stderr == b""
    assert read_toml(tmp_path / "run" / "spec.toml")["train"]["epochs"] == 2


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, r"no setting 'epoch'; \[train\] has: .* Did you mean 'epochs'"),
        ({"epochs": 0}, "--epochs 0: needs a whole number"),
        ({"lr": "0"}, "--lr 0: needs a number above 0"),
        ({"adversarial": "pdg"}, "no adversarial training 'pdg'; there are: none, pgd"),
        ({"weight_decay": -1}, "--weight-decay -1"),
        ({"epochs": "many"}, "--epochs 'many': needs a whole number"),
    ],
)
def test_recipes_that_cannot_be(values: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        train_from_dict(values)


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ends in .safetensors"):
        trained.train("flatlens:cnn", RECIPE, tmp_path / "cnn.pt")
    (tmp_path / "cnn.json").write_text("mine")
    with pytest.raises(RunError, match="is damaged; remove it"):
        trained.train("flatlens:cnn", RECIPE, tmp_path / "cnn.safetensors")
    (tmp_path / "mine.safetensors").write_bytes(b"weeks of work")
    with pytest.raises(RunError, match="has no record of a training"):
        trained.train("flatlens:cnn", RECIPE, tmp_path / "mine.safetensors")
    assert (tmp_path / "mine.safetensors").read_bytes() == b"weeks of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        trained.train("flatlens:cnn", RECIPE, tmp_path / "file" / "cnn.safetensors")
    with pytest.raises(SpecError, match="needs a table"):
        from_dict({"model": "flatlens:cnn", "data": "flatlens:digits", "train": 3})
