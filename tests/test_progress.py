"""The bar of how far work is: in a notebook, on a terminal, and elsewhere, where there is none."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import IPython.display
import pytest
import torch
from rich.console import Console
from torch import nn

import flatlens as fl
from flatlens import progress
from flatlens.progress import Progress

HOSTILE = "<b>layer\x1b[2J"


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is drawn in a notebook, picture by picture."""
    drawn: list[str] = []

    def display(what: Any, display_id: bool) -> Any:
        assert display_id
        drawn.append(what.data)
        return SimpleNamespace(update=lambda new: drawn.append(new.data))

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=IPython.display))
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    return drawn


def test_in_a_notebook(notebook: list[str]) -> None:
    with fl.progress_bar() as bar:
        bar(Progress(0, 4, "a"))
        bar(Progress(1, 4, HOSTILE))
        bar(Progress(4, 4, "c"))
    assert notebook[0] == "<progress></progress> loading" and notebook[-1] == ""
    assert notebook[1].startswith('<progress value="0" max="4"></progress> 0%')
    assert re.fullmatch(
        r'<progress value="1" max="4"></progress> 25%, 0:00 left <span>&lt;b&gt;layer\\x1b\[2J</span>', notebook[2]
    )
    assert "100%" in notebook[3]


def test_it_goes_where_the_work_breaks_off(notebook: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), fl.progress_bar() as bar:
        bar(Progress(1, 4, "a"))
        raise KeyboardInterrupt
    assert notebook[-1] == ""


@pytest.mark.parametrize(("wanted", "pictures"), [(True, 1), (False, 0)])
def test_a_trace_is_followed(notebook: list[str], wanted: bool, pictures: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(6, 4)
    with fl.progress_bar(wanted) as bar:
        fl.trace(model, x, model(x).argmax(1), attack=fl.attacks.PGD(eps=0.1, steps=3), batch_size=2, progress=bar)
    assert len([one for one in notebook if "batch 3 of 3" in one]) >= pictures
    assert wanted or not notebook


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_and_elsewhere(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, legacy_windows=False)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    with fl.progress_bar() as bar:
        bar(Progress(3, 4, HOSTILE))
    assert ("75%" in file.getvalue()) == terminal
    assert ("<b>layer\\x1b[2J" in file.getvalue()) == terminal and "\x1b[2J" not in file.getvalue()


@pytest.mark.parametrize(("seconds", "said"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05")])
def test_clock(seconds: float, said: str) -> None:
    assert progress._clock(seconds) == said
