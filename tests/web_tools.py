"""What the tests of the page take from tests/web: the program that looks for barriers to readers with disabilities."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parent / "web/node_modules/axe-core/axe.min.js"


def axe() -> str:
    """axe-core's source; without it a test is skipped, and fails in continuous integration."""
    if not AXE.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no axe-core: tests/web/run install")
    return AXE.read_text(encoding="utf-8")


def barriers(look: Callable[[str], Any]) -> list[Any]:
    """What axe finds on a page that is open: rule, impact and elements of each violation."""
    look(axe() + ";0")
    found: list[Any] = look(
        "async () => (await axe.run()).violations.map((v) => [v.id, v.impact, v.nodes.map((n) => n.html.slice(0, 99))])"
    )
    return found
