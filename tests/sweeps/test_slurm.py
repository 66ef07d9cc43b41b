"""The scripts for Slurm, with its variables set, and `srun` as it is here: the command itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flatlens.sweeps import folder as sweeps

pytestmark = pytest.mark.faults

SCRIPTS = sorted((Path(__file__).parents[2] / "data" / "sweeps").glob("slurm-*.sh"))
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >> "$OPTIONS"; shift; done
exec "$@"
"""
SWEEP = """
[run]
model = "flatlens:mlp"
data = "flatlens:digits"
steps = 1
limit = 2
device = "cpu"
train.epochs = 1
train.limit = 20
[grid]
seed = [0, 1, 2]
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_bash_reads_it(script):
    subprocess.run(["bash", "-n", script], check=True)
    options = [line.split(maxsplit=1)[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert options and all(option.startswith("--") for option in options)


def test_an_array(tmp_path):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "flatlens").write_text(f'#!/bin/bash\nexec {sys.executable} -m flatlens "$@"\n')
    for name in ("srun", "flatlens"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    out = tmp_path / "out"

    def job(index: int, **more: str) -> None:
        set_by_slurm = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "1"}
        environment = {k: v for k, v in os.environ.items() if k != "FLATLENS_CACHE"} | set_by_slurm | more
        environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OPTIONS": str(tmp_path / "options")}
        (script,) = (file for file in SCRIPTS if file.name == "slurm-array.sh")
        subprocess.run(["bash", script, "sweep.toml", "out"], cwd=tmp_path, env=environment, check=True)

    job(1)
    assert len(sweeps.load_sweep(out).state().done) == 2
    job(2, SLURM_ARRAY_TASK_COUNT="1", SHARDS="2")  # given again, alone
    assert len(sweeps.load_sweep(out).state().done) == 3
    assert len(list((tmp_path / "out.models").glob("*.safetensors"))) == 1
    assert (tmp_path / "options").read_text().split() == ["--ntasks=1", "--cpus-per-task=1"] * 2
