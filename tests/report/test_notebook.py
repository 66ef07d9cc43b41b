"""What a notebook keeps of a trace: a picture and a table, small, without a program; names of anybody's are text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flatlens.records.schema import Caution
from flatlens.report import notebook
from tests.browser import chromium
from tests.synthetic import make_trace

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>&<!--"
ALL = ("line-to-other-class", "line-to-end", "gaussian-noise", "uniform-noise", "random-signs")
TRACES: dict[str, dict[str, Any]] = {
    "as they are": {},
    "long": {"n": 30, "steps": 1000, "controls": ALL},
    "many paths": {"n": 12, "steps": 60, "controls": tuple(f"path-{i}" for i in range(60))},
    "one step": {"steps": 1},
    "one sample": {"n": 1, "steps": 5},
    "no flips": {"flips": False},
    "no controls": {"controls": ()},
    "no inputs": {"images": "none"},
    "hostile": {
        "model": HOSTILE, "attack": HOSTILE, "name": HOSTILE, "layers": (HOSTILE,),
        "controls": (HOSTILE, "line-to-end"), "cautions": (Caution(HOSTILE, HOSTILE),),
    },
    "long texts": {
        "model": "x" * 50_000, "layers": ("y" * 9_000,), "controls": ("z" * 9_000,),
        "cautions": tuple(Caution("long", "w" * 9_000) for _ in range(50)),
    },
}  # fmt: skip


class Parts(HTMLParser):
    """The elements, attributes and texts of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("kind", TRACES)
def test_it_is_small_and_has_no_program(kind: str) -> None:
    trace = make_trace(**{"n": 20, "steps": 12} | TRACES[kind])
    text = trace._repr_html_()
    assert len(text.encode()) <= notebook.MOST_BYTES
    ElementTree.fromstring(text)  # well formed: every element ends, every text is escaped
    parts = Parts(text)
    known = {"div", "p", "svg", "clippath", "rect", "g", "path", "text", "table", "caption", "tr", "th", "td"}
    assert set(parts.elements) <= known and {"table", "svg"} <= set(parts.elements)
    for name, value in parts.attributes:
        assert not name.startswith("on") and name not in ("href", "src"), name
        assert "url(" not in (value or "") or re.fullmatch(r"url\(#flatlens-[0-9a-f]{12}\)", value or "")
        assert "var(" not in (value or "")  # a notebook has none of the page's colours
    # Its own background and its own ink, so that a dark notebook is as readable as a light one.
    first = re.search(r'style="([^"]*)"', text)[1]
    assert "background:#ffffff" in first and "color:#141b26" in first
    assert "%" in "".join(parts.texts) or kind in ("no flips", "one sample", "one step")


def test_the_table_says_what_valley_says() -> None:
    trace = make_trace(40, 20)
    text = "\n".join(Parts(trace._repr_html_()).texts)
    for path in trace.paths:
        found = trace.valley(path=path).summary()
        assert f"{found.flipped.count} of {found.flipped.n}" in text
        if (share := found.valley_of_flipped).n:
            assert f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]" in text


def test_two_pictures_share_no_id() -> None:
    ids = [re.search(r'<clipPath id="([^"]+)"', make_trace(10, 8, seed=seed)._repr_html_())[1] for seed in (0, 1)]
    assert ids[0] != ids[1]


def test_a_trace_without_rows_says_so() -> None:
    trace = make_trace(4, 3)
    empty = type(trace)(trace.steps.slice(0, 0), trace.layers.slice(0, 0), trace.spec)
    assert "0 samples" in empty._repr_html_() and "<svg" not in empty._repr_html_()


def test_a_long_curve_keeps_its_peak() -> None:
    from flatlens.report import page

    full, few = (page.picture(make_trace(30, 1000), variables=False, points=points) for points in (None, 100))
    highest = [min(float(y) for y in re.findall(r"[ML][\d.]+ (-?[\d.]+)", text)) for text in (full, few)]
    assert len(few) < len(full) / 4 and highest[0] == highest[1]


def test_its_page_is_in_a_frame_that_reaches_nothing() -> None:
    trace = make_trace(6, 5, model=HOSTILE, name=HOSTILE)
    text = trace.view(height=700)._repr_html_()
    parts = Parts(text)
    found = dict(parts.attributes)
    assert parts.elements == ["iframe"] and found["sandbox"] == "allow-scripts allow-downloads"
    assert "height:700px" in found["style"] and found["srcdoc"].startswith("<!doctype html>")
    assert HOSTILE in unescape(found["title"]) and "Trace(" in repr(trace.view())


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_can_be_seen(tmp_path: Path, scheme: str) -> None:
    trace = make_trace(12, 8, model=HOSTILE, name=HOSTILE, controls=(HOSTILE, "line-to-end"))
    notebook_file = tmp_path / "notebook.html"
    notebook_file.write_text(f"<!doctype html><title>n</title>{trace._repr_html_()}{trace.view()._repr_html_()}")
    with chromium() as browser:
        page = browser.new_page(color_scheme=scheme)
        problems: list[str] = []
        requests: list[str] = []
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("request", lambda r: requests.append(r.url))
        page.goto(notebook_file.as_uri())
        assert page.locator("svg").first.bounding_box()["width"] > 400
        frame = page.frames[1]
        frame.wait_for_selector("html[data-ready]", timeout=120_000)
        before = frame.evaluate("flatlens.state.sample")
        frame.click("#next")
        assert frame.evaluate("flatlens.state.sample") != before
        assert page.evaluate("window.owned") is None and frame.evaluate("window.owned") is None
        assert problems == [] and {url.partition(":")[0] for url in requests} <= {"file", "about", "data", "blob"}
