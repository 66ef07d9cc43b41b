"""Text of others is shown on the terminal, and never sent to it: names of folders, models, classes, stored errors."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flatlens_cli import app, terminal

from flatlens.sweeps import folder as sweep
from tests.edited import plan_of

ODD = {
    "clear the screen": "a\x1b[2Jb",
    "set the title": "a\x1b]0;gone\x07b",
    "a link": "a\x1b]8;;http://x\x1b\\b",
    "C1": "a\x9b2Jb",
    "backspaces": "rm\x08\x08ok",
    "carriage return": "real\rfake",
    "a line of its own": "a\nerror: fake",
    "other line breaks": "a\x0b\x0c\x1c\x85\u2028\u2029b",
    "right to left": "a\u202egpj.exe\u2066\u200fb",
    "invisible": "a\u200b\ufeff\U000e0041b",
    "half of a pair": "a\ud800b",
    "deleted": "a\x7f\x00b",
}
MARKUP = ("[red]a[/red]", "[link=http://x]a[/link]", "[bold", "[/]", ":smile:", "**a**", "\\[a]")


def is_clean(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("text", ODD.values(), ids=list(ODD))
def test_odd_characters_are_written_out(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = terminal.visible(text)
    assert shown.isprintable() and shown.startswith(text[:1]) and shown.endswith(text[-1])
    assert shown.encode("ascii").decode("unicode_escape") == text.replace("\\b", "\b")
    terminal.show(terminal.columns([(text, text)]))
    terminal.show(terminal.columns([(text, text), (text, text)], header=True))
    terminal.show(terminal.note(text))
    terminal.show(terminal.heading(text, first=True))
    terminal.say(text)
    terminal.complain(text)
    said = capsys.readouterr()
    assert is_clean(said.out) and is_clean(said.err)
    assert (said.out + said.err).count(shown) == 10
    terminal.emit({text: [text]})
    said = capsys.readouterr().out
    assert is_clean(said) and json.loads(said) == {text: [text]} and said.count("\n") == 1


@pytest.mark.parametrize("text", [*MARKUP, "Größe 8 × 8 – κ\u00a0=\u202f3", "模型", "😀", "C:\\x"])
def test_other_text_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show(terminal.columns([(text, text)]))
    terminal.show(terminal.note(text))
    terminal.say(text)
    assert capsys.readouterr().out.count(text) == 4


@pytest.fixture(scope="module")
def theirs(small_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of somebody who puts odd text wherever text can be."""
    text = "".join([*ODD.values(), *MARKUP]).replace("\x00", "").replace("\ud800", "")
    base = tmp_path_factory.mktemp("odd")
    folder = base / text.replace("/", "")[:60]
    shutil.copytree(small_sweep, folder)
    plan = plan_of(folder)
    for key, spec in plan["cells"].items():
        spec |= {"model": f"{text}{key}", "data": text, "device": text}
        manifest = json.loads((folder / "cells" / key / "manifest.json").read_text())
        manifest |= {"labels": [text] * 10, "flatlens": text, "warnings": [{"code": text, "message": text}]}
        (folder / "cells" / key / "manifest.json").write_text(json.dumps(manifest))
    first, second, *_ = plan["cells"]
    shutil.rmtree(folder / "cells" / first)
    shutil.rmtree(folder / "cells" / second)
    (folder / "plan.json").write_text(json.dumps(plan))
    found = sweep.Sweep(folder, {})
    found.fail(first, sweep.Failure(text, text, text, 0.0, 1))
    (folder / "locks" / "1-of-1.json").write_text(json.dumps({"pid": text, "host": text, "shard": text, "since": 0}))
    return folder


COMMANDS: list[list[str]] = [
    ["status", "{}"],
    ["status", "{}", "--json"],
    ["report", "{}"],
    ["report", "{}", "--json"],
    ["export", "{}", "--table", "cells"],
    ["export", "{}", "--json"],
    ["report", "{}/locks"],
    ["export", "{}/locks"],
    ["trace", "--config", "{}/sweep.toml"],
    ["sweep", "{}/plan.json", "--out", "x"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_of_a_stranger_s_folder_nothing_is_sent(
    theirs: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with sweep.Sweep(theirs, {}).locks.acquired("1-of-1.supervisor"):
        app.run([word.format(theirs) for word in words])
    said = capsys.readouterr()
    assert said.out + said.err != "" and is_clean(said.out) and is_clean(said.err)
    assert "internal:" not in said.err


def test_nor_to_a_real_terminal(theirs: Path) -> None:
    """Rich's own colours apart, no code is left; a table that is sent to a terminal is shown there, too."""
    key = sorted(entry.name for entry in (theirs / "cells").iterdir())[0]
    file = theirs / "cells" / key / "layers.parquet"
    table = pq.read_table(file)
    odd = pa.array([ODD["clear the screen"] + "[red]"] * table.num_rows)
    pq.write_table(table.set_column(table.column_names.index("status"), "status", odd), file)
    for words in (["status", theirs], ["export", theirs / "cells" / key, "--out", "-", "--table", "layers"]):
        main, other = pty.openpty()
        done = subprocess.Popen([Path(sys.executable).with_name("flatlens"), *words], stdout=other, stderr=other)
        os.close(other)
        said = b""
        while True:
            try:
                said += (got := os.read(main, 65536))
            except OSError:
                break
            if not got:
                break
        assert done.wait() == 0 or b"damaged" in said
        os.close(main)
        text = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).replace("\r\n", "\n")
        assert is_clean(text) and "\\x1b[2J" in text.replace("\n", "")


def test_of_errors_nothing_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ODD.values():
        for words in (
            ["status", text], ["report", text], ["export", text], ["trace", "--model", text, "--data", text],
            ["trace", "--config", text], ["sweep", text], [text], ["trace", text], ["trace", f"--{text}"],
            ["--debug", "status", text], ["export", text, "--format", text], ["layers", "--model", text],
        ):  # fmt: skip
            assert app.run(words) == 2, words
            said = capsys.readouterr()
            assert is_clean(said.err) and said.err and not said.out
            assert "--debug" in words or said.err.count("\n") == 1, words
