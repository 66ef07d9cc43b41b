"""A run under way: its picture is of the batches that are finished, and never old."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import flatlens as fl
from flatlens.errors import RunError
from flatlens.records import runs, unfinished
from tests.browser import chromium
from tests.expected import cautioned
from tests.page_text import embedded
from tests.served import Served, make, serving
from tests.swept import MODEL, Place, killed_afterwards, until

VERSION1 = Path(__file__).parents[1] / "version1"
OLDEST = 5.0
"""Seconds that a picture may lag behind the last finished batch."""


def started(folder: Path) -> list[str]:
    """The words of a command for a run of six batches, which waits before each while there is a gate."""
    (folder / "model.py").write_text(MODEL)
    return ["--model", f"{folder / 'model.py'}:net", "--data", "flatlens:digits", "--eps", "0.3", "--steps", "3",
            "--limit", "12", "--batch-size", "2", "--out", str(folder / "runs" / "live"), "--quiet"]  # fmt: skip


def data_of(page: str) -> dict:
    return embedded(page)["runs"][0]


def pictured(served: Served, key: str) -> dict | None:
    reply = served.ask(f"/picture/{key}")
    return data_of(reply.text) if reply.status == 200 else None


def test_a_picture_follows_a_run(tmp_path: Path) -> None:
    place = Place(tmp_path / "sweep")
    words = started(tmp_path)
    out = tmp_path / "runs" / "live"
    make(tmp_path / "runs")
    with (
        killed_afterwards(place.start(*words, command="trace", PAUSE="0.15")) as process,
        serving(tmp_path / "runs") as served,
    ):
        until(lambda: (out / "parts" / "00000.steps.parquet").exists(), process)
        key = served.rows()["live"]["key"]
        shell = served.ask(f"/run/{key}")
        assert "<iframe" not in shell.text and "frame-src 'self'" in shell.headers["Content-Security-Policy"]
        seen, states = [], set()
        while process.poll() is None:
            row = served.ask(f"/api/run/{key}").json
            states.add(row["state"])
            if row["state"] != "running":
                break
            done = len(list((out / "parts").glob("*.steps.parquet")))
            drawn = pictured(served, key)
            if drawn is not None:
                seen.append(drawn["n"])
                # What was finished before it was asked for is on it, but for the second in which the list may be old.
                time.sleep(1.1)
                again = pictured(served, key)
                assert again is None or again["n"] >= 2 * done
        assert process.wait(60) == 0
        assert "running" in states and seen == sorted(seen) and 2 <= seen[0] < 12, seen
        assert served.rows()["live"]["state"] == "finished"
        assert data_of(served.ask(f"/run/{key}").text)["n"] == 12


@pytest.mark.browser
def test_the_page_around_it_exchanges_the_picture_and_keeps_the_sample(tmp_path: Path) -> None:
    out = tmp_path / "live"
    shutil.copytree(VERSION1 / "unfinished", out)
    shutil.move(out / "parts", tmp_path / "kept")
    (out / "parts").mkdir()
    problems: list[str] = []
    with serving(tmp_path) as served, chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.goto(f"{served.base}/?token={served.token}")
        key = served.rows()["live"]["key"]
        page.goto(f"{served.base}/run/{key}#s=1")
        page.wait_for_selector("html[data-ready]")
        assert page.locator("iframe").count() == 0 and "0 of 2" in page.inner_text("#far")
        for file in (tmp_path / "kept").iterdir():
            shutil.copy(file, out / "parts" / file.name)
        began = time.monotonic()
        page.wait_for_selector("iframe", timeout=60_000)
        appeared = time.monotonic() - began
        frame = page.frames[1]
        frame.wait_for_selector("html[data-ready]", timeout=60_000)
        assert appeared <= OLDEST and "1 of 2" in page.inner_text("#far")
        samples = frame.evaluate("flatlens.run.sample")
        frame.click("#next")
        chosen = frame.evaluate("flatlens.run.sample[flatlens.state.sample]")
        # Another batch: here the same numbers under other ids.
        for file in (tmp_path / "kept").iterdir():
            content = file.read_bytes()
            (out / "parts" / file.name.replace("00000", "00001")).write_bytes(content)
        page.wait_for_function("() => document.querySelector('#far').textContent.includes('2 of 2')", timeout=60_000)
        page.wait_for_function("() => document.querySelectorAll('iframe').length === 1", timeout=60_000)
        frame = page.frames[-1]
        frame.wait_for_selector("html[data-ready]", timeout=60_000)
        assert frame.evaluate("flatlens.run.sample[flatlens.state.sample]") == chosen in samples
        assert f"s={chosen}" in page.url
    assert problems == []


# ---- the trace so far ---------------------------------------------------------------------------


@pytest.fixture
def batches(tmp_path: Path) -> runs.Run:
    """A run of three batches, of which two are finished, and the whole of it beside."""
    from flatlens.measure import run as measuring
    from flatlens.specs.run import RunSpec

    spec = RunSpec(model="flatlens:digits-cnn", data="flatlens:digits", eps=0.3, steps=4, limit=9, batch_size=3)
    begun = measuring.begin(spec, tmp_path / "run")
    measuring.measure(begun, [0, 2])
    return begun.run


@cautioned("flat-because-confident")
def test_it_is_what_the_finished_run_says_of_the_same_samples(batches: runs.Run, tmp_path: Path) -> None:
    from flatlens.measure import run as measuring

    so_far = unfinished.trace(batches)
    shutil.copytree(batches.path, tmp_path / "whole")
    measuring.run(runs.load(tmp_path / "whole").spec, tmp_path / "whole")
    whole = fl.open(tmp_path / "whole")
    ids, kappa = so_far.matrix("relative_flatness")
    at = np.isin(whole.matrix("relative_flatness").sample, ids)
    assert len(ids) == 6 and np.array_equal(kappa, whole.matrix("relative_flatness").values[at])
    assert so_far.cautions[0].code == "unfinished" and "2 of 3 batches" in so_far.cautions[0].message
    assert set(so_far.images.sample) == set(ids) and so_far.labels == whole.labels


def _emptied(run: runs.Run) -> None:
    for file in (run.path / "parts").iterdir():
        file.unlink()


def _swapped(run: runs.Run) -> None:
    parts = run.path / "parts"
    (parts / "00000.layers.parquet").write_bytes((parts / "00002.layers.parquet").read_bytes())


DAMAGES = {
    "a batch cut off": (lambda run: (run.path / "parts" / "00000.layers.parquet").write_bytes(b"PAR1"), 3),
    "a batch's table gone": (lambda run: (run.path / "parts" / "00002.layers.parquet").unlink(), 3),
    "another batch's table": (_swapped, 3),
    "hashes that are none": (lambda run: (run.path / "parts" / "00000.json").write_text('{"files": 3}'), 3),
    "inputs gone": (lambda run: (run.path / "parts" / "00000.images.safetensors").unlink(), 3),
    "no hashes at all": (lambda run: [p.unlink() for p in (run.path / "parts").glob("*.json")], 6),
    "nothing yet": (_emptied, 0),
    "no folder yet": (lambda run: shutil.rmtree(run.path / "parts"), 0),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_batch_is_left_out(kind: str, batches: runs.Run) -> None:
    change, samples = DAMAGES[kind]
    change(batches)
    if samples:
        assert len(unfinished.trace(batches).matrix("loss").sample) == samples
    else:
        with pytest.raises(RunError, match="no finished batch"):
            unfinished.trace(batches)
