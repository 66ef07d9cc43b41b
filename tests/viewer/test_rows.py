"""What the list says: from manifests alone, in time for a thousand runs, and whatever a stranger has put there."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from flatlens.errors import RunError
from flatlens.files.locks import file_lock
from flatlens.records import digest, runs, stored
from flatlens.report import html_file
from flatlens.viewer import found, rows
from flatlens.viewer.found import Folder, demand
from tests import strangers
from tests.expected import cautioned
from tests.served import make, serving
from tests.synthetic import make_trace


def look(root: Path) -> dict[str, rows.Row]:
    return {one.row["place"]: one.row for one in Folder(root).look().values()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run, to be copied."""
    return make_trace(8, 6).save(tmp_path_factory.mktemp("small") / "run")


def test_a_thousand_runs_are_listed_within_a_second(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(1000):
        place = tmp_path / f"group-{i % 10}" / f"run-{i}"
        place.mkdir(parents=True)
        for name in ("manifest.json", "spec.toml", "digest.json"):
            shutil.copy(small / name, place / name)
    monkeypatch.setattr(found, "OLDEST", 0.0)  # each time anew
    with serving(tmp_path) as served:
        assert len(served.ask("/api/list").json["rows"]) == 1000
        # Of the processor, for the machine may be busy with others: this process holds the server and the client.
        spent = []
        for _ in range(3):
            before = time.process_time()
            assert served.ask("/api/list").status == 200
            spent.append(time.process_time() - before)
        assert min(spent) < 1.0, spent
        page = served.ask("/")
        assert page.text.count("<tr>") == 1001


def test_what_has_not_changed_is_not_read_again(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(small, tmp_path / "run")
    monkeypatch.setattr(found, "OLDEST", 0.0)
    read: list[Path] = []
    whole = rows.of_run
    monkeypatch.setattr(rows, "of_run", lambda folder: (read.append(folder), whole(folder))[1])
    folder = Folder(tmp_path)
    for _ in range(3):
        folder.look()
    assert len(read) == 1
    os.utime(tmp_path / "run" / "manifest.json", ns=(1, 1))
    assert next(iter(folder.look().values())).row["when"] == pytest.approx(1e-9)
    assert len(read) == 2
    shutil.rmtree(tmp_path / "run")
    assert folder.look() == {}


def test_no_table_is_opened(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    for name in ("pieces", "verify", "opened"):
        monkeypatch.setattr(stored, name, lambda *_: pytest.fail("a table was opened"))
    assert len(look(tmp_path)) == 6


@cautioned("flat-because-confident")
def test_a_run_from_the_command_line_tells_its_result(tmp_path: Path) -> None:
    from flatlens.measure.run import run
    from flatlens.specs.run import RunSpec

    made = run(
        RunSpec(model="flatlens:digits-cnn", data="flatlens:digits", eps=0.3, steps=4, limit=6), tmp_path / "run"
    )
    told = digest.read(made.path, runs.load(made.path).files)
    row = look(tmp_path)["run"]
    assert row["valley"][:3] == [told["rows"][0]["valley_of_flipped"][name] for name in ("value", "low", "high")]
    assert row["clean"][3] == 6 and row["eps_text"] == "0.3"


def test_who_works_on_a_run_is_seen_by_its_lock(tmp_path: Path) -> None:
    make(tmp_path)
    assert look(tmp_path)["half"]["state"] == "interrupted"
    lock = file_lock(tmp_path / "half" / ".lock", root=tmp_path / "half")
    with lock:
        assert look(tmp_path)["half"]["state"] == "running"
    assert look(tmp_path)["half"]["state"] == "interrupted"


def test_nothing_is_written(tmp_path: Path) -> None:
    make(tmp_path)

    def state() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    before = state()
    with serving(tmp_path) as served:
        for row in served.rows().values():
            assert served.ask(row["href"]).status == 200
    assert state() == before


FOLDERS: dict[str, tuple[strangers.Change, str]] = {
    "not there": (lambda path: None, "does not exist"),
    "a file": (lambda path: path.write_text("x"), "is a file"),
    "empty": (Path.mkdir, "holds no run and no sweep"),
    "of other things": (lambda path: (path / "a" / "b").mkdir(parents=True), "holds no run and no sweep"),
    "with links alone": (lambda path: (path.mkdir(), (path / "x").symlink_to("/")), "holds no run and no sweep"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_is_no_results_folder_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    change, says = FOLDERS[kind]
    change(tmp_path / "x")
    with pytest.raises(RunError, match=says) as told:
        demand(tmp_path / "x")
    assert "flatlens trace" in str(told.value) and "\n" not in str(told.value)


KEYS = ("schema_version", "state", "batches", "labels", "warnings", "seconds", "files")
MANIFESTS = dict(strangers.records("manifest.json", KEYS))
OTHERS = {
    name: change
    for file in ("spec.toml", "digest.json", "report.html", "steps.parquet")
    for name, change in strangers.places(file)
} | {
    f"{file}: {kind}": (lambda folder, file=file, content=content: (folder / file).write_bytes(content))
    for file in ("spec.toml", "digest.json", "report.html")
    for kind, content in strangers.CONTENTS.items()
}


@pytest.mark.parametrize("kind", [*MANIFESTS, *OTHERS])
def test_a_strangers_run_is_a_row_and_a_page_or_one_line(kind: str, small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small, run)
    shutil.copytree(small, tmp_path / "whole")
    strangers.bare(run)
    (MANIFESTS | OTHERS)[kind](run)
    with serving(tmp_path) as served:
        for place, row in served.rows().items():
            assert len(json.dumps(row)) < 20_000
            assert row["state"] in ("finished", "running", "interrupted", "damaged")
            for path in (row["href"], f"/picture/{row['key']}", "/", f"/compare?runs={row['key']}.{row['key'][::-1]}"):
                reply = served.ask(path)
                assert reply.status in (200, 404, 422), (place, path, reply.text[-500:])
                assert "internal:" not in reply.text and "Traceback" not in reply.text


PLANS = {
    "gone": lambda path: path.unlink(),
    "a link": lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
    **{kind: (lambda path, content=content: path.write_bytes(content)) for kind, content in strangers.CONTENTS.items()},
    "dots as a key": lambda path: path.write_text('{"schema_version": 1, "cells": {"../../first": {}}}'),
    "no settings": lambda path: path.write_text('{"schema_version": 1, "cells": {"a1": {}, "b2": {"model": null}}}'),
    "cells that are a link": lambda path: (
        (path.parent / "cells").rename(path.parent / "moved"),
        (path.parent / "cells").symlink_to("moved"),
    ),
    "a cell that is a link": lambda path: (path.parent / "cells" / "x").symlink_to("/"),
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_strangers_sweep_is_a_row_and_a_page_or_one_line(kind: str, tmp_path: Path) -> None:
    make(tmp_path)
    PLANS[kind](tmp_path / "sweep" / "plan.json")
    with serving(tmp_path) as served:
        found = served.rows()
        assert found["first"]["state"] == "finished"
        for row in found.values():
            reply = served.ask(row["href"])
            assert reply.status in (200, 404, 422), (row, reply.text[-500:])


def test_only_flatlens_own_pages_are_sent_as_they_are(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    own = page.read_bytes()
    with serving(tmp_path) as served:
        href = served.rows()["run"]["href"]
        as_it_is = html_file.with_home(own, served.server.name)  # but for the link to the list
        assert served.ask(href).body == as_it_is and not served.server.pages._kept
        for changed in (
            own.replace(b"</body>", b"<script>window.owned = 1</script></body>"),
            own.replace(b"function start(", b"window.owned = 1; function start("),
            b"<!doctype html><script>window.owned = 1</script></html>",
        ):
            assert changed != own
            page.write_bytes(changed)
            reply = served.ask(href)
            assert reply.status == 200 and b"window.owned" not in reply.body
        # Markup before flatlens' own program stays, but the policy names the programs that may run.
        page.write_bytes(own.replace(b"<main>", b"<script>window.owned = 1</script><main>"))
        assert "unsafe-inline'; style" not in served.ask(href).headers["Content-Security-Policy"]
        assert "connect-src" not in served.ask(href).headers["Content-Security-Policy"]
