"""Memory of finishing a run, against that of measuring it: `python -m tests.benchmarks.memory` (Linux).

One process measures 20,000 samples for 20 steps, batch by batch; then it joins the batches, looks for cautions and
draws the report. What it has taken at most by then, over what it had taken at most before, is to stay below 1.3.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tests.benchmarks.timing import Row

SAMPLES, STEPS = 20_000, 20
MOST = 1.3


def main(folder: Path, samples: int, *controls: str) -> dict[str, float]:
    """Peaks in bytes, in this very process."""
    from flatlens import datasets
    from flatlens.measure import run as execute
    from flatlens.specs.run import RunSpec

    digits = datasets.load("flatlens:digits?split=train")
    rows = np.random.default_rng(0).integers(len(digits), size=samples)
    noise = np.random.default_rng(1).normal(0, 0.05, (samples, *digits.x.shape[1:]))
    x = np.clip(digits.x[rows] + noise, 0, 1).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=digits.y[rows])
    spec = RunSpec(
        "flatlens:digits-cnn", f"npz:{folder}/data.npz", eps=0.3, steps=STEPS, batch_size=500, control=controls,
        device="cpu",
    )  # fmt: skip
    begun = execute.begin(spec, folder / "run")
    execute.measure(begun, begun.run.missing())
    measuring = _peak()
    made = execute.finish(begun)
    joined = _peak()
    made.report(folder / "report.html")
    return {"measuring": measuring, "joined": joined, "drawn": _peak()}


def rows() -> Iterator[Row]:
    """What finishing takes at most, against measuring."""
    from tests.benchmarks.timing import Row

    found = peaks()
    yield Row(
        f"memory of joining, judging and drawing {SAMPLES:,} samples × {STEPS} steps, against measuring them",
        found["drawn"] / found["measuring"],
        "×",
        f"≤ {MOST}",
        ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in found.items()),
    )


def ratio(samples: int = SAMPLES, *controls: str) -> float:
    """The peak when all is done over that of measuring, of a process of its own."""
    found = peaks(samples, *controls)
    return found["drawn"] / found["measuring"]


def peaks(samples: int = SAMPLES, *controls: str) -> dict[str, float]:
    """Peaks in bytes: when all was measured, when it was joined and judged, and when it was drawn."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, folder, str(samples), *controls], check=True, capture_output=True, text=True
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
    else:
        for row in rows():
            print(*row)
