"""What the README and the site say is run, block by block, as a reader would; what is too dear is at least parsed."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flatlens_cli import app, tracing

from flatlens import datasets
from flatlens.errors import FlatlensError
from flatlens.sweeps import grid
from tests.expected import cautioned

pytestmark = cautioned("flat-because-confident", "low-accuracy", "not-converged")

ROOT = Path(__file__).parents[1]
SITE = sorted(
    file
    for file in (ROOT / "docs").rglob("*.md")
    if not {"_build", "_gallery"} & set(file.parts) and file.name != "commands.md"
)
"""The pages of the site, without the one that is made from the commands."""
PAGES = {str(file.relative_to(ROOT)): file for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]}
PARSED = ("docs/results", "docs/immunization.md")
"""Pages whose blocks take minutes: their commands are parsed, and their Python is compiled."""
QUICK = {
    "trace": {"--limit": "20", "--steps": "8"},
    "robustness": {"--limit": "40"},
    "autopsy": {"--limit": "40"},
    "detect": {"--limit": "40"},
    "reproduce": {"--limit": "40"},
}
"""What a command is given so that it takes seconds, where the page does not say as much."""
SERVES = ("view",)
"""Commands that run until they are stopped."""


MY_MODEL = """from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
"""


def blocks(file: Path) -> Iterator[tuple[str, str]]:
    """The code on a page as (language, text), in its order; indented lines, and those with a dollar, are of a shell."""
    text = file.read_text(encoding="utf-8")
    for fenced, indented in re.findall(r"^```(\w+\n.*?)^```$|((?:^    flatlens [^\n]*\n)+)", text, re.M | re.S):
        if fenced:
            language, _, body = fenced.partition("\n")
            yield language, body
        else:
            yield "shell", indented


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a reader would have: data, and a checkpoint of the model trained on normalised inputs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_model", raising=False)
    data = datasets.load("flatlens:digits?split=all")
    np.savez(tmp_path / "mine.npz", x=data.x, y=data.y)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    )  # fmt: skip
    x, y = (torch.from_numpy(data.x) - 0.3) / 0.35, torch.from_numpy(data.y)
    steps = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        steps.step()
    weights = net.state_dict()
    torch.save(
        {"state_dict": weights, "ema": {k: 0.99 * v for k, v in weights.items()}, "epoch": 3}, tmp_path / "best.pth"
    )
    return tmp_path


def commands(text: str) -> list[list[str]]:
    whole = text.replace("\\\n", " ")
    lines = (line.partition("  #")[0].strip().removeprefix("$ ") for line in whole.splitlines())
    return [
        shlex.split(line)[1:] for line in lines if line.startswith("flatlens ") and not line.startswith("flatlens --")
    ]


def quick(words: list[str]) -> list[str]:
    more = QUICK.get(words[0], {}) if "--samples" not in words else {}
    return [*words, *(word for flag, value in more.items() if flag not in words for word in (flag, value))]


demos: list[Path] = []
"""Where `flatlens demo` has left its folder: three pages begin with it, and it is the same each time."""


def done(words: list[str]) -> int:
    """Run a command; its exit code."""
    if words[0] != "demo" or "--text" in words:
        return app.run(words)
    out = Path(words[words.index("--out") + 1])
    if demos:
        shutil.copytree(demos[0], out)
        return 0
    demos.append(out.absolute())
    return app.run(words)


RUN = [name for name in PAGES if not name.startswith(PARSED) and list(blocks(PAGES[name]))]


@pytest.mark.parametrize("name", RUN)
def test_every_block_runs(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Any] = {"__name__": "page"}
    monkeypatch.setitem(tracing.TEXT_DEMO, "steps", 15)
    found = list(blocks(PAGES[name]))
    # A file is there before the block that uses it, whatever their order on the page.
    (place / "my_model.py").write_text(MY_MODEL, encoding="utf-8")
    for language, body in found:
        if language == "python" and (file := re.match(r"# (\w+\.py)\n", body)):
            (place / file[1]).write_text(body, encoding="utf-8")
        if language == "toml":
            (place / "mine.toml").write_text(body, encoding="utf-8")
    for language, body in found:
        if language == "python" and not re.match(r"# \w+\.py\n", body):
            exec(compile(body, f"<{name}>", "exec"), known)
        if language == "shell":
            for words in commands(body):
                if words[0] not in SERVES:
                    assert done(quick(words)) == 0, (words, capsys.readouterr().err)


def parsed(words: list[str]) -> None:
    """Let the command line read a command, without running it."""
    from typer.main import get_command

    whole: Any = get_command(app.application())
    whole.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_one(name: str) -> None:
    """Also of pages whose commands take minutes; a command with … in it stands for many."""
    text = PAGES[name].read_text(encoding="utf-8")
    inline = re.findall(r"`(flatlens [a-z]+ -[^`]*)`", text)
    for words in commands("\n".join([*inline, *(body for language, body in blocks(PAGES[name]))])):
        if "…" not in words and not any(word.startswith(("[", "…")) for word in words):
            parsed(words)
    for language, body in blocks(PAGES[name]):
        if language == "python":
            compile(body, name, "exec")


def test_a_command_that_is_none_is_found() -> None:
    from typer._click.exceptions import UsageError

    with pytest.raises(UsageError):
        parsed(["trace", "--no-such-flag"])


def test_the_sweep_files_are_sweeps() -> None:
    for file in (ROOT / "docs" / "sweeps.md", ROOT / "docs" / "your-own.md"):
        for body in re.findall(r"^```toml\n(.*?)^```$", file.read_text(encoding="utf-8"), re.M | re.S):
            assert len(grid.cells_of(grid.parse_toml(body, file), trust_code=True).cells) > 1


def test_a_run_from_python_can_be_drawn_and_exported_but_not_run_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import flatlens as fl

    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    made = fl.trace(net, x, y, attack="pgd", layers="all", out="runs/mine")
    opened = fl.open("runs/mine")
    assert opened.steps.equals(made.steps) and opened.layers.equals(made.layers)
    assert np.array_equal(opened.x_adv, made.x_adv) and opened.cautions == made.cautions
    assert opened.spec["model"] == "object:Sequential" and opened.spec["attack"] == "pgd"
    for words in (["report", "runs/mine"], ["status", "runs/mine"], ["export", "runs/mine", "--images"]):
        assert app.run(words) == 0
    assert "1 of 1 batches" in capsys.readouterr().out
    assert app.run(["trace", "--config", "runs/mine/spec.toml", "--out", "runs/again"]) == 2, capsys.readouterr().err
    said = capsys.readouterr().err
    assert (
        "this run was made in Python" in said and "only its script can run it again" in said and said.count("\n") == 1
    )
    with pytest.raises(FlatlensError, match="holds a run already"):
        fl.trace(net, x, y, out="runs/mine")
    with pytest.raises(FlatlensError, match="holds a run already"):
        made.save("runs/mine")
    made.save("runs/mine", force=True)
    (place / "other").mkdir()
    (place / "other" / "thesis.tex").write_text("x")
    with pytest.raises(FlatlensError, match="holds other files and no run"):
        made.save("other", force=True)
