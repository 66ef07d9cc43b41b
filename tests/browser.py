"""A headless Chromium that opens a page from disk and remembers everything that went wrong in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
MISSING = "no Chromium at {}: apt-get install chromium, or set CHROMIUM to where it is"


def executable() -> str:
    """Where Chromium is; without it a test is skipped, and fails in continuous integration."""
    where = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(where).exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING.format(where))
    return where


@dataclass
class Opened:
    """A page, and its console messages, errors and requests."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def look(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def until(self, condition: str) -> None:
        """Wait half a minute for a condition (the page forbids `eval`, which Playwright's own waiting needs)."""
        again = (
            f"performance.now() < end ? requestAnimationFrame(look) : fail(new Error({condition!r} + ' never came'))"
        )
        look = f"const look = () => ({condition}) ? done() : {again};"
        self.look(f"() => new Promise((done, fail) => {{ const end = performance.now() + 30000; {look} look(); }})")

    def settle(self) -> None:
        """Wait until what was asked to be drawn is drawn: two frames."""
        self.look("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@contextmanager
def chromium() -> Iterator[Any]:
    where = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=where, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Any,
    file: Path,
    *,
    width: int = 1440,
    height: int = 900,
    scheme: str = "light",
    ready: str = "#valley .main-svg",
) -> Iterator[Opened]:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    seen = Opened(page)
    page.on("console", lambda m: seen.problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: seen.problems.append(str(e)))
    page.on("request", lambda r: seen.requests.append(r.url))
    page.goto(file.resolve().as_uri())
    seen.until(f"document.querySelectorAll('{ready}').length > 0")
    seen.settle()
    yield seen
    page.close()
