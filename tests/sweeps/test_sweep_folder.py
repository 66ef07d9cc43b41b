"""A sweep's folder: full, removed, shared, amended, looked at; and what of it is told."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from safetensors.torch import save_file

from flatlens import datasets
from flatlens.errors import DiskError, RunError, SpecError
from flatlens.measure import run as execute
from flatlens.models import zoo
from flatlens.records import runs
from flatlens.specs.train import TrainSpec
from flatlens.sweeps import folder as sweep
from flatlens.sweeps.engines import CELL, CHECK, DIED, LOST, Done, Outcome, Task, Trouble, starting
from flatlens.sweeps.engines import worker as work
from flatlens.sweeps.grid import cells_of
from flatlens.sweeps.owners import supervised
from flatlens.sweeps.supervisor import run_sweep
from flatlens.training import recipes as trained
from tests.swept import Place, killed_afterwards, names, same, until

pytestmark = pytest.mark.faults

CELLS = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An undisturbed sweep."""
    place = Place(tmp_path_factory.mktemp("sweeps") / "whole", CELLS)
    assert place.run().returncode == 0
    return place


@pytest.fixture
def place(whole: Place, tmp_path: Path) -> Place:
    """The same sweep, not begun, in a folder of its own."""
    found = Place(tmp_path / "place")
    found.model = whole.model
    found.write(CELLS)
    return found


@pytest.fixture
def finished(whole: Place, place: Place) -> Place:
    """A copy of the undisturbed sweep."""
    shutil.copytree(whole.out, place.out)
    return place


# ---- disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [("ENOSPC", "no space left for '{}"), ("EROFS", "cannot write to '{}")],
)
def test_a_disk_that_takes_no_more(whole: Place, place: Place, error: str, said: str) -> None:
    place.hook(f"""
import errno
fsync = os.fsync
CELLS = Path({str(place.out / "cells")!r})

def full(number):
    if (HERE / "full").exists() and CELLS.is_dir() and len(os.listdir(CELLS)) >= 2:
        raise OSError(errno.{error}, os.strerror(errno.{error}))
    fsync(number)

os.fsync = full
""")
    (place.folder / "hooks" / "full").touch()
    stopped = place.run("--json")
    assert stopped.returncode == 1 and stopped.stdout == ""
    assert stopped.stderr.startswith("error: " + said.format(place.out)) and stopped.stderr.count("\n") == 1
    before = place.stamps()
    assert 2 <= len(before) < CELLS and not names(place.out / "failed")
    (place.folder / "hooks" / "full").unlink()
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert before.items() <= place.stamps().items()
    same(place, whole, CELLS)


def test_a_full_cache_is_no_fault_of_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="cannot write '.*': No space left on device; choose another place"):
        trained.obtain("flatlens:mlp?width=4", TrainSpec("flatlens:digits", epochs=1, limit=20))


@pytest.mark.parametrize("loading", ["0", "1.5"], ids=["while it measures", "while it loads"])
def test_a_folder_that_is_removed_stays_removed(place: Place, loading: str) -> None:
    with killed_afterwards(place.start(PAUSE="0.02", LOADING=loading)) as process:
        until(lambda: (place.out / "cells").is_dir() if loading == "0" else place.out.is_dir(), process)
        if loading != "0":
            until(lambda: list((place.out / "locks").glob("*.cell")), process)
            time.sleep(0.2)
        place.out.rename(place.folder / "elsewhere")
        printed, complained = process.communicate()
    assert process.returncode == 1 and printed == ""
    assert complained.startswith("error: ") and complained.count("\n") == 1 and str(place.out) in complained
    assert not place.out.exists()


def test_a_folder_that_is_removed_between_two_looks(finished: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = FileLock.acquire

    def late(lock: FileLock, *words: object, **more: object) -> object:
        finished.out.rename(finished.folder / "elsewhere")
        return acquire(lock, *words, **more)

    monkeypatch.setattr(FileLock, "acquire", late)
    with pytest.raises(DiskError, match="is gone, and what was in it"), sweep.load_sweep(finished.out).claim("a"):
        pass
    assert not finished.out.exists()


def test_a_folder_that_cannot_be_written_to(finished: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    finished.write(CELLS + 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(DiskError, match="cannot write to '.*': Permission denied; choose another --out"):
            run_sweep(finished.file, finished.out, trust_code=True)
    assert len(finished.done()) == CELLS


def test_folders_that_are_none_of_ours(tmp_path: Path, place: Place) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="holds other files and no sweep; name a new or an empty folder"):
        run_sweep(place.file, tmp_path, trust_code=True)
    with pytest.raises(RunError, match="is a file; name a folder"):
        run_sweep(place.file, tmp_path / "thesis.tex", trust_code=True)
    assert sorted(names(tmp_path)) == ["place", "thesis.tex"]


def test_what_is_misspelt_is_refused_before_anything_is_begun(place: Place) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'worker'"):
        run_sweep(place.file, place.out, worker=1, trust_code=True)  # type: ignore[call-arg]
    with pytest.raises(SpecError, match="--address here:6379: is of --engine ray"):
        run_sweep(place.file, place.out, address="here:6379", trust_code=True)
    assert not place.out.exists()


# ---- two at once, and who is at work --------------------------------------------------------------


def test_who_is_at_work_is_told_and_a_second_supervisor_refused(whole: Place, place: Place) -> None:
    def begun() -> bool:
        found = sweep.load_sweep(place.out)
        return any(found.progress(key) == (1, 3) for key in found.state().running)

    def halted() -> bool:
        """Stop all cells where one has saved a batch of its three: looked at again behind the gate, for they run."""
        if not (place.done() and begun()):
            return False
        gate.touch()
        if begun():
            return True
        gate.unlink()
        return False

    # While the gate is there no cell goes on, however long it takes to look.
    gate = place.folder / "gate"
    gate.touch()
    with killed_afterwards(place.start("--quiet", PAUSE="0.1", GATE=str(gate))) as process:
        until(lambda: list((place.out / "locks").glob("*.cell")), process)
        second = place.run()
        gate.unlink()
        assert second.returncode == 2
        assert second.stderr.startswith(f"error: process {process.pid} on ")
        assert second.stderr.endswith("wait for it, or stop it: nothing that it finished is lost\n")
        until(halted, process)
        live = json.loads(place.run(place.out, "--json", command="status").stdout)
        assert live.keys() == {"sweep", "cells", "done", "running", "failed", "waiting", "supervisors"}
        assert [who["pid"] for who in live["supervisors"]] == [process.pid]
        assert live["cells"] == CELLS == live["done"] + len(live["running"]) + live["waiting"]
        assert live["running"] and live["running"][0]["label"].startswith("seed ")
        told = place.run(place.out, command="status").stdout
        assert f"at work  process {process.pid} on " in told
        assert "of 4 cells, about " in told and " left\n" in told
        assert "of 3 batches" in told
        gate.unlink()
        watched = place.run(place.out, "--watch", command="status")
        assert watched.returncode == 0 and f"done   {CELLS} of {CELLS} cells" in watched.stdout
        printed, complained = process.communicate()
    assert (process.returncode, printed, complained) == (0, "", "")
    same(place, whole, CELLS)
    after = json.loads(place.run(place.out, "--json", command="status").stdout)
    assert (after["done"], after["running"], after["waiting"], after["supervisors"]) == (CELLS, [], 0, [])


def test_shards_share_the_cells(whole: Place, place: Place) -> None:
    with (
        killed_afterwards(place.start("--shard", "1/2")) as one,
        killed_afterwards(place.start("--shard", "2/2")) as two,
    ):
        assert [process.wait(120) for process in (one, two)] == [0, 0]
    same(place, whole, CELLS)


def test_a_sweep_that_is_none(tmp_path: Path) -> None:
    for folder, why in (
        (tmp_path, "holds no plan.json"),
        (tmp_path / "nothing", "does not exist"),
        (Path(__file__), "is a file"),
    ):
        with pytest.raises(RunError, match=f"is no sweep: it {why}"):
            sweep.load_sweep(folder)
    for text in ("{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "cells": 3}', '"', "\udc80"):
        (tmp_path / "plan.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(RunError, match=r"plan\.json' is damaged"):
            sweep.load_sweep(tmp_path)
    (tmp_path / "plan.json").write_text('{"schema_version": 99, "cells": {}}')
    with pytest.raises(RunError, match="has schema 99; this flatlens reads 1: upgrade it"):
        sweep.load_sweep(tmp_path)


def test_the_record_of_a_failure(finished: Place) -> None:
    found = sweep.load_sweep(finished.out)
    found.fail("a", sweep.Failure("caf\udce9", "Odd", "\udcff", 1.0, 2))
    assert found.failure("a") == sweep.Failure("caf\udce9", "Odd", "\udcff", 1.0, 2)
    (found.path / "failed" / "a.json").write_text("[]")
    failure = found.failure("a")
    assert failure is not None and failure.error == "the record of its failure is damaged"
    found.forgive("a")
    assert found.failure("a") is None


def test_a_file_that_can_be_read_but_once(finished: Place) -> None:
    text = finished.file.read_text()
    finished.file.unlink()
    os.mkfifo(finished.file)
    with killed_afterwards(finished.start("--quiet")) as process:
        finished.file.write_text(text)
        assert process.wait(120) == 0
    assert (finished.out / "sweep.toml").read_text() == text


def test_a_failure_counts_all_that_was_tried(finished: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scripted:
        slots = 1

        def __init__(self) -> None:
            self.outcomes = [Trouble("gone", LOST), Trouble("killed", DIED), Trouble("no such weights", "ModelError")]

        def submit(self, task: Task, timeout: float | None) -> None:
            self.task = task

        def next(self) -> tuple[Task, Outcome]:
            return self.task, Done() if self.task.kind == CHECK else self.outcomes.pop(0)

        def stop(self) -> None:
            pass

    monkeypatch.setattr(starting, "start", lambda *_, **__: Scripted())
    finished.write(CELLS + 1)
    result = run_sweep(finished.file, finished.out, trust_code=True)
    assert (result.done, result.failed) == (CELLS, 1)
    (key,) = result.sweep.state().failed
    failure = result.sweep.failure(key)
    assert failure is not None and (failure.kind, failure.attempts) == ("ModelError", 3)


# ---- models that are trained ----------------------------------------------------------------------


@pytest.fixture
def training(tmp_path: Path) -> Place:
    """A sweep whose cells share a model that is to be trained."""
    place = Place(tmp_path / "training", 3, "train.epochs = 1\ntrain.limit = 100")
    place.environment["FLATLENS_CACHE"] = str(place.folder / "cache")
    return place


def test_a_cell_is_running_while_its_model_is_trained(training: Place) -> None:
    gate = training.folder / "gate"
    gate.touch()
    with killed_afterwards(training.start("--quiet", GATE=str(gate))) as process:
        until(lambda: list((training.out / "locks").glob("*.cell")), process)
        told = training.run(training.out, command="status").stdout
        assert "running  1\nwaiting  2\n" in told and "running  seed 0: loading or training its model\n" in told
        gate.unlink()
        assert process.wait(120) == 0


def test_a_model_that_misses_a_file_while_it_is_trained_fails_alone(training: Place) -> None:
    net = str(training.model)
    training.model.write_text(
        training.model.read_text() + "class Odd(Net):\n    def forward(self, x):\n"
        "        if self.training:\n            open('no-such-file')\n        return super().forward(x)\n"
        "def odd(classes):\n    return Odd(classes)\n"
    )
    text = training.file.read_text().replace(f'model = "{net}:net"\n', "")
    training.file.write_text(text + f'model = ["{net}:odd", "{net}:net"]\n')
    done = training.run("--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 1 and facts["done"] == 3, done.stderr
    assert {row["kind"] for row in facts["failed"]} == {"ModelError"} and len(facts["failed"]) == 3
    assert "training: the model raised FileNotFoundError: " in facts["failed"][0]["error"]


def test_a_cell_is_begun_anew_only_for_what_is_wrong_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"model": "flatlens:digits-cnn", "data": "flatlens:digits", "steps": 1, "limit": 2, "batch_size": 1}
    task = Task(str(tmp_path), CELL, "key", spec, None, 60.0)
    folder = tmp_path / "run"
    execute.measure(work._begin(task, folder), [0])

    def elsewhere(*_: object) -> None:
        raise RunError("the cache is damaged")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="cache"):
        patch.setattr(execute, "load", elsewhere)
        work._begin(task, folder)
    assert work._begin(task, folder).run.missing() == [1]
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"weights_sha256": "other"}))
    assert work._begin(task, folder).run.missing() == [0, 1]


# ---- amended --------------------------------------------------------------------------------------


def test_more_seeds_add_cells_and_fewer_keep_what_is_finished(finished: Place) -> None:
    before = finished.stamps()
    finished.write(CELLS + 2)
    more = run_sweep(finished.file, finished.out, workers=2, trust_code=True)
    assert (more.done, more.failed, more.new, more.notes) == (CELLS + 2, 0, 2, [])
    after = finished.stamps()
    assert before.items() <= after.items() and len(after) == CELLS + 2
    finished.write(1)
    fewer = run_sweep(finished.file, finished.out, workers=1, trust_code=True)
    assert (fewer.done, fewer.new) == (1, 0)
    assert finished.stamps() == after
    assert len(sweep.load_sweep(finished.out).plan) == CELLS + 2
    assert len(sweep.load_sweep(finished.out).state().done) == CELLS + 2
    assert (finished.out / "sweep.toml").read_text() == finished.file.read_text()


def test_other_weights_or_data_are_done_again_and_the_old_kept(tmp_path: Path) -> None:
    weights, data, file, out = (tmp_path / name for name in ("w.safetensors", "d.npz", "s.toml", "out"))
    digits = datasets.load("flatlens:digits").take(range(12))

    def save(scale: float, n: int) -> None:
        save_file({k: scale * v for k, v in zoo.mlp((1, 8, 8), 10, width=4).state_dict().items()}, weights)
        np.savez(data, x=digits.x[:n], y=digits.y[:n], labels=np.array(digits.labels))

    def swept() -> tuple[int, list[str]]:
        result = run_sweep(file, out, workers=1)
        assert result.failed == 0
        return result.new, result.notes

    save(1, 12)
    file.write_text(
        f'[run]\nmodel = "ckpt:{weights}?arch=flatlens:mlp?width=4"\ndata = "npz:{data}"\nsteps = 2\n'
        "[grid]\nseed = [0, 1]\n"
    )
    assert swept() == (2, [])
    first = {key: runs.load(out / "cells" / key).manifest for key in names(out / "cells")}
    for scale, n in ((2, 12), (2, 11)):
        save(scale, n)
        new, notes = swept()
        assert new == 2 and any("of other weights or data" in note and "replaced/" in note for note in notes)
    assert len(names(out / "replaced")) == 4
    for key, manifest in first.items():
        now = runs.load(out / "cells" / key).manifest
        assert now["weights_sha256"] != manifest["weights_sha256"] and now["data_sha256"] != manifest["data_sha256"]
        kept = sorted(name for name in names(out / "replaced") if name.startswith(key))
        assert runs.load(out / "replaced" / kept[0]).manifest == manifest
    data.unlink()  # what cannot be checked is kept
    new, notes = swept()
    assert new == 0 and "2 finished cells are kept, and could not be checked: " in notes[0]


def test_a_supervisor_that_was_killed_while_it_began(whole: Place, place: Place) -> None:
    cells = cells_of({"run": {"model": "flatlens:mlp", "data": "flatlens:digits"}}).cells
    (place.out / "locks").mkdir(parents=True)
    (place.out / "work").mkdir()
    (place.out / ".plan.json.1-a.tmp").write_text("half")
    (place.out / "sweep.toml").write_text("half")
    with supervised(place.out, cells, "text") as found:
        assert list(found.plan) == [cells[0].key]
    assert (place.out / "sweep.toml").read_text() == "text"


def test_a_damaged_plan_is_written_again_once_it_is_removed(finished: Place) -> None:
    before, plan = finished.stamps(), finished.out / "plan.json"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-9])
    with pytest.raises(RunError, match="is damaged; the sweep's command writes it again once it is removed"):
        run_sweep(finished.file, finished.out, trust_code=True)
    plan.unlink()
    result = run_sweep(finished.file, finished.out, workers=1, trust_code=True)
    assert (result.done, result.new) == (CELLS, 0)
    assert plan.read_bytes() == whole and finished.stamps() == before
