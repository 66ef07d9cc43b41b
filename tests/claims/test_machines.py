"""Where claims are measured changes no figure: this process, several, shards of one folder, a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flatlens.claims import machines
from flatlens.claims.cells import Cell
from flatlens.claims.machines import Machines
from flatlens.claims.work import Asked, reproduce
from flatlens.errors import DiskError, SpecError
from flatlens.sweeps.engines import DIED, DISK, LOST, Done, Outcome, Task, Trouble
from tests import assets

MODELS = ("flatlens:digits-cnn", "flatlens:digits-cnn-robust", "flatlens:cnn?act=no-such")
ASKED = Asked(("C14",), models=MODELS, data="flatlens:digits", eps=0.3, limit=20)


def figures(out: Path) -> Any:
    (one,) = json.loads((out / "claims.json").read_text())["claims"]
    return one


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("here") / "out"
    reproduce(ASKED, out)
    return out


def test_in_processes(here: Path, tmp_path: Path) -> None:
    reproduce(ASKED, tmp_path / "out", machines=Machines(2))
    assert figures(tmp_path / "out") == figures(here) and figures(here)["nets"] == 2


def test_shards_of_one_folder(here: Path, tmp_path: Path) -> None:
    """Each says what is missing yet, and the last one says what one process would."""
    out = tmp_path / "out"
    (first,) = reproduce(ASKED, out, machines=Machines(shard=(3, 3)))
    assert first.verdict == "not run" and "no-such" in first.why and "digits-cnn: not measured yet" in first.why
    (second,) = reproduce(ASKED, out, machines=Machines(shard=(1, 3)))
    assert second.nets == 1 and "digits-cnn-robust: not measured yet" in second.why
    (third,) = reproduce(ASKED, out, machines=Machines(shard=(2, 3)))
    assert third.nets == 2 and "no-such: not measured yet" in third.why  # what failed is tried again by its own shard
    reproduce(ASKED, out)
    assert figures(out) == figures(here)


@pytest.mark.slow
def test_a_ray_cluster(here: Path, tmp_path: Path) -> None:
    assets.package("ray", "pip install 'flatlens[ray]'")
    reproduce(ASKED, tmp_path / "out", machines=Machines(1, "ray"))
    assert figures(tmp_path / "out") == figures(here)


class Scripted:
    """An engine whose outcomes are given, per cell in order."""

    slots = 2

    def __init__(self, outcomes: dict[str, list[Outcome]]) -> None:
        self.outcomes, self.queue, self.stopped = outcomes, list[Task](), False

    def submit(self, task: Task, timeout: float | None) -> None:
        assert timeout is None and len(self.queue) < self.slots
        self.queue.append(task)

    def next(self) -> tuple[Task, Outcome]:
        task = self.queue.pop()
        return task, self.outcomes[task.spec["net"]["name"]].pop(0)

    def stop(self) -> None:
        self.stopped = True


FINE = Done({"why": ""})
SCRIPTS = {
    "done": ([FINE], ""),
    "its process died once": ([Trouble("died", DIED), FINE], ""),
    "its process died twice": ([Trouble("died", DIED), Trouble("died again", DIED)], "died again"),
    "its machine was lost": ([Trouble("lost", LOST), FINE], ""),
    "it failed": ([Done({"why": "no gradient"})], "no gradient"),
    "the worker told of an error": ([Trouble("internal: x", "KeyError")], "internal: x"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_becomes_of_a_cell(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, why = SCRIPTS[script]
    cells = [Cell("C1", net(name), 5, False) for name in ("one", "other")]
    engine = Scripted({"one": list(outcomes), "other": [FINE]})
    monkeypatch.setattr(machines.starting, "start", lambda *_: engine)
    found = {cell.net.name: said for cell, said in Machines(2).each(cells, tmp_path)}
    assert found == {"one": why, "other": ""} and engine.stopped


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Cell("C1", net(name), 5, False) for name in ("one", "other")]
    engine = Scripted({"one": [Trouble("disk full", DISK)], "other": [Trouble("disk full", DISK)]})
    monkeypatch.setattr(machines.starting, "start", lambda *_: engine)
    with pytest.raises(DiskError, match="disk full"):
        list(Machines(2).each(cells, tmp_path))
    assert engine.stopped


def net(name: str) -> Any:
    from flatlens.claims.nets import Net

    return Net(name, {"standard": name}, "flatlens:digits", 0.3)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"workers": 0}, "--workers 0: needs a whole number of at least 1"),
        ({"engine": "rey"}, "no engine 'rey'; there are"),
        ({"address": "auto"}, "--address auto: is of --engine ray"),
        ({"shard": (3, 2)}, "--shard 3/2: needs i/n"),
        ({"shard": (0, 2)}, "--shard 0/2: needs i/n"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Machines(**settings)
