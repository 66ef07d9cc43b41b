"""Slow: a real language model, SmolLM2-135M, which `data/smollm2.py .cache/smollm2` makes (see there what it needs)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "smollm2"

RUN = """
import json, sys
from pathlib import Path
import tests.conftest
import torch
torch.set_num_threads(1)
import flatlens as fl
from flatlens.datasets import prompts

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if name in line).split()[1])

first = prompts.load("flatlens:benign-targets").prompts[:1]
attack = fl.attacks.Embedding(steps=60)
trace = fl.trace_text(f"lm:{sys.argv[1]}", prompts=first, attack=attack, slot_len=12, controls=["copies", "planted"])
kappa = trace.matrix("relative_flatness").values[0]
copies = trace.matrix("relative_flatness", path="copies").values[0]
print(json.dumps({
    "peak": kappa.max(), "end": kappa[-1], "flipped": bool(trace.matrix("flipped").values[0, -1]),
    "confirmed": trace.steps["confirmed"].drop_null().to_pylist(), "copies": copies.tolist(),
    "copies_flipped": bool(trace.matrix("flipped", path="copies").values[0, -1]), "peak_mib": kib("VmHWM") / 1024,
}))
"""


@pytest.mark.slow
def test_a_real_model_runs_into_the_flat_place_and_so_does_plain_text() -> None:
    if not FOLDER.is_dir():
        pytest.fail(f"the model is not there: python data/smollm2.py {FOLDER.relative_to(ROOT)}")
    made = subprocess.run(
        [sys.executable, "-c", RUN, str(FOLDER)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seen = json.loads(made.stdout.splitlines()[-1])
    assert seen["flipped"] and seen["confirmed"] == [True]
    assert seen["end"] <= seen["peak"] / 10
    assert seen["copies_flipped"] and seen["copies"][6] <= seen["copies"][3] / 4
    # The model is 513 MiB.
    assert seen["peak_mib"] <= 513 + 1500
