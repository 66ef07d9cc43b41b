"""What the tests of the page take from tests/web: the program that looks for barriers to readers with disabilities."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

AXE = Path(__file__).parent / "web/node_modules/axe-core/axe.min.js"


def axe() -> str:
    """axe-core's source; without it a test is skipped, and fails in continuous integration."""
    if not AXE.exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no axe-core: tests/web/run install")
    return AXE.read_text(encoding="utf-8")
