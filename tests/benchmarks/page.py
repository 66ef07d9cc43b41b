"""The page of a run: its size, how soon it can be read and used, how fast it answers, and what writing it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES, STEPS = 100_000, 50
MB = 1e6
AGAIN = 50
"""Clicks, slider steps and brushes, each."""
CONTROLS = ("line-to-other-class", "line-to-end", "gaussian-noise", "uniform-noise", "random-signs")
WAITED = (
    "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
)


def main(folder: Path) -> dict[str, float]:
    """CPU seconds and bytes beyond the tables, of writing a large page, in this very process."""
    from flatlens.report import page
    from tests.synthetic import make_trace

    make = make_trace(60, 5, images="none")  # what is imported once is no part of it
    page.write([make], folder / "small.html")
    trace = make_trace(SAMPLES, STEPS, controls=("line-to-other-class",), images="none")
    tables = trace.steps.nbytes + trace.layers.nbytes
    held = _now()
    # What making the trace has taken for a while, and given back, must not count as the page's.
    Path("/proc/self/clear_refs").write_text("5")
    began = time.process_time()
    file = page.write([trace], folder / "page.html")
    return {
        "cpu": time.process_time() - began, "peak": float(_peak() - held), "tables": float(tables),
        "size": float(file.stat().st_size),
    }  # fmt: skip


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith(field)).split()[1])


def _now() -> int:
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")


def rows() -> Iterator[Any]:
    """All rows about the page of a run."""
    from flatlens.report import page
    from tests.benchmarks.timing import Row
    from tests.browser import chromium
    from tests.complete import complete
    from tests.synthetic import make_trace

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.page", name], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        what = f"writing the page of {SAMPLES:,} × {STEPS} × 2 paths"
        yield Row(f"{what}: processor", found["cpu"], "s", "≤ 60", f"tables {found['tables'] / MB:.0f} MB")
        yield Row(f"{what}: memory above the tables", found["peak"] / 1e9, "GB", "≤ 2", f"{found['peak'] / MB:.0f} MB")
        yield Row(f"the page of {SAMPLES:,} × {STEPS}", found["size"] / MB, "MB", "≤ 8", "without inputs")

        demo = complete(make_trace(450, 25, controls=CONTROLS, images="all"), 12, 61)
        file = page.write([demo], folder / "demo.html")
        size = file.stat().st_size
        yield Row("a page like the demo's", size / MB, "MB", "≤ 3", "450 × 25, 6 paths, all inputs, 12 surfaces")
        large = page.write([make_trace(10_000, 50, controls=CONTROLS[:2])], folder / "large.html")
        with chromium() as browser:
            yield from _opening(browser, file)
            yield from _answering(browser, large)


def _opening(browser: Any, file: Path) -> Iterator[Any]:
    """From the click on a link to the first picture, and to figures that answer."""
    from tests.benchmarks.timing import RUNS, Row

    shown, ready = [], []
    for _ in range(RUNS):
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.goto(file.as_uri(), wait_until="commit")
        opened.evaluate(
            "() => new Promise((done) => { const look = () => "
            "(document.querySelector('#valley .main-svg') ? done() : requestAnimationFrame(look)); look(); })"
        )
        ready.append(opened.evaluate(WAITED) / 1000)
        paints = opened.evaluate("performance.getEntriesByName('first-contentful-paint').map((p) => p.startTime)")
        shown.append(paints[0] / 1000)
        opened.close()
    for what, seconds, goal in (("the static picture is there", shown, "≤ 0.4"), ("it answers", ready, "≤ 1.5")):
        detail = f"{min(seconds):.2f} … {max(seconds):.2f} s, median of {RUNS}"
        yield Row(f"opening a page like the demo's until {what}", float(np.median(seconds)), "s", goal, detail)


ACTIONS = {
    "a click on a sample": "(k) => { flatlens.change({ sample: (7 * k) % flatlens.run.sample.length, step: -1 }); }",
    "a step of the slider": "(k) => { flatlens.change({ step: k % (flatlens.run.steps + 1) }); }",
    "a brush": "(k) => { const all = flatlens.run.sample.map((_, i) => i); "
    "flatlens.change({ brush: all.filter((i) => i % 5 === k % 5) }); }",
}
"""What a pointer does, from where the page has understood it."""


def _answering(browser: Any, file: Path) -> Iterator[Any]:
    """The page's own work from an action to the frame that shows it, in processor time: whatever else is running."""
    from tests.benchmarks.timing import Row
    from tests.browser import opened

    timed = """async (k) => {{ const began = performance.now();
      ({action})(k);
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      return performance.now() - began; }}"""
    with opened(browser, file) as it:
        session = it.page.context.new_cdp_session(it.page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def worked() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")

        for name, action in ACTIONS.items():
            own, wall = [], []
            for k in range(AGAIN):
                before = worked()
                wall.append(it.look(timed.format(action=action), k + 1))
                own.append(worked() - before)
            detail = f"median {np.median(own):.0f} ms, largest {max(own):.0f} ms; by the clock {np.median(wall):.0f} ms"
            detail += f" at a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; 10,000 samples"
            yield Row(f"{name}, p95 of {AGAIN}, processor", float(np.percentile(own, 95)), "ms", "≤ 100", detail)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
