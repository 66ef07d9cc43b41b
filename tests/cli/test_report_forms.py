"""`flatlens report` as a picture and as a folder for a web server, and what it refuses."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from flatlens_cli import app

from flatlens.errors import ResourceError, UsageError
from flatlens.report import formats, stills
from tests import assets
from tests.browser import chromium, executable
from tests.synthetic import make_trace

VERSION1 = Path(__file__).parents[1] / "version1"
HOSTILE = "<script>window.owned=1</script><img src=x onerror=window.owned=1>&"
BEGINS = {"svg": b"<svg", "png": b"\x89PNG\r\n", "pdf": b"%PDF-"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forms")
    make_trace(20, 10, controls=("line-to-other-class", HOSTILE)).save(root / "run")
    shutil.copytree(VERSION1 / "sweep", root / "sweep")
    return root


@pytest.mark.browser
@pytest.mark.parametrize("format", sorted(BEGINS))
def test_a_picture_is_what_it_says(
    format: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assets.package("kaleido", "pip install 'flatlens[pictures]'")
    monkeypatch.setenv("BROWSER_PATH", executable())
    assert app.run(["report", str(place / "run"), "--format", format, "--json"]) == 0
    file = Path(json.loads(capsys.readouterr().out)["report"])
    content = file.read_bytes()
    assert file == place / "run" / f"report.{format}" and content.startswith(BEGINS[format]) and len(content) > 5_000
    assert os.environ["BROWSER_PATH"] == executable()
    if format == "svg":
        names = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(content).iter()}
        assert not names & {"script", "foreignObject", "img"} and b"prediction right" in content
    if format == "png":
        assert [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)] == [2 * stills.WIDTH, 2 * stills.HEIGHT]


MISSING = {
    "no kaleido": "pip install 'flatlens[pictures]'",
    "no browser": "install chromium",
    "a browser that is none": "no program",
    "a browser that fails": "could not draw it",
}


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("format", ["png", "svg"])
def test_what_is_missing_is_named_and_svg_does_without(
    kind: str, format: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = make_trace(10, 8)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    if kind == "no kaleido":
        monkeypatch.setitem(__import__("sys").modules, "kaleido", None)
    else:
        assets.package("kaleido", "pip install 'flatlens[pictures]'")
    if kind == "no browser":
        monkeypatch.setenv("PATH", str(tmp_path))
    if kind == "a browser that is none":
        monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    if kind == "a browser that fails":
        import kaleido

        monkeypatch.setenv("BROWSER_PATH", shutil.which("true"))

        def fail(*_: object, **__: object) -> bytes:
            raise RuntimeError("it has ended\nin two lines")

        monkeypatch.setattr(kaleido, "calc_fig_sync", fail)
    file = tmp_path / f"picture.{format}"
    if format == "svg" and kind != "a browser that fails":
        stills.write(trace, file, format)
        ElementTree.fromstring(file.read_bytes())
        assert 'fill="#ffffff"' in file.read_text() and "var(" not in file.read_text()
        return
    with pytest.raises((UsageError, ResourceError), match=re.escape(MISSING[kind])) as told:
        stills.write(trace, file, format)
    assert "\n" not in str(told.value) and not file.exists()


REFUSED = {
    "no such format": (["run", "--format", "gif"], "no format 'gif'; known: html, svg, png, pdf"),
    "nearly a format": (["run", "--format", "PNG"], "Did you mean 'png'?"),
    "a picture of two": (["run", "run", "--format", "png"], "the picture of one run"),
    "a picture of a sweep": (["sweep", "--format", "svg"], "is a sweep"),
    "a folder of a picture": (["run", "--format", "svg", "--folder", "out"], "--folder is of pages"),
    "a folder and a file": (["run", "--folder", "out", "--out", "x.html"], "are two places"),
    "a folder with other things": (["run", "--folder", "run"], "holds other files"),
    "a sweep's folder with other things": (["sweep", "--folder", "run"], "holds other files"),
    "a folder that is a file": (["run", "--folder", "run/spec.toml"], "is a file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_one_line(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, says = REFUSED[kind]
    monkeypatch.chdir(place)
    assert app.run(["report", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (place / "out").exists()


@pytest.mark.browser
def test_a_folder_can_be_hosted(place: Path, tmp_path: Path) -> None:
    for name in ("run", "sweep"):
        assert app.run(["report", str(place / name), "--folder", str(tmp_path / name), "--quiet"]) == 0
        assert app.run(["report", str(place / name), "--folder", str(tmp_path / name), "--quiet"]) == 0  # again
    cells = sorted(path.name for path in (place / "sweep" / "cells").iterdir())
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {
        "run/index.html", "run/plotly.min.js", "sweep/index.html", "sweep/plotly.min.js",
        *(f"sweep/cells/{key}/report.html" for key in cells),
    }  # fmt: skip

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    problems: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.goto(f"{base}/run/")
        page.wait_for_selector("#valley .main-svg", timeout=120_000)
        assert page.evaluate("window.owned") is None
        page.goto(f"{base}/sweep/")
        page.wait_for_selector("#runs a", timeout=120_000)
        page.click("#runs a")
        page.wait_for_selector("#valley .main-svg", timeout=120_000)
    server.shutdown()
    server.server_close()
    assert problems == []


def test_a_damaged_cell_has_a_row_and_no_page(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "sweep", tmp_path / "sweep")
    first, second = sorted((tmp_path / "sweep" / "cells").iterdir())
    (first / "steps.parquet").write_bytes(b"PAR1")
    assert app.run(["report", str(tmp_path / "sweep"), "--folder", str(tmp_path / "out"), "--quiet"]) == 0
    assert [path.parent.name for path in (tmp_path / "out").glob("cells/*/report.html")] == [second.name]


def test_the_shell_knows_the_formats() -> None:
    from flatlens_cli import completing

    assert [name for name, _ in completing.PAGE_FORMAT("")] == list(formats.FORMATS)
