"""What a notebook keeps of a trace: a picture and a table, small, without a program; names of anybody's are text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import fields
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from flatlens.hessian import Curvature
from flatlens.records.schema import Caution
from flatlens.report import notebook
from flatlens.specs.run import RunSpec
from flatlens.sweeps.folder import Sweep
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


def sweep(folder: Path, count: int = 3, name: str = "mine") -> Sweep:
    """A sweep of so many runs, of which one is finished and one has failed."""
    cells = [RunSpec(model=HOSTILE, data="flatlens:digits", seed=seed, name=f"{name} {seed}") for seed in range(count)]
    made = Sweep(folder, {f"{seed:064x}": spec.to_dict() for seed, spec in enumerate(cells)})
    (folder / "cells" / f"{0:064x}").mkdir(parents=True)
    (folder / "failed").mkdir()
    (folder / "failed" / f"{1:064x}.json").write_text("{}")
    return made


def curvature(n: int = 5) -> Curvature:
    values = torch.arange(n, dtype=torch.float64)
    names = [one.name for one in fields(Curvature) if one.name not in ("method", "exact", "spectrum")]
    known = dict.fromkeys(names, values) | {"trace": torch.full((n,), torch.nan, dtype=torch.float64)}
    return Curvature("closed-form", True, **known, spectrum=torch.rand(n, 3))


OTHERS: dict[str, Callable[[Path], Any]] = {
    "a sweep": lambda folder: sweep(folder, name=HOSTILE),
    "a long sweep": lambda folder: sweep(folder, 3000),
    "curvature": lambda folder: curvature(),
    "curvature of nothing": lambda folder: curvature(0),
    "a specification": lambda folder: RunSpec(model=HOSTILE, data=HOSTILE, name=HOSTILE, eps=0.1),
    "a long specification": lambda folder: RunSpec(model="x" * 9_000, data="flatlens:digits"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_small_and_have_no_program_either(kind: str, tmp_path: Path) -> None:
    shown = OTHERS[kind](tmp_path / "sweep")
    text = shown._repr_html_()
    assert len(text.encode()) <= notebook.MOST_BYTES and len(repr(shown)) < 1_000 and "\n" not in repr(shown)
    ElementTree.fromstring(text)
    parts = Parts(text)
    assert set(parts.elements) <= {"div", "p", "table", "caption", "tr", "th", "td", "pre", "br"}
    assert {name for name, _ in parts.attributes} <= {"style"}
    if kind in ("a sweep", "a specification"):
        assert HOSTILE in "".join(parts.texts) and "<script" not in text


def test_a_sweep_says_how_far_it_is(tmp_path: Path) -> None:
    made = sweep(tmp_path / "sweep")
    assert repr(made) == f"Sweep('{tmp_path / 'sweep'}': 3 runs, 1 done, 1 failed, 1 waiting)"
    texts = Parts(made._repr_html_()).texts
    assert [text for text in texts if text in ("done", "failed", "waiting")] == ["done", "failed", "waiting"]
    assert "and 2,960 more" in Parts(sweep(tmp_path / "long", 3000)._repr_html_()).texts
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "cells").write_text("no folder")
    damaged = Sweep(tmp_path / "damaged", made.plan)
    assert (
        repr(damaged).endswith("3 runs, in a folder that cannot be read)") and "cannot be read" in damaged._repr_html_()
    )


def test_curvature_says_medians_of_what_is_finite() -> None:
    said = "Curvature(5 points, closed-form, exact; medians: relative_flatness 2, trace nan, top_eigenvalue 2)"
    assert repr(curvature()) == said
    texts = Parts(curvature()._repr_html_()).texts
    place = texts.index("relative_flatness")
    assert texts[place + 1 : place + 5] == ["2", "1", "3", "5"]
    place = texts.index("trace")
    assert texts[place + 1 : place + 5] == ["–", "–", "–", "0"]


def test_a_specification_says_what_was_asked_for() -> None:
    spec = RunSpec(model="m", data="d", layer=("conv1",), eps=0.1)
    assert repr(spec) == "RunSpec(model='m', data='d', eps=0.1, layer=('conv1',))"
    assert eval(repr(spec), {"RunSpec": RunSpec}) == spec
    assert "".join(f"{text}\n" for text in Parts(spec._repr_html_()).texts) == spec.to_toml()


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
