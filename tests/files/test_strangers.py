"""Folders from outside: whatever is wrong in them is one line, at once, and nothing outside them is touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import typer
from filelock import FileLock
from flatlens_cli import app

import flatlens as fl
from flatlens.errors import FlatlensError
from flatlens.measure import run as execute
from flatlens.records import runs
from flatlens.report import html_file, page
from tests import strangers
from tests.expected import cautioned

COMMAND = typer.main.get_command(app.application())
REPORTS = 8
"""Of so many folders one is also drawn, which takes longer than all else."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "application", lambda typed=None: COMMAND)


def told(words: list[object], capsys: pytest.CaptureFixture[str], name: str) -> None:
    code = app.run([str(word) for word in words])
    said = capsys.readouterr()
    assert "internal:" not in said.err and "Traceback" not in said.err, (name, words[0], said.err)
    assert code in (0, 1, 2), (name, words[0], code)
    if code:
        assert said.err.startswith("error: ") and said.err.count("\n") == 1, (name, words[0], said.err)
        assert len(said.err) < 3000, (name, words[0])


@pytest.fixture(scope="module")
def first(small_sweep: Path) -> str:
    return next(iter(json.loads((small_sweep / "plan.json").read_text())["cells"]))


def cut(found: list[tuple[str, strangers.Change]], part: int, of: int) -> list[tuple[str, strangers.Change]]:
    return random.Random(0).sample(found, len(found))[part::of]


def most_are_slow(parts: int) -> list[object]:
    """One part of the table each time, the others among the slow tests."""
    return [part if part == 0 else pytest.param(part, marks=pytest.mark.slow) for part in range(parts)]


@cautioned("flat-because-confident")
@pytest.mark.parametrize("part", most_are_slow(4))
def test_runs(part: int, small_sweep: Path, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, (name, change) in enumerate(cut(strangers.runs(), part, 4)):
        place = tmp_path / str(i)
        shutil.copytree(small_sweep / "cells" / first, place)
        change(strangers.bare(place))
        told(["export", place, "--images", "--out", tmp_path / "e.csv"], capsys, name)
        with contextlib.suppress(FlatlensError):
            fl.open(place)
        if i % REPORTS == 0:
            told(["report", place, "--out", tmp_path / "r.html"], capsys, name)
        shutil.rmtree(place)


@pytest.mark.parametrize("part", most_are_slow(8))
def test_cells(part: int, small_sweep: Path, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, (name, change) in enumerate(cut(strangers.cells(), part, 8)):
        place = tmp_path / str(i)
        shutil.copytree(small_sweep, place)
        change(strangers.bare(place / "cells" / first))
        told(["export", place, "--table", "cells", "--out", tmp_path / "e.csv"], capsys, name)
        if i % REPORTS == 0:
            told(["report", place], capsys, name)
        shutil.rmtree(place)


@pytest.mark.parametrize("part", most_are_slow(6))
def test_sweeps(part: int, small_sweep: Path, first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, (name, change) in enumerate(cut(strangers.sweeps(first), part, 6)):
        place = tmp_path / str(i)
        shutil.copytree(small_sweep, place)
        change(place)
        with contextlib.ExitStack() as held:
            if (place / "held").exists():
                for lock in ("1-of-1.supervisor", f"{first}.cell"):
                    held.enter_context(FileLock(place / "locks" / lock))
            told(["status", place, *(["--json"] if i % 2 else [])], capsys, name)
            told(["export", place, "--table", ("cells", "steps")[i % 2], "--out", tmp_path / "e.csv"], capsys, name)
            if i % REPORTS == 0:
                told(["report", place], capsys, name)
        shutil.rmtree(place)


SPEC = fl.RunSpec(model="flatlens:mlp?width=4", data="flatlens:digits", steps=1, limit=4, batch_size=2, device="cpu")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unfinished run, of one batch of two."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    execute.measure(execute.begin(SPEC, folder), [0])
    return folder


def test_runs_that_are_gone_on_with(begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [*strangers.records("manifest.json", strangers.MANIFEST), *strangers.specs()]
    for i, (name, change) in enumerate(cut(found, 0, 20)):
        place = tmp_path / str(i)
        shutil.copytree(begun, place)
        change(strangers.bare(place))
        words = [f"--{key.replace('_', '-')}={value}" for key, value in SPEC.to_dict().items() if key in WORDS]
        told(["trace", *words, "--quiet", "--out", place], capsys, name)


WORDS = ("model", "data", "steps", "limit", "batch_size", "device")


# ---- links --------------------------------------------------------------------------------------


def outside(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def precious(tmp_path: Path, begun: Path) -> Path:
    """A folder of the user's own, in which names are as flatlens would make, empty or remove them."""
    folder = tmp_path / "precious"
    shutil.copytree(begun / "parts", folder)
    for name in ("a.cell", "1-of-1.supervisor", "report.html", ".x.1-a.tmp", "plan.json", "1-of-1.json"):
        (folder / name).write_text("mine")
    return folder


@pytest.mark.parametrize("name", ["parts", ".lock", ".lock.json", "manifest.json", "spec.toml", "report.html"])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_a_run_writes_and_removes_through_no_link(
    name: str, force: bool, hard: bool, begun: Path, precious: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    shutil.copytree(begun, place)
    link(place / name, precious, hard)
    before = outside(precious)
    words = [f"--{key.replace('_', '-')}={value}" for key, value in SPEC.to_dict().items() if key in WORDS]
    told(["trace", *words, "--quiet", "--out", place, *(["--force"] if force else [])], capsys, name)
    assert outside(precious) == before


def link(path: Path, precious: Path, hard: bool) -> None:
    is_folder = path.is_dir() or "." not in path.name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if hard and not is_folder:
        os.link(precious / "report.html", path)
    else:
        path.symlink_to(precious if is_folder else precious / "report.html")


SWEPT = (
    *("cells", "work", "failed", "replaced", "locks", "locks/1-of-1.supervisor", "locks/1-of-1.json", "report.html"),
    *("cells.parquet", "plotly.min.js", "sweep.toml", "plan.json", "failed/{}.json", "work/{}", "cells/{}"),
)  # fmt: skip


@pytest.mark.parametrize("name", SWEPT)
def test_a_sweep_writes_and_removes_through_no_link(
    name: str, small_sweep: Path, first: str, precious: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for hard in (False, True):
        place = tmp_path / f"sweep-{hard}"
        shutil.copytree(small_sweep, place)
        path = place / name.format(first)
        path.parent.mkdir(exist_ok=True)
        link(path, precious, hard)
        before = outside(precious)
        for words in (["status", place], ["report", place], ["export", place, "--out", tmp_path / "e.csv"]):
            told(words, capsys, name)
        with contextlib.suppress(FlatlensError):
            fl.open(place).set_aside(first)
        with contextlib.suppress(FlatlensError):
            fl.open(place).forgive(first)
        with contextlib.suppress(FlatlensError), fl.open(place).claim(first):
            pass
        with contextlib.suppress(FlatlensError):
            fl.open(place).commit(first)
        assert outside(precious) == before


def test_a_planted_plotly_is_not_run(small_sweep: Path, tmp_path: Path) -> None:
    place = tmp_path / "theirs"
    shutil.copytree(small_sweep, place)
    for plant in (
        lambda file: file.write_text("alert(1)"),
        lambda file: (file.unlink(), file.symlink_to(tmp_path / "other.js")),
        lambda file: file.write_text(html_file.asset(html_file.BUNDLE) + "alert(1)"),
        Path.unlink,
    ):
        plant(place / "plotly.min.js")
        page.save_plotly(place)
        assert (place / "plotly.min.js").read_text() == html_file.asset(html_file.BUNDLE)
        assert not (place / "plotly.min.js").is_symlink() and not (tmp_path / "other.js").exists()
    (place / "plotly.min.js").write_text("alert(1)")
    fl.open(place).report()
    assert (place / "plotly.min.js").read_text() == html_file.asset(html_file.BUNDLE)
    assert runs.load(place / "cells" / next(iter(fl.open(place).plan))).finished
