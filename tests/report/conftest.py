"""One Chromium for a module's tests, and the page of its `trace` kept open between them."""

from __future__ import annotations

import pytest

from flatlens.report import page
from tests.browser import chromium, opened


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(trace, tmp_path_factory):
    return page.write([trace], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def kept_open(browser, file):
    with opened(browser, file) as found:
        found.look("() => { window.begun = structuredClone(flatlens.state); }")
        yield found


@pytest.fixture
def it(kept_open):
    """One page for many tests, as it was when it was opened."""
    kept_open.page.set_viewport_size({"width": 1440, "height": 900})
    kept_open.look("() => { flatlens.change(begun); scrollTo(0, 0); document.activeElement.blur(); }")
    kept_open.settle()
    yield kept_open
    assert kept_open.problems == []
