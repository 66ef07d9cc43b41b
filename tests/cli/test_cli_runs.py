"""The command line as a process: what it imports, colours, signals, and runs that are gone on with."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from flatlens_cli import app

COMMAND = [str(Path(sys.executable).with_name("flatlens"))]
RUN = ["trace", "--model", "flatlens:digits-cnn", "--data", "flatlens:digits", "--limit", "100", "--batch-size", "4",
       "--eps", "0.3", "--steps", "20", "--control", "line-to-other-class"]  # fmt: skip
SMALL = [*RUN[:5], "--limit", "6", "--eps", "0.3", "--steps", "3"]


def run(*words: object, command: list[str] = COMMAND, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "80"} | environment,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run(*RUN, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    return out


# ---- signals ------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_the_same_command_goes_on_with_a_run_that_was_stopped(uninterrupted, tmp_path, blow):
    out = tmp_path / "run"
    with subprocess.Popen(
        [*COMMAND, *RUN, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and len(list(out.glob("parts/*.steps.parquet"))) < 3:
            time.sleep(0.002)
        assert process.poll() is None, "finished before it could be stopped"
        process.send_signal(blow)
        printed, complained = process.communicate()
    if blow == signal.SIGINT:
        saved = len(list(out.glob("parts/*.steps.parquet")))
        assert process.returncode == 130
        assert complained == f"interrupted: {saved} of 25 batches are saved; the same command goes on from there\n"
        assert printed == ""
    assert json.loads((out / "manifest.json").read_text())["state"] == "running"
    untouched = {file: file.stat().st_mtime_ns for file in out.glob("parts/*.steps.parquet")}
    assert 3 <= len(untouched) < 25

    early = run("report", out)
    assert early.returncode == 2
    assert "is not finished" in early.stderr

    done = run(*RUN, "--out", out, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == "resumed"
    for name in ("steps.parquet", "layers.parquet"):
        assert pq.read_table(out / name).equals(pq.read_table(uninterrupted / name))
    assert (out / "report.html").stat().st_size > 100_000
    if blow == signal.SIGINT:
        assert not list(out.glob(".*")), "temporary files were left"


def test_another_spec_is_refused_with_the_difference_unless_forced(tmp_path):
    out = tmp_path / "run"
    first = run(*SMALL, "--out", out, "--json")
    assert (first.returncode, json.loads(first.stdout)["resumed"]) == (0, "new")
    again = run(*SMALL, "--out", out)
    assert again.returncode == 0
    assert again.stderr == f"nothing to do: '{out}' holds this run, finished\n"
    other = run(*SMALL, "--steps", "4", "--out", out)
    assert other.returncode == 2
    assert "steps 4 instead of 3" in other.stderr
    forced = run(*SMALL, "--steps", "4", "--out", out, "--force", "--json")
    assert json.loads(forced.stdout)["spec"]["steps"] == 4


def test_a_runs_spec_reruns_it(uninterrupted, tmp_path):
    done = run("trace", "--config", uninterrupted / "spec.toml", "--out", tmp_path / "again", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    again, first = (pq.read_table(folder / "layers.parquet") for folder in (tmp_path / "again", uninterrupted))
    assert again.equals(first)


def test_several_runs_share_a_page(uninterrupted, tmp_path):
    page = tmp_path / "both.html"
    done = run("report", uninterrupted, uninterrupted, "--out", page)
    assert (done.returncode, done.stdout) == (0, f"report   {page}\n")
    assert "<html" in page.read_text()[:2000]


# ---- what is printed where ----------------------------------------------------------------------


def test_a_run_without_a_terminal_prints_its_summary_and_no_escape_codes(tmp_path):
    done = run(*SMALL, "--out", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("model     flatlens:digits-cnn\n")
    assert "\x1b" not in done.stdout


def test_json_is_alone_on_stdout_also_when_a_model_prints(tmp_path):
    (tmp_path / "talker.py").write_text(
        "import torch\nprint('imported')\n"
        "def make():\n    print('made')\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    words = ["--model", f"{tmp_path / 'talker.py'}:make", *SMALL[3:], "--out", tmp_path / "run", "--json"]
    done = run("trace", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layer"] == "head"
    assert "made" in done.stderr


def on_a_terminal(*words: object, **environment: str) -> str:
    """What appears on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    known = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=known | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait() == 0, seen
    return seen.decode()


def test_a_terminal_sees_a_bar_with_what_is_done_and_colours(tmp_path):
    seen = on_a_terminal(*SMALL, "--out", tmp_path / "run")
    assert "attack, batch 1 of 1" in seen
    assert "100%" in seen
    assert "\x1b[36mmodel" in seen


def test_no_color_is_kept(tmp_path):
    seen = on_a_terminal(*SMALL, "--out", tmp_path / "run", NO_COLOR="1")
    assert "\x1b[3" not in seen
    assert "accuracy" in seen


def test_quiet_shows_no_bar(tmp_path):
    assert on_a_terminal(*SMALL, "--out", tmp_path / "run", "--quiet") == ""


def test_a_pipe_that_is_closed_early_is_silent():
    done = subprocess.run(
        f"{COMMAND[0]} attacks | true; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_help_in_a_pipe_has_no_escape_codes():
    done = run("--help")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


# ---- what is imported ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], ("torch", "numpy", "pyarrow", "plotly", "pandas", "packaging", "flatlens.specs.run")),
        (["--help"], tuple(f"flatlens_cli.{verb.module}" for verb in app.VERBS.values())),
        (["trace", "--help"], ("flatlens_cli.sweeping", "flatlens_cli.doctor", "packaging")),
        (["trace", "--help"], ("torch", "numpy", "pyarrow", "plotly", "pandas")),
        (["attacks"], ("torch", "numpy", "pyarrow", "plotly", "pandas")),
        (["models"], ("torch", "pyarrow", "plotly", "pandas")),
        (["datasets"], ("torch", "pyarrow", "plotly", "pandas")),
        (["report", "nowhere"], ("torch", "pandas")),
    ],
)
def test_a_command_imports_no_more_than_it_needs(words, absent):
    code = (
        "import sys; from flatlens_cli import app; app.run(sys.argv[1:]); "
        f"print([name for name in {absent!r} if name in sys.modules], file=sys.stderr)"
    )
    done = run(*words, command=[sys.executable, "-c", code])
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", app.VERBS)
def test_a_command_is_listed_by_the_first_line_of_its_own_help(name):
    verb = app.VERBS[name]
    command = getattr(import_module(f"flatlens_cli.{verb.module}"), name)
    assert verb.summary == command.__doc__.partition("\n")[0]


def test_drawing_a_report_needs_no_torch(uninterrupted, tmp_path):
    code = "import sys; sys.modules['torch'] = None; from flatlens_cli import app; sys.exit(app.run(sys.argv[1:]))"
    done = run("report", uninterrupted, "--out", tmp_path / "page.html", command=[sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr


def test_python_m_flatlens_is_the_same_command():
    done = run("--version", command=[sys.executable, "-m", "flatlens"])
    assert done.stdout == run("--version").stdout
