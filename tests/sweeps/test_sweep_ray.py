"""Sweeps on a Ray cluster of several nodes, and by shards: the same tables, whatever is lost on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest

from flatlens.errors import RunError, SpecError
from flatlens.sweeps import folder as sweeps
from flatlens.sweeps import grid
from flatlens.sweeps.engines.ray import Cluster, room
from flatlens.sweeps.owners import supervised
from flatlens.sweeps.supervisor import run_sweep
from tests import assets

pytestmark = pytest.mark.faults

ray = assets.package("ray", "pip install 'flatlens[ray]'")


class BegunCell(NamedTuple):
    pid: int
    cuda_visible_devices: str | None
    threads: int
    node: str | None


CORES = os.sched_getaffinity(0)
SHARED = """
[run]
data = "flatlens:digits"
attack = "pgd"
eps = 0.3
steps = 3
limit = 6
control = ["gaussian-noise"]
device = "cpu"
"""
RECIPE = """
[run.train]
epochs = 1
limit = 100
[[zip]]
model = ["flatlens:digits-cnn", "flatlens:mlp"]
train.lr = [0.001, 0.01]
"""
MODELS = """
import json, os, signal, sys, time
import torch
from torch import nn

def _made(seconds):
    with open({log!r}, "a") as file:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        node = sys.modules["ray"].get_runtime_context().get_node_id() if "ray" in sys.modules else None
        file.write(json.dumps([os.getpid(), seen, torch.get_num_threads(), node]) + "\\n")
    time.sleep(seconds)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

class Sluggish(nn.Module):
    def forward(self, x):
        time.sleep(0.1 if os.path.exists("sluggish") else 0)
        return x

def quick(): return _made(0)
def sluggish(): return nn.Sequential(Sluggish(), *_made(0))
def steady(): return _made(0.8)
def hanging(): return _made(600)
def wrong(): raise KeyError("no such thing")
def killing():
    _made(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Each call, which is one per cell that is begun, leaves a line."""


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """Own folders; one thread per worker everywhere, or the last bits would differ."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path("/tmp") / f"fl-{os.getpid()}"  # sockets lie in it: a short name
        (folder / "ray").mkdir(parents=True)
        for name, value in {
            "FLATLENS_CACHE": str(tmp_path_factory.mktemp("cache")),
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen to this machine alone
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
        before = ray_processes()
        yield
        assert ray_processes() <= before
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def ray_processes() -> set[int]:
    """Without the two agents of a cluster that was killed: they look for it for a minute, and then end."""
    found = set()
    for process in psutil.process_iter(["cmdline", "ppid"]):
        words = " ".join(process.info["cmdline"] or ())
        orphan = process.info["ppid"] == 1 and words.rstrip().endswith("Agent")
        if any(word in words for word in ("ray::", "raylet", "gcs_server", "/site-packages/ray/")) and not orphan:
            found.add(process.pid)
    return found - {os.getpid()}


@pytest.fixture(scope="module")
def cluster(surroundings):
    """A head without CPUs, and two nodes with one CPU, and a GPU that is not there, each."""
    from ray.cluster_utils import Cluster as Nodes

    made = Nodes(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
            # A lost node is missed after five seconds, and not after twenty.
            "_system_config": {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000},
        },
    )
    for _ in range(2):
        made.add_node(num_cpus=1, num_gpus=1, node_ip_address="127.0.0.1")
    yield made
    made.shutdown()


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with models that leave a line of each cell begun."""
    log = tmp_path / "log"
    log.touch()
    (tmp_path / "models.py").write_text(MODELS.format(log=str(log)))
    monkeypatch.chdir(tmp_path)

    def sweep(text: str, name: str = "sweep.toml") -> Path:
        file = tmp_path / name
        file.write_text(SHARED + text)
        return file

    def begun() -> list[BegunCell]:
        return [BegunCell(*json.loads(line)) for line in log.read_text().splitlines()]

    return SimpleNamespace(path=tmp_path, sweep=sweep, begun=begun)


def cells(count: int, model: str) -> str:
    return f'model = "models.py:{model}"\n[grid]\nseed = {list(range(count))}\n'


def tables(out: Path) -> dict:
    found = {}
    for key in sweeps.load_sweep(out).plan:
        found[key] = [pq.read_table(out / "cells" / key / f"{name}.parquet") for name in ("steps", "layers")]
    assert found
    return found


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(a.equals(b) for key in one for a, b in zip(one[key], two[key], strict=True))


def complete(out: Path) -> bool:
    left = [entry for name in ("work", "failed") if (out / name).exists() for entry in (out / name).iterdir()]
    return not left and sweeps.load_sweep(out).state().total == len(sweeps.load_sweep(out).state().done)


GRID = RECIPE + "[grid]\nseed = [0, 1, 2]\n"


@pytest.fixture(scope="module")
def reference(surroundings, tmp_path_factory):
    """The tables of the sweep that all others are to equal."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "sweep.toml").write_text(SHARED + GRID)
    result = run_sweep(folder / "sweep.toml", folder / "out", workers=1)
    assert (result.done, result.failed) == (6, 0)
    return tables(folder / "out")


# ---- the same tables ------------------------------------------------------------------------------


def test_a_cluster_of_several_nodes(work, cluster, reference, monkeypatch):
    # Not the folder that the nodes were started with: the workers are told.
    monkeypatch.setenv("FLATLENS_CACHE", "models")
    result = run_sweep(work.sweep(GRID), work.path / "out", engine="ray", address=cluster.address)
    assert (result.done, result.failed, result.new, result.notes) == (6, 0, 6, [])
    assert complete(work.path / "out") and same(tables(work.path / "out"), reference)
    assert len(list((work.path / "models").glob("*.safetensors"))) == 2
    assert not ray.is_initialized()
    again = run_sweep(work.sweep(GRID), work.path / "out", engine="ray", address=cluster.address)
    assert (again.done, again.new) == (6, 0)


def test_a_large_cell_is_shared_out(work, cluster):
    file = work.sweep('model = "models.py:sluggish"\nbatch_size = 1\n')
    run_sweep(file, work.path / "whole", workers=1, trust_code=True)
    before = len(work.begun())
    (work.path / "sluggish").touch()  # so that the second worker is there in time to help
    result = run_sweep(file, work.path / "parts", engine="ray", address=cluster.address, piece=0.0, trust_code=True)
    assert result.done == 1 and same(tables(work.path / "parts"), tables(work.path / "whole"))
    assert len({cell.pid for cell in work.begun()[before:]}) == 2


@pytest.mark.parametrize("together", [False, True], ids=["one-after-the-other", "together"])
def test_shards(work, reference, together):
    file, out = work.sweep(GRID), work.path / "out"
    if together:
        words = [sys.executable, "-m", "flatlens", "sweep", str(file), "--out", str(out), "--workers", "1", "--json"]
        started = [
            subprocess.Popen(
                [*words, "--quiet", "--shard", f"{i}/3"],
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {min(CORES)}),
            )
            for i in (1, 2, 3)
        ]
        said = [json.loads(process.communicate()[0]) for process in started]
        assert [process.returncode for process in started] == [0, 0, 0]
        counts = [facts["new"] for facts in said]
    else:
        results = [run_sweep(file, out, workers=1, shard=(i, 3)) for i in (1, 2, 3)]
        assert all(result.done == 2 and result.failed == 0 for result in results)
        counts = [result.new for result in results]
    assert counts == [2, 2, 2]
    assert complete(out) and same(tables(out), reference)


# ---- losses ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def struck_when(work, ripe, strike):
    """Strike while a cell is measured that was begun since now, and makes these lines of begun cells ripe."""
    before, struck = len(work.begun()), threading.Event()

    def watch():
        while not (begun := work.begun()[before:]) or not ripe(begun):
            time.sleep(0.02)
        time.sleep(0.2)
        strike(begun[-1])
        struck.set()

    threading.Thread(target=watch, daemon=True).start()
    yield
    assert struck.is_set()


def test_a_node_is_lost(work, cluster):
    file, count = work.sweep(cells(6, "steady")), 6
    assert run_sweep(file, work.path / "local", workers=2, trust_code=True).done == count
    before = len(work.begun())
    third = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    with struck_when(
        work,
        lambda begun: begun[-1].node == third.node_id,
        lambda _: cluster.remove_node(third, allow_graceful=False),
    ):
        result = run_sweep(file, work.path / "ray", engine="ray", address=cluster.address, trust_code=True)
    assert (result.done, result.failed) == (count, 0)
    assert complete(work.path / "ray") and same(tables(work.path / "ray"), tables(work.path / "local"))
    assert count <= len(work.begun()) - before <= count + 1


def test_a_worker_is_killed(work, cluster):
    with struck_when(work, lambda begun: len(begun) >= 3, lambda last: os.kill(last.pid, signal.SIGKILL)):
        result = run_sweep(
            work.sweep(cells(6, "steady")), work.path / "out", engine="ray", address=cluster.address, trust_code=True
        )
    assert (result.done, result.failed) == (6, 0) and complete(work.path / "out")
    assert len(work.begun()) == 7  # one was begun twice


def test_cells_that_cannot_be_done(work, cluster):
    """One hangs, one kills its process each time, as when memory runs out, one raises, and one is well."""
    names = [f"models.py:{name}" for name in ("hanging", "killing", "wrong", "quick")]
    file = work.sweep(f"[grid]\nmodel = {json.dumps(names)}\n")
    result = run_sweep(file, work.path / "out", engine="ray", address=cluster.address, timeout=4, trust_code=True)
    assert (result.done, result.failed) == (1, 3)
    keys = {spec["model"].partition(":")[2]: key for key, spec in result.sweep.plan.items()}
    failures = {name: result.sweep.failure(key) for name, key in keys.items()}
    assert failures["quick"] is None
    assert failures["hanging"].kind == "timeout" and "longer than the 4 s" in failures["hanging"].error
    assert (failures["killing"].kind, failures["killing"].attempts) == ("died", 2)
    assert f"its process on {socket.gethostname()} was killed" in failures["killing"].error
    assert failures["wrong"].kind == "ModelError" and "no such thing" in failures["wrong"].error
    assert Counter(len(failure.error.splitlines()) for failure in failures.values() if failure) == {1: 3}


# ---- as a user does it ----------------------------------------------------------------------------


def test_interrupted_killed_and_gone_on_with(work, monkeypatch):
    """A cluster of this machine: nobody else can reach it, and nothing of it is left, whatever ends the sweep."""
    file, out = work.sweep(cells(8, "steady")), work.path / "out"
    words = [sys.executable, "-m", "flatlens", "sweep", str(file), "--out", str(out), "--engine", "ray"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "TMPDIR": os.environ["RAY_TMPDIR"]
    }
    environment |= {"HOME": str(work.path)}  # where Ray keeps its token

    def begin():
        more = ["--workers", "2", "--trust-code", "--quiet"]
        return subprocess.Popen(
            [*words, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    before = ray_processes()
    for blow, after in ((signal.SIGINT, 3), (signal.SIGKILL, 3)):
        seen, process = len(work.begun()), begin()
        while process.poll() is None and len(work.begun()) < seen + after:
            time.sleep(0.05)
        for connection in psutil.net_connections("tcp"):
            if connection.status == "LISTEN" and connection.pid in ray_processes() - before:
                assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
        process.send_signal(blow)
        sent = time.monotonic()
        said = process.communicate()
        assert time.monotonic() - sent < 10
        if blow == signal.SIGINT:
            assert process.returncode == 130 and said[0] == ""
            assert said[1].count("\n") == 1 and "the same command goes on from there" in said[1]
            assert not list(Path(environment["TMPDIR"]).glob("ray-*"))
        until = time.monotonic() + 15
        while ray_processes() - before and time.monotonic() < until:
            time.sleep(0.1)
        assert not ray_processes() - before
    process = begin()
    assert (*process.communicate(), process.returncode) == ("", "", 0)
    assert complete(out) and len(work.begun()) <= 8 + 2 * 2 + 2  # two workers each time; and the finished are checked
    assert not ray_processes() - before


# ---- GPUs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "threads", "gpus", "expected"),
    [
        ([{"CPU": 4}, {"CPU": 3}, {}], 1, 0, 7),
        ([{"CPU": 4}, {"CPU": 3}], 2, 0, 3),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], 1, 0.5, 4),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 8}], 1, 0.1, 8),  # as many as there are CPUs beside the GPU
        ([{"CPU": 99, "GPU": 1}], 1, 0.1, 10),
        ([{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 3}], 1, 2, 2),  # no task has GPUs of two nodes
    ],
)
def test_room(nodes, threads, gpus, expected):
    assert room(nodes, threads, gpus) == expected


def test_what_a_task_sees_of_the_gpus(work, cluster):
    for gpus, model, expected in ((0.5, "quick", {"0"}), (None, "quick", {""})):
        before = len(work.begun())
        file = work.sweep(cells(2, model), f"{gpus}.toml")
        result = run_sweep(
            file, work.path / f"{gpus}", engine="ray", address=cluster.address, gpus=gpus, trust_code=True
        )
        assert result.done == 2
        assert {cell.cuda_visible_devices for cell in work.begun()[before:]} == expected


@pytest.mark.parametrize(
    ("workers", "gpus", "accelerated", "expected"),
    [(None, None, True, 2), (None, 0.25, True, 2), (8, 0.5, True, 2), (8, None, False, 8), (None, 0, True, 2)],
)
def test_slots(cluster, workers, gpus, accelerated, expected):
    """Each node has one CPU, which bounds the fractions of its GPU."""
    made = Cluster(workers, cluster.address, gpus=gpus, accelerated=accelerated)
    try:
        assert made.slots == expected
    finally:
        made.stop()


# ---- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "cannot reach the Ray cluster at '127.0.0.1:9': Invalid address port 9"),
        ("127.0.0.1:59999", "cannot reach the Ray cluster at '127.0.0.1:59999': .*Connection refused"),
        ("nowhere.invalid:6379", "cannot reach the Ray cluster at 'nowhere.invalid:6379'"),
        ("nonsense", "cannot reach the Ray cluster at 'nonsense': Invalid address format"),
        ("ray://127.0.0.1:10001", "is Ray Client's; on a node of it, give the HOST:PORT"),
    ],
)
def test_clusters_that_are_not_there(address, said):
    began = time.monotonic()
    with pytest.raises(SpecError, match=said) as raised:
        Cluster(None, address)
    assert "\n" not in str(raised.value) and time.monotonic() - began < 10
    assert not ray.is_initialized()


def test_values_that_cannot_be(work, cluster):
    with pytest.raises(SpecError, match=r"--gpus 1.5: needs a share of a GPU, or a whole number"):
        Cluster(None, None, gpus=1.5)
    with pytest.raises(SpecError, match=r"--gpus 2: more than any node at .* has, 1$"):
        Cluster(None, cluster.address, gpus=2)
    with pytest.raises(SpecError, match=r"--gpus 1: is of --engine ray"):
        run_sweep(work.sweep("model = 'flatlens:mlp'\n"), work.path / "out", gpus=1)
    with (
        pytest.raises(
            SpecError, match=r"sweeps with --engine ray need the package 'ray': pip install 'flatlens\[ray\]'"
        ),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(sys.modules, "ray", None)
        Cluster(None)


def test_supervisors_that_would_meet(work):
    file, out = work.sweep(GRID), work.path / "out"
    cells = grid.read(file).cells
    with supervised(out, cells, "", (1, 3)):
        for shard in ((1, 3), (1, 2), (1, 1)):
            with pytest.raises(
                RunError, match=rf"process {os.getpid()} on .* is at work on .* \(shard 1/3\); wait for it"
            ):
                run_sweep(file, out, workers=1, shard=shard)
        with supervised(out, cells, "", (2, 3)):
            pass
