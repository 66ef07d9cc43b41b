"""Make the runs of measurement version 1 in this folder: `python tests/version1/make.py`, at commit 4b601ca.

They open, report and export for ever, and cannot be made again by a later flatlens: what is here is what there is.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import flatlens as fl

HERE = Path(__file__).parent
MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits"
RUN = fl.RunSpec(
    MODEL, DATA, eps=0.3, steps=5, limit=6, batch_size=3, control=("line-to-other-class",), layer=("head", "last:2"),
    device="cpu",
)  # fmt: skip
"""The finished run, and the unfinished one, of which the first of two batches is there."""
SWEEP = f"""
[run]
data = "{DATA}"
model = "{MODEL}"
eps = 0.3
steps = 4
limit = 4
device = "cpu"
[grid]
seed = [0, 1]
"""


def main() -> None:
    from flatlens import execute, trajectory  # as that commit has them

    assert trajectory.MEASUREMENT_VERSION == 1, "these are of version 1, which this flatlens no longer makes"
    for name in ("run", "sweep", "unfinished"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    made = execute.run(RUN, HERE / "run")
    assert made.finished
    begun = execute.begin(dataclasses.replace(RUN, layer=("head",)), HERE / "unfinished")
    execute.measure(begun, [0])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.toml"
        file.write_text(SWEEP)
        assert fl.run_sweep(file, HERE / "sweep", workers=1).done == 2
    for drawn in [*HERE.rglob("*.html"), *HERE.rglob("plotly.min.js")]:
        drawn.unlink()
    for locks in HERE.rglob("locks"):
        shutil.rmtree(locks)


if __name__ == "__main__":
    main()
