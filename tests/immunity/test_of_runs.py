"""A run's model is immunized as its table says: the same bits from the cache, and known by what it is made from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from flatlens import datasets, models
from flatlens.errors import DataError, LayerError
from flatlens.immunity import of_runs
from flatlens.measure import load
from flatlens.measure.run import run
from flatlens.specs.immunize import ImmunizeSpec
from flatlens.specs.run import RunSpec, from_dict
from flatlens.sweeps import tables
from flatlens.sweeps.grid import read
from flatlens.sweeps.supervisor import run_sweep
from tests.expected import cautioned

pytestmark = cautioned("constant-features", "few-samples", "flat-because-confident", "low-accuracy", "not-converged")
MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits?split=train"
SPEC = ImmunizeSpec(DATA, DATA, "0-4", "5-9", method="alg1", steps=25)
READY = "data/sweeps/immunization.toml"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "immunized"


@pytest.fixture
def net():
    return models.load(MODEL, shape=(1, 8, 8), classes=10)


def test_the_logits_stay_and_the_features_do_not(net):
    made, told = of_runs.obtain(net, SPEC)
    x = torch.from_numpy(datasets.load(DATA).x[:50])
    with torch.no_grad():
        torch.testing.assert_close(made.model(x), net.model(x), rtol=0, atol=1e-4)
    assert made.sha256 != net.sha256 and [name for name, _ in made.model.named_modules() if "theta" in name]
    assert told["method"] == "alg1" and told["i"] > 1 and told["rir"] == pytest.approx(told["i"] / told["ii"])
    assert told["harmful_left"] > told["harmful_left_before"] and json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("harm", ["nothing", "cut off", "damaged"])
def test_what_is_in_the_cache_gives_the_same_bits(net, cache, monkeypatch, harm):
    first, told = of_runs.obtain(net, SPEC)
    (place,) = [path for path in cache.iterdir() if path.is_dir()]
    if harm == "cut off":  # killed before the summary: places of the search are gone on with
        (place / "immunization.json").unlink()
    elif harm == "damaged":
        (place / "theta.safetensors").write_bytes(b"nothing")
    else:
        monkeypatch.setattr(of_runs, "of_tasks", None)  # it is not made again
    again, said = of_runs.obtain(net, SPEC)
    assert said == told and again.sha256 == first.sha256
    for one, other in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_it_is_known_by_the_model_the_table_and_the_data(net):
    known = of_runs.known_as(SPEC, net.sha256)
    others = [of_runs.known_as(SPEC, "0" * 64), of_runs.known_as(ImmunizeSpec(DATA, DATA, "0-4", "5-9"), net.sha256)]
    assert len({known, *others}) == 3


def test_what_a_finished_run_was_made_from_is_told_without_making_it(tmp_path):
    for train in (None, {"epochs": 1, "limit": 60}):
        plain = {"model": MODEL, "data": "flatlens:digits", "limit": 8, "steps": 2, "eps": 0.1}
        more = {} if train is None else {"train": train}
        spec = from_dict(plain | more | {"immunize": SPEC.to_dict()})
        done = run(spec, tmp_path / str(train is None))
        found = load.sources(spec)
        assert {key: done.manifest[key] for key in found} == found
        assert found != load.sources(from_dict(plain | more))
        assert done.manifest["immunized"]["method"] == "alg1"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [({"harmful_classes": "5,77"}, DataError, "no sample of class 77"),
     ({"harmful_classes": "5"}, DataError, "of class 5: there is nothing to learn"),
     ({"harmful": "npz:other.npz", "harmful_classes": "0-1"}, DataError, "one model takes inputs of one shape"),
     ({"layer": "conv1"}, LayerError, "conv1")],
    ids=["no such class", "one class", "other data", "no Linear layer"],
)  # fmt: skip
def test_what_cannot_be_is_one_line(net, change, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("other.npz", x=np.random.default_rng(0).random((20, 1, 4, 4), dtype=np.float32), y=np.arange(20) % 2)
    with pytest.raises(error, match=says):
        of_runs.obtain(net, ImmunizeSpec(**(SPEC.to_dict() | change)))


# ---- sweeps


def test_the_ready_sweep_has_each_method_once_a_seed():
    grid = read(READY)
    methods = [None if cell.spec.immunize is None else cell.spec.immunize.method for cell in grid.cells]
    assert len(methods) == 16 and methods.count(None) == 1 and methods.count("imma") == 3


def test_cells_are_immunized_and_the_table_has_what_was_reached(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        f'[run]\nmodel = "{MODEL}"\ndata = "flatlens:digits"\nlimit = 6\nsteps = 3\neps = 0.3\n'
        f'[run.immunize]\nprimary = "{DATA}"\nharmful = "{DATA}"\nprimary_classes = "0-4"\nharmful_classes = "5-9"\n'
        '[grid]\nimmunize.method = ["none", "ceiling", "alg1"]\n'
    )
    done = run_sweep(file, tmp_path / "out", workers=1)
    assert (done.done, done.failed, done.new) == (3, 0, 3)
    rows = {row["immunize.method"]: row for row in tables.cells(done.sweep).to_pylist()}
    assert rows[None]["immunize_i"] is None and rows["ceiling"]["immunize_rir"] > rows["alg1"]["immunize_rir"] > 1
    manifest = json.loads((done.sweep.cell(rows["alg1"]["cell"]) / "manifest.json").read_text())
    for name, value in manifest["immunized"].items():
        if name not in ("method", "stop"):
            assert rows["alg1"][f"immunize_{name}"] == value
    assert "Immunization: method by method" in done.sweep.report().read_text()
    again = run_sweep(file, tmp_path / "out", workers=1)
    assert (again.done, again.new) == (3, 0), "nothing was to do: it is all of today's model and data"
    assert np.isfinite(rows["alg1"]["immunize_heldout_rir"])
    assert RunSpec.__dataclass_fields__["immunize"].default is None
