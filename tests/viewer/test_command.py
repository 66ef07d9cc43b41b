"""`flatlens view` as a command: one line that a script can read, a quiet end, and one line about what cannot be."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from flatlens_cli import app

from tests.swept import COMMAND, killed_afterwards

VERSION1 = Path(__file__).parents[1] / "version1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(VERSION1 / "run", tmp_path / "runs" / "run")
    return tmp_path / "runs"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_it_prints_one_line_serves_and_ends_quietly(root: Path) -> None:
    # Without torch: to look at results needs none.
    code = "import sys; sys.modules['torch'] = None; from flatlens_cli.app import main; main()"
    words = [sys.executable, "-c", code, "view", str(root), "--no-browser"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with killed_afterwards(process):
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[0-9a-f]{64}", address)
        visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"Runs and sweeps" in visitor.open(address, timeout=60).read()
        key = re.search(rb'"href":"(/run/[0-9a-f]+)"', visitor.open(address, timeout=60).read())[1].decode()
        assert b"flatlens-data" in visitor.open(address.partition("/?")[0] + key, timeout=120).read()
        process.send_signal(signal.SIGINT)
        printed, complained = process.communicate(timeout=60)
        assert (process.returncode, printed) == (0, "")
        assert complained.count("\n") == 1 and "Ctrl-C" in complained


CANNOT = {
    "no folder": (["nowhere"], "does not exist: name a folder with results in it"),
    "a file": (["runs/run/spec.toml"], "is a file: name a folder"),
    "an empty folder": (["empty"], "holds no run and no sweep"),
    "a port that is taken": (["runs", "--port", "TAKEN"], "--port TAKEN cannot be had"),
    "a port beyond all": (["runs", "--port", "70000"], "--port 70000 cannot be had"),
    "a port below": (["runs", "--port", "-1"], "--port -1 cannot be had"),
    "a port that is none": (["runs", "--port", "x"], "'x' is not a whole number"),
    "no argument": ([], "missing argument"),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_be_is_one_line(
    kind: str, root: Path, taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, says = CANNOT[kind]
    (root.parent / "empty").mkdir()
    monkeypatch.chdir(root.parent)
    words = [word.replace("TAKEN", str(taken)) for word in words]
    assert app.run(["view", *words, "--no-browser"]) == 2
    out, said = capsys.readouterr()
    assert out == "" and says.replace("TAKEN", str(taken)) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_the_browser_is_opened_unless_told_not_to(
    wanted: bool, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import webbrowser

    from flatlens.viewer.app import Server

    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    assert app.run(["view", str(root), *([] if wanted else ["--no-browser"])]) == 0
    assert opened == ([capsys.readouterr().out.strip()] if wanted else [])


def test_it_is_among_the_commands() -> None:
    done = subprocess.run([*COMMAND, "view", "--help"], capture_output=True, text=True, check=True)
    assert "flatlens view runs" in done.stdout and "--no-browser" in done.stdout
