"""A run's folder: complete or not there, resumed where it stopped, refused when it is another's."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import flatlens as fl
from flatlens.errors import DataError, ResourceError, RunError, SpecError
from flatlens.files import atomic
from flatlens.files.tensors import concatenate
from flatlens.measure import plan as planning
from flatlens.measure import run as execute
from flatlens.progress import Progress
from flatlens.records import runs
from flatlens.specs.run import RunSpec, from_dict
from flatlens.specs.toml import read_toml
from tests.expected import cautioned

pytestmark = cautioned("flat-because-confident", "not-converged")

SPEC = RunSpec(
    model="flatlens:digits-cnn",
    data="flatlens:digits",
    eps=0.3,
    steps=5,
    control=("line-to-other-class",),
    limit=20,
    batch_size=6,
    random_start=True,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """An undisturbed run."""
    return execute.run(SPEC, tmp_path_factory.mktemp("runs") / "whole")


def same(one: Path, other: Path) -> None:
    for name in ("steps", "layers"):
        assert pq.read_table(one / f"{name}.parquet").equals(pq.read_table(other / f"{name}.parquet")), name
    for name in ("images", "gradients"):
        a, b = load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")
        assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a), name


def test_the_folder_is_what_it_says(whole: runs.Run) -> None:
    files = {p.name for p in whole.path.iterdir()}
    assert files == {
        "manifest.json",
        "spec.toml",
        "steps.parquet",
        "layers.parquet",
        "images.safetensors",
        "gradients.safetensors",
        "digest.json",
    }
    manifest = json.loads((whole.path / "manifest.json").read_text())
    assert manifest["state"] == "finished" and manifest["schema_version"] == 1
    assert manifest["batches"] == 4
    for key in ("flatlens", "versions", "measurement_version", "spec_hash", "weights_sha256", "data_sha256", "seed"):
        assert key in manifest
    assert manifest["seconds"] > 0 and isinstance(manifest["warnings"], list)
    trace = fl.open(whole.path)
    assert trace.steps.num_rows == 20 * 2 * (5 + 1 + 1)
    assert trace.x_adv.shape == (20, 1, 8, 8)
    assert trace.spec["batch_size"] == 6


def test_the_spec_in_the_folder_reruns_it(whole: runs.Run, tmp_path: Path) -> None:
    again = execute.run(from_dict(read_toml(whole.path / "spec.toml")), tmp_path / "again")
    same(whole.path, again.path)


def test_limit_takes_the_classes_in_turn(whole: runs.Run) -> None:
    labels = whole.trace().matrix("label").values[:, 0]
    assert np.bincount(labels, minlength=10).tolist() == [2] * 10


def test_a_finished_run_is_left_as_it_is(whole: runs.Run) -> None:
    before = (whole.path / "steps.parquet").stat().st_mtime_ns
    again = execute.run(SPEC, whole.path)
    assert again.resumed == "finished"
    assert (whole.path / "steps.parquet").stat().st_mtime_ns == before


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_an_interrupted_run_goes_on_to_the_same_tables(whole: runs.Run, tmp_path: Path, batches: int) -> None:
    out = tmp_path / "run"

    def interrupt(progress: Progress) -> None:
        if f"batch {batches + 1} of" in progress.what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute.run(SPEC, out, progress=interrupt)
    stopped = runs.load(out)
    assert stopped.manifest["batches"] - len(stopped.missing()) == batches and not stopped.finished
    with pytest.raises(RunError, match=f"is not finished \\({batches} of 4 batches\\)"):
        fl.open(out)
    done: list[Progress] = []
    run = execute.run(SPEC, out, progress=done.append)
    assert run.resumed == "resumed"
    assert sum("batch" in p.what for p in done) == (4 - batches) * 2 * 7
    assert done[-1].done == done[-1].total
    same(whole.path, out)
    assert not (out / "parts").exists()


def test_killed_between_the_tables_and_the_manifest(
    whole: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute.run(SPEC, tmp_path / "run")
    execute.run(SPEC, tmp_path / "run")
    same(whole.path, tmp_path / "run")


def test_another_spec_is_refused_with_the_difference_and_force_replaces(tmp_path: Path) -> None:
    from dataclasses import replace

    small = replace(SPEC, limit=3, control=())
    execute.run(small, tmp_path / "run")
    with pytest.raises(
        RunError, match=r"holds another run: eps 0.2 instead of 0.3, step_size 0.1 instead of 0.15;.*--force"
    ):
        execute.run(replace(small, eps=0.2), tmp_path / "run")
    run = execute.run(replace(small, eps=0.2), tmp_path / "run", force=True)
    assert run.resumed == "new" and run.spec.eps == 0.2
    # What was resolved once counts as the same: batches, and the device on which it goes on.
    assert execute.run(replace(small, eps=0.2, batch_size=None), tmp_path / "run").resumed == "finished"
    run.manifest["weights_sha256"] = "0"
    run.write_manifest()
    with pytest.raises(RunError, match="other weights"):
        execute.run(replace(small, eps=0.2), tmp_path / "run")


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(RunError, match="holds other files and no run"):
            execute.run(SPEC, tmp_path, force=force)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    with pytest.raises(RunError, match="is a file; name a folder"):
        execute.run(SPEC, tmp_path / "thesis.tex")


def test_a_full_disk_loses_nothing_that_was_finished(
    whole: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = pq.write_table

    def full(table: object, file: object) -> None:
        if ".00002.steps" in file.name:  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")
        written(table, file)

    with monkeypatch.context() as patch:
        patch.setattr(runs.pq, "write_table", full)
        with pytest.raises(ResourceError, match="no space left for .*; the finished batches are saved"):
            execute.run(SPEC, tmp_path / "run")
    assert runs.load(tmp_path / "run").missing() == [2, 3]
    assert not list((tmp_path / "run" / "parts").glob(".*"))
    execute.run(SPEC, tmp_path / "run")
    same(whole.path, tmp_path / "run")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write to .*: Not a directory; choose another --out"):
        execute.run(SPEC, tmp_path / "file" / "run")


def test_damage_is_said(whole: runs.Run, tmp_path: Path) -> None:
    run = execute.run(RunSpec(**(SPEC.__dict__ | {"limit": 2, "control": ()})), tmp_path / "run")
    (run.path / "layers.parquet").write_bytes((run.path / "layers.parquet").read_bytes()[:100])
    with pytest.raises(RunError, match="is damaged: .*; run it again with --force"):
        fl.open(run.path)
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest.json' is damaged"):
        fl.open(run.path)
    (run.path / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(RunError, match="has schema 99; this flatlens reads 1: upgrade it"):
        fl.open(run.path)
    with pytest.raises(RunError, match="is neither a run nor a sweep: it does not exist"):
        fl.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"a sweep: it holds no manifest.json"):
        fl.open(tmp_path)


def test_images_none_and_samples(tmp_path: Path) -> None:
    run = execute.run(
        RunSpec(**(SPEC.__dict__ | {"limit": None, "samples": (17, 3), "images": "none"})), tmp_path / "run"
    )
    trace = run.trace()
    assert trace.matrix("loss").sample.tolist() == [3, 17]
    with pytest.raises(RunError, match="holds no inputs"):
        _ = trace.x_adv
    with pytest.raises(DataError, match=r"no sample 9999; the data have \d+ samples"):
        execute.run(RunSpec(**(SPEC.__dict__ | {"samples": (9999,)})), tmp_path / "other")


def test_only_correct(tmp_path: Path) -> None:
    everything = execute.run(
        RunSpec(**(SPEC.__dict__ | {"limit": None, "control": (), "steps": 1})), tmp_path / "all"
    ).trace()
    right = everything.matrix("prediction").values[:, 0] == everything.matrix("label").values[:, 0]
    assert not right.all()
    spec = RunSpec(**(SPEC.__dict__ | {"limit": None, "control": (), "steps": 1, "only_correct": True}))
    kept = execute.run(spec, tmp_path / "correct").trace().matrix("label").sample
    assert kept.tolist() == everything.matrix("label").sample[right].tolist()


def test_a_plan_counts_passes() -> None:
    plan = planning.plan(SPEC)
    assert (plan.samples, plan.batches, plan.batch_size) == (20, 4, 6)
    assert plan.forward_passes == 4 * 2 * 7 + 4
    assert plan.backward_passes == 4 * 5
    assert plan.seconds > 0 and plan.memory_bytes > 0 and plan.layers == ["head"]


def test_replacing_leaves_the_old_file_when_the_new_one_fails(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(file) as out:
        out.write(b"half")
        raise ZeroDivisionError
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_concatenate_equals_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = []
    for i, n in enumerate((3, 0, 5)):
        parts.append({"x": rng.random((n, 2, 3), dtype=np.float32), "step": np.arange(n, dtype=np.int32)})
        save_file(parts[-1], tmp_path / f"{i}")
    with (tmp_path / "out").open("wb") as out:
        concatenate([tmp_path / f"{i}" for i in range(3)], out)
    found = load_file(tmp_path / "out")
    for name in ("x", "step"):
        assert np.array_equal(found[name], np.concatenate([part[name] for part in parts]))


def test_a_run_killed_while_it_began_is_begun_anew(whole: runs.Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "spec.toml").write_text("half")
    (out / ".manifest.json.123.tmp").write_text("half")
    execute.run(SPEC, out)
    same(whole.path, out)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("device", ["tpu", "meta"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(SpecError, match=f"--device {device}: not on this machine; there are: auto, cpu"):
        planning.plan(RunSpec(**(SPEC.__dict__ | {"device": device})))
