"""Whatever is killed in a sweep, the same command finishes it, and its tables are those of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from flatlens.measure import run as execute
from flatlens.sweeps import folder as sweep
from flatlens.sweeps.engines import CHECK, DIED, TIMEOUT, Done, Task, Trouble
from flatlens.sweeps.engines.local import Local
from flatlens.sweeps.supervisor import run_sweep
from tests.swept import Place, family, gone, killed_afterwards, names, same, until, workers

pytestmark = pytest.mark.faults

CELLS, WORKERS = 6, 2
SLOW = "0.02"  # seconds a pass: a cell of 15 passes takes long enough to be killed in the middle


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An undisturbed sweep; the others are of its model's file, so that their cells are the same."""
    place = Place(tmp_path_factory.mktemp("sweeps") / "whole", CELLS)
    done = place.run("--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["cells"], facts["done"], facts["new"]) == (CELLS, CELLS, CELLS)
    assert place.begun() == CELLS
    return place


@pytest.fixture
def place(whole: Place, tmp_path: Path) -> Place:
    """The same sweep, not begun, in a folder of its own."""
    found = Place(tmp_path / "place", CELLS)
    found.folder, found.model = whole.folder, whole.model
    found.write(CELLS)
    (whole.folder / "begun.log").unlink(missing_ok=True)
    found.folder = tmp_path / "place"
    found.begun = lambda: len(log.read_text().splitlines()) if (log := whole.folder / "begun.log").exists() else 0
    return found


def test_a_cell_is_the_run_of_its_spec(whole: Place, tmp_path: Path) -> None:
    found = sweep.load_sweep(whole.out)
    key = list(found.plan)[-1]
    run = execute.run(found.spec(key), tmp_path / "run")
    for name in ("steps", "layers"):
        one, other = (pq.read_table(folder / f"{name}.parquet") for folder in (run.path, found.cell(key)))
        assert one.equals(other)
    assert len({pq.read_table(found.cell(key) / "steps.parquet")["loss"].to_pylist()[1] for key in found.plan}) == CELLS


# ---- kills ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda blow: blow.name)
def test_a_supervisor_that_is_stopped(whole: Place, place: Place, blow: signal.Signals) -> None:
    with killed_afterwards(place.start(PAUSE=SLOW)) as process:
        until(lambda: len(place.done()) >= 2, process)
        children = family(process)
        process.send_signal(blow)
        printed, complained = process.communicate()
        until(lambda: gone(children))
    finished, begun = place.stamps(), place.begun()
    assert 2 <= len(finished) < CELLS
    assert begun - len(finished) <= WORKERS, "more than the cells under way were begun"
    if blow != signal.SIGKILL:
        assert (process.returncode, printed) == (130, "")
        assert complained == (
            f"interrupted: {len(finished)} of {CELLS} cells are finished; the same command goes on from there\n"
        )
    again = place.run("--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["new"] == CELLS - len(finished)
    # Once to see whether what is finished is of today's weights, and once for each cell that was missing.
    assert place.begun() - begun == 1 + CELLS - len(finished)
    assert finished.items() <= place.stamps().items()
    same(place, whole, CELLS)


def test_a_worker_that_is_killed_is_replaced_and_at_most_its_cell_is_redone(whole: Place, place: Place) -> None:
    with killed_afterwards(place.start("--quiet", PAUSE=SLOW)) as process:
        until(lambda: len(place.done()) >= 1 and len(workers(process)) == WORKERS, process)
        workers(process)[0].kill()
        printed, complained = process.communicate()
    assert (process.returncode, printed, complained) == (0, "", "")
    assert CELLS <= place.begun() <= CELLS + 1
    same(place, whole, CELLS)


def test_batches_that_are_saved_are_not_measured_again(whole: Place, place: Place) -> None:
    place.write(2)
    saved: dict[Path, int] = {}
    with killed_afterwards(place.start(PAUSE="0.05")) as process:
        until(lambda: any((place.out / "work").glob("*/parts/*.steps.parquet")), process)
        process.kill()
        until(lambda: gone(workers(process)))
    for part in (place.out / "work").glob("*/parts/*.steps.parquet"):
        saved[part] = part.stat().st_ino
    assert saved
    with killed_afterwards(place.start(PAUSE="0.05")) as process:
        until(lambda: len(list((place.out / "work").glob("*/parts/*.steps.parquet"))) > len(saved), process)
        assert {part: part.stat().st_ino for part in saved if part.exists()}.items() <= saved.items()
        process.communicate()
    assert process.returncode == 0
    same(place, whole, 2)


def test_killed_at_the_moments_when_a_cell_is_finished(whole: Place, place: Place) -> None:
    place.hook("""
from pathlib import PosixPath
rename, replace = Path.rename, Path.replace

def die(moment, cell):
    # Each moment once, and no cell twice: that would be taken for its own fault.
    if not (HERE / moment).exists() and once(cell):
        once(moment)
        os.kill(os.getpid(), signal.SIGKILL)

def renamed(self, target):
    if Path(target).parent.name == "cells":
        die("before", self.name)
    rename(self, target)
    if Path(target).parent.name == "cells":
        die("after", self.name)

def replaced(self, target):
    if Path(target).name == "manifest.json" and b'"finished"' in self.read_bytes():
        die("unfinished", self.parent.name)
        replace(self, target)
        die("finished", self.parent.name)
    else:
        replace(self, target)
    return Path(target)

Path.rename, Path.replace = renamed, replaced
""")
    again = place.run("--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    assert {"before", "after", "finished", "unfinished"} <= names(place.folder / "hooks")
    assert place.begun() <= CELLS + 4
    same(place, whole, CELLS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments_until_it_is_finished(whole: Place, place: Place, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        with killed_afterwards(place.start("--retry", PAUSE="0.005")) as process:
            time.sleep(rng.uniform(0.3, 4))
            victims = [process, *workers(process)]
            victim = rng.choice(victims)
            if process.poll() is None and psutil.pid_exists(victim.pid):
                victim.kill()
            if victim is not process:
                time.sleep(rng.uniform(0.1, 2))
                process.kill()
            until(lambda process=process: gone(workers(process)))
    assert place.run("--retry").returncode == 0
    same(place, whole, CELLS)


def test_killed_while_a_recipe_is_trained(tmp_path: Path) -> None:
    recipe = "[run.train]\nepochs = 40\nbatch_size = 8\nlimit = 400\n[grid]\nseed = [0, 1]\n"
    text = f'[run]\nmodel = "flatlens:mlp?width=8"\ndata = "flatlens:digits"\nlimit = 4\nsteps = 2\n{recipe}'
    places = [Place(tmp_path / name) for name in ("whole", "killed")]
    for place in places:
        place.file.write_text(text)
        place.environment["FLATLENS_CACHE"] = str(place.folder / "cache")
    undisturbed, place = places
    assert undisturbed.run().returncode == 0
    with killed_afterwards(place.start()) as process:
        for i in range(2):
            until(lambda: list((place.folder / "cache").glob("*.part")), process)
            if i == 0:
                children = workers(process)
                children[0].kill()
                until(lambda children=children: gone(children[:1]), process)
            else:
                children = family(process)
                process.kill()
                until(lambda children=children: gone(children))
    done = place.run("--json")
    assert (done.returncode, json.loads(done.stdout)["new"]) == (0, 2), done.stderr
    same(place, undisturbed, 2)
    assert sorted(p.suffix for p in (place.folder / "cache").glob("*[!k]")) == [".json", ".parquet", ".safetensors"]


# ---- the engine -----------------------------------------------------------------------------------


def test_a_worker_killed_between_two_tasks_costs_nothing(place: Place) -> None:
    spec = {"model": "flatlens:mlp", "data": "flatlens:digits"}
    task = Task(str(place.folder), CHECK, "key", spec)
    engine = Local(1, 1)
    try:
        engine.submit(task, None)
        first, found = engine.next()
        assert first is task and isinstance(found, Done) and found.found
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        engine.submit(task, None)
        assert engine.next() == (task, found)
        (place.folder / "own.py").write_text(
            "import os, time\ndef sleeps():\n    time.sleep(1000)\ndef dies():\n    os.kill(os.getpid(), 9)\n"
        )
        engine.submit(task._replace(spec=spec | {"model": f"{place.folder / 'own.py'}:dies"}), None)
        outcome = engine.next()[1]
        assert isinstance(outcome, Trouble) and outcome.kind == DIED
        assert outcome.error.startswith("its process ended: killed by signal 9 (perhaps because memory ran out")
        slow = task._replace(spec=spec | {"model": f"{place.folder / 'own.py'}:sleeps"})
        engine.submit(slow, 0.5)
        assert engine.next()[1] == Trouble("took longer than the 0.5 s that a cell may take", TIMEOUT)
    finally:
        engine.stop()
    assert not workers(psutil.Process())


ODD = {
    "leaves": ("os._exit(0)", "its process ended: exit code 0"),
    "crashes": ("os._exit(7)", "its process ended: exit code 7"),
    "dies": ("os.kill(os.getpid(), 9)", "its process ended: killed by signal 9"),
    "exits": ("raise SystemExit(3)", "failed with SystemExit: 3"),
    "interrupts": ("raise KeyboardInterrupt", "internal: KeyboardInterrupt"),
    "recurses": ("recurses()", "RecursionError"),
    "unprintable": ("raise Unprintable", "failed with Unprintable: (its message cannot be shown: ValueError)"),
    "unpicklable": ("raise Unpicklable(lambda: 1)", "failed with Unpicklable"),
    "surrogate": ("raise ValueError('caf\\udce9\\n\\x1b[2J')", "ValueError: caf\ufffd"),
    "hangs": ("time.sleep(1000)", "took longer than the 5 s that a cell may take"),
    "none": ("return None", "gave a NoneType"),
}


def test_models_that_misbehave_fail_alone_and_retry_mends_them(whole: Place, tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.model.write_text(
        whole.model.read_text() + "print('noise')\nclass Unpicklable(Exception):\n    pass\n"
        "class Unprintable(BaseException):\n    def __str__(self):\n        raise ValueError\n"
        "def bad(name):\n    return not (HERE / 'mended').exists()\n"
        + "".join(f"def {name}(classes=10):\n    if bad('{name}'):\n        {code}\n    return Net(classes)\n"
                  for name, (code, _) in ODD.items())
    )  # fmt: skip
    models = [f"{place.model}:{name}" for name in ("net", *ODD)]
    place.file.write_text(
        f'[run]\ndata = "flatlens:digits"\nsteps = 2\nlimit = 2\n[grid]\nmodel = {json.dumps(models)}\n'
    )
    done = place.run("--json", "--timeout", 5)
    assert done.returncode == 1, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["done"], facts["waiting"], facts["running"]) == (1, 0, [])
    said = {row["label"].rpartition(":")[2]: row for row in facts["failed"]}
    assert said.keys() == ODD.keys()
    for name, (_, message) in ODD.items():
        error = said[name]["error"]
        assert message in error and error.isprintable(), (name, error)
    assert said["dies"]["attempts"] == 2 and said["none"]["attempts"] == 1
    assert "Traceback" not in done.stderr

    status = place.run(place.out, command="status")
    assert status.returncode == 0
    assert "1 of 12 cells" in status.stdout and "took longer than the 5 s" in status.stdout
    assert status.stdout.endswith("\nThe sweep's command with --retry begins again what has failed.\n")
    again = place.run()
    assert again.returncode == 1, "what has failed is not begun again"
    assert "1 of 12 are finished, 0 of them now" in again.stdout
    (place.folder / "mended").touch()
    mended = place.run("--retry", "--json")
    assert mended.returncode == 0, mended.stderr
    assert json.loads(mended.stdout)["new"] == len(ODD)
    assert not names(place.out / "failed")


# ---- large cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [0, 1])
def test_a_large_cell_is_shared_out(whole: Place, place: Place, monkeypatch: pytest.MonkeyPatch, kills: int) -> None:
    monkeypatch.setenv("PAUSE", SLOW)
    place.write(1)
    seen: list[str] = []

    def kill(progress: object) -> None:
        seen.append(str(progress))
        if kills and len(seen) == 3:
            os.kill(workers(psutil.Process())[0].pid, signal.SIGKILL)

    result = run_sweep(place.file, place.out, workers=2, piece=0.0, progress=kill, trust_code=True)
    assert (result.done, result.failed, result.new) == (1, 0, 1)
    assert len(seen) >= 4, "it was not shared out"
    (key,) = place.done()
    for name in ("steps", "layers"):
        one, other = (pq.read_table(out / "cells" / key / f"{name}.parquet") for out in (place.out, whole.out))
        assert one.equals(other)
    assert not list((place.out / "locks").glob("*.cell"))
