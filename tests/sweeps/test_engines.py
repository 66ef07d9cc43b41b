"""How a machine is shared out among workers."""

import os
import threading

import pytest

from flatlens.sweeps.engines.local import SAFE, _sheltered, own_gpus, shares


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so many cores and GPUs."""

    def make(cores, listed=None, visible=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        if listed is not None:
            program = tmp_path / "nvidia-smi"
            program.write_text(f"#!/bin/sh\nprintf '{listed}'\n")
            program.chmod(0o755)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


TWO = "GPU 0: NVIDIA H200 (UUID: GPU-a)\\n  MIG 1g\\nGPU 1: NVIDIA H200 (UUID: GPU-b)\\n"


@pytest.mark.parametrize(
    ("cores", "listed", "visible", "wanted", "expected"),
    [
        (8, None, None, None, (8, 1)),
        (8, None, None, 3, (3, 2)),
        (2, None, None, 5, (5, 1)),
        (8, TWO, None, None, (2, 4)),  # a worker for each GPU
        (8, TWO, None, 4, (4, 2)),
        (8, TWO, "1", None, (1, 8)),
        (8, TWO, "", None, (8, 1)),  # hidden by the user
        (8, TWO, "-1", None, (8, 1)),
        (8, None, "0, 3,GPU-abc", None, (3, 2)),
        (8, "Failed to initialize NVML: Driver/library version mismatch\\n", None, None, (8, 1)),
    ],
)
def test_workers_and_their_threads(machine, cores, listed, visible, wanted, expected):
    machine(cores, listed, visible)
    assert shares(wanted) == expected


def test_gpus_that_no_cell_uses_make_no_workers(machine):
    machine(4, TWO)
    assert own_gpus() == 2
    assert shares(None, accelerated=False) == (4, 1)


@pytest.mark.parametrize("own", [None, "yes"])
def test_processes_that_are_started_by_two_threads_are_both_sheltered(monkeypatch, own):
    monkeypatch.delenv(SAFE, raising=False) if own is None else monkeypatch.setenv(SAFE, own)
    began, ended = threading.Event(), threading.Event()

    def start():
        with _sheltered():
            began.set()
            ended.wait(60)

    other = threading.Thread(target=start)
    with _sheltered():
        other.start()
        assert began.wait(60)
    assert os.environ.get(SAFE) == "1", "the other one is not started yet"
    ended.set()
    other.join()
    assert os.environ.get(SAFE) == own
