"""The link from a served page back to the list: there where a page is served, and in no file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

import pytest

from flatlens.records import runs
from flatlens.report import html_file, page
from tests.browser import chromium
from tests.served import Served, make, serving
from tests.synthetic import make_trace

NAME = "<img src=x onerror=window.owned=1>&'\""
LINK = re.compile(r'<a class="home" href="/"[^>]*>← <bdi>(.*?)</bdi></a>')


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = make(tmp_path_factory.mktemp("back") / NAME)
    page.write([runs.load(root / "first").trace()], root / "first" / "report.html")
    with serving(root) as found:
        yield found


def places(served: Served) -> dict[str, str]:
    """What is asked for, by kind of page."""
    rows = served.rows()
    cell = next(row for row in rows.values() if row["kind"] == "cell")
    keys = [rows[name]["key"] for name in ("first", "deep/er/second")]
    return {
        "a run whose file is there": rows["first"]["href"],
        "a run that is drawn": rows["deep/er/second"]["href"],
        "a run under way": rows["half"]["href"],
        "a sweep": rows["sweep"]["href"],
        "a cell": cell["href"],
        "a comparison": f"/compare?runs={'.'.join(keys)}",
    }


KINDS = ["a run whose file is there", "a run that is drawn", "a run under way", "a sweep", "a cell", "a comparison"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_served_page_has_one_link_to_the_list(kind: str, served: Served) -> None:
    reply = served.ask(places(served)[kind])
    assert reply.status == 200 and LINK.findall(reply.text) == [escape(NAME)]
    assert served.ask(places(served)[kind], method="HEAD").headers["Content-Length"] == str(len(reply.body))


def test_a_file_has_none_and_is_left_as_it_is(served: Served) -> None:
    file = served.server.folder.root / "first" / "report.html"
    before = file.read_bytes()
    sent = served.ask(places(served)["a run whose file is there"]).body
    assert file.read_bytes() == before and b'href="/"' not in before
    # Nothing but the link was put in: neither the program nor the policy is another one.
    assert LINK.sub(html_file.HOME, sent.decode()).encode() == before


def test_neither_the_list_nor_a_picture_inside_a_page_leads_to_the_list(served: Served) -> None:
    key = served.rows()["half"]["key"]
    for path in ("/", f"/picture/{key}"):
        reply = served.ask(path)
        assert reply.status == 200 and not LINK.search(reply.text)


def test_a_page_without_a_place_for_it_is_sent_as_it_is() -> None:
    assert html_file.with_home(b"<!doctype html></html>", "runs") == b"<!doctype html></html>"
    text = page.document([make_trace(4, 3, name=html_file.HOME)])
    assert html_file.with_home(text.encode(), "runs").count(b'class="home"') == 1


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_link_is_followed_and_the_policy_is_content(served: Served, width: int) -> None:
    problems: list[str] = []
    with chromium() as browser:
        tab: Any = browser.new_page(viewport={"width": width, "height": 844})
        tab.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: problems.append(str(e)))
        tab.goto(served.server.address)
        for kind in KINDS:
            tab.goto(served.base + places(served)[kind])
            tab.wait_for_selector("html[data-ready]", timeout=120_000)
            box = tab.locator("a.home").bounding_box()
            assert box["height"] >= 24 and box["x"] >= 0 and box["x"] + box["width"] <= width, kind
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, kind
            tab.focus("a.home")
            tab.keyboard.press("Enter")
            tab.wait_for_selector("#list tbody tr")
            assert tab.evaluate("location.pathname") == "/" and tab.evaluate("window.owned ?? null") is None
    assert problems == []
