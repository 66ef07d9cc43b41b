"""A seed is of noise alone: the same samples for all seeds, others for another sample seed; nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flatlens_cli import app, options

import flatlens as fl
from flatlens import datasets, models
from flatlens.errors import SpecError
from flatlens.measure import load as loading
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.toml import read_toml
from flatlens.sweeps.grid import cells_of, key_of
from tests.expected import cautioned

SPEC = RunSpec("flatlens:digits-cnn", "flatlens:digits", eps=0.3, steps=2, limit=20, device="cpu")


def chosen(spec):
    return loading.load(spec).job.ids.tolist()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"limit": 7},
        {"samples": tuple(range(0, 90, 3)), "limit": 12},
        {"only_correct": True},
        {"data": "flatlens:digits?split=train"},
        {"random_start": True},
        {"attack": "apgd-ce"},
    ],
    ids=str,
)
def test_the_samples_are_the_same_for_all_seeds_and_others_for_another_sample_seed(how):
    spec = replace(SPEC, **how)
    first = chosen(spec)
    assert all(chosen(replace(spec, seed=seed)) == first for seed in (1, 7))
    other = chosen(replace(spec, sample_seed=1))
    assert other != first and chosen(replace(spec, sample_seed=1, seed=5)) == other
    assert chosen(replace(spec, sample_seed=0)) == first


@pytest.mark.parametrize("how", [{"targeted": "random"}, {"control": ("line-to-other-class",)}, {"random_start": True}])
def test_what_is_noise_follows_the_seed_and_not_the_sample_seed(how):
    def drawn(seed, sample_seed=None):
        spec = replace(SPEC, **how, seed=seed, sample_seed=sample_seed, samples=tuple(range(20)), limit=None)
        job = loading.load(spec).job
        batch = job.batch(0)
        found = batch.target if batch.target is not None else batch.other
        return job.piece(0).steps["loss"].to_numpy() if found is None else found.numpy()

    first = drawn(0)
    assert (drawn(0, sample_seed=3) == first).all() and (drawn(1) != first).any()


def test_the_probes_follow_the_seed():
    net = models.load("flatlens:cnn?act=gelu", shape=(1, 8, 8), classes=10).model
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    first, same, other = (fl.curvature(net, x, y, layer="hidden", probes=8, seed=seed).trace_se for seed in (0, 0, 1))
    assert (first == same).all() and (first != other).any()


def test_training_still_draws_its_limit_by_its_own_seed():
    data = datasets.load("flatlens:digits?split=train")
    assert not np.array_equal(datasets.balanced(data.y, 50, 0), datasets.balanced(data.y, 50, 1))
    from flatlens.specs.train import TrainSpec
    from flatlens.training import recipes as trained

    hashes = {trained.recipe_sha256("flatlens:cnn", TrainSpec("flatlens:digits", limit=50, seed=s)) for s in (0, 1)}
    assert len(hashes) == 2 and trained.VERSION == 1


# ---- left out, it is nowhere; given, it is a setting like all others


@cautioned("flat-because-confident")
def test_unwritten_and_unhashed_unless_given(tmp_path):
    run = fl.run(SPEC, tmp_path / "run")
    assert "sample_seed" not in (tmp_path / "run" / "spec.toml").read_text()
    assert "sample_seed" not in SPEC.resolved().to_dict() and run.manifest["measurement_version"] == 2
    given = replace(SPEC, sample_seed=3)
    assert given.hash() != SPEC.hash() and key_of(given.resolved()) != key_of(SPEC.resolved())
    fl.run(given, tmp_path / "given")
    assert from_dict(read_toml(tmp_path / "given" / "spec.toml")).sample_seed == 3


def test_flag_file_set_and_grid(tmp_path):
    file = tmp_path / "spec.toml"
    file.write_text(replace(SPEC, sample_seed=2).to_toml())
    assert options.run_spec({}, file).sample_seed == 2
    assert options.run_spec({"sample_seed": "4"}, file).sample_seed == 4
    assert options.run_spec({}, file, ["sample_seed=5"]).sample_seed == 5
    shared = {"model": SPEC.model, "data": SPEC.data, "limit": 5}
    found = cells_of({"run": shared, "grid": {"sample_seed": [0, 1], "seed": [0, 1]}})
    assert [(c.spec.sample_seed, c.spec.seed) for c in found.cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("value", [-1, 1.5, True, "x", 2**63])
def test_what_is_no_seed_is_refused(value):
    with pytest.raises(SpecError, match="--sample-seed"):
        from_dict({"model": SPEC.model, "data": SPEC.data, "sample_seed": value})


def test_on_the_command_line(tmp_path, capsys):
    words = ["trace", "--model", SPEC.model, "--data", SPEC.data, "--limit", "6", "--steps", "1", "--quiet"]
    for name, more in {"a": [], "b": ["--seed", "4"], "c": ["--sample-seed", "4"]}.items():
        assert app.run([*words, *more, "--out", str(tmp_path / name)]) == 0
    a, b, c = (set(fl.open(tmp_path / name).steps["sample"].to_pylist()) for name in "abc")
    assert a == b != c
    assert app.run(["trace", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--sample-seed" in said and "worst case over restarts" in said and "best point" in said
