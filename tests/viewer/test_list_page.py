"""The list in a browser: found, sorted, chosen and compared by the keyboard alone; names of anybody's are text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flatlens.records.schema import Caution
from tests.browser import chromium
from tests.edited import plan_of
from tests.served import VERSION1, Served, make, serving
from tests.synthetic import make_trace
from tests.web_tools import axe

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>&<!--\u202e"
NAME = "<img src=x onerror=window.owned=1>&\u202e'\""


FOCUSED = """(() => {
  const here = document.activeElement;
  return here === document.body ? "" : `${here.getAttribute("aria-label") ?? ""}|${here.innerText}`;
})()"""
SMALL = """[...document.querySelectorAll("a:not(.skip), button, input, summary, select")]
  .filter((e) => e.offsetParent && !e.closest("label") && e.getBoundingClientRect().height < 24)
  .map((e) => e.outerHTML)"""
"""What is harder to hit than 24 pixels; a check box is as large as its label."""


class Tab:
    """A page of the server, with all that went wrong in it and all that it asked for."""

    def __init__(self, served: Served, page: Any) -> None:
        self.served, self.page, self.problems, self.requests = served, page, [], []
        page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.problems.append(str(e)))
        page.on("request", lambda r: self.requests.append(r.url))

    def open(self, path: str = "") -> None:
        self.page.goto(f"{self.served.base}{path}" if path else self.served.server.address)
        self.page.wait_for_selector("html[data-ready]", timeout=120_000)

    def names(self) -> list[str]:
        return self.page.evaluate("[...document.querySelectorAll('tbody th a')].map((a) => a.textContent)")

    def said(self) -> str:
        return self.page.evaluate("document.getElementById('live').textContent")

    def focus(self, label: str) -> None:
        """Press Tab until something with this text or label has the focus."""
        for _ in range(80):
            self.page.keyboard.press("Tab")
            said = self.page.evaluate(FOCUSED)
            if label in re.split(r"[|↑↓\n]", said.replace(" ↑", "").replace(" ↓", "")):
                return
        pytest.fail(f"'{label}' is not reached")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(make(tmp_path_factory.mktemp("listed"))) as found:
        yield found


@pytest.fixture
def tab(browser: Any, served: Served) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    found = Tab(served, context.new_page())
    yield found
    context.close()
    assert found.problems == []
    assert all(url.startswith((served.base, "data:", "blob:")) for url in found.requests)


@pytest.mark.browser
def test_the_keyboard_finds_sorts_chooses_and_compares(tab: Tab) -> None:
    tab.open()
    assert "token" not in tab.page.url
    keys = tab.page.keyboard
    assert set(tab.names()) == {"first", "deep/er/second", "sweep", "half"}
    tab.focus("name")
    keys.press("Enter")
    assert tab.names() == ["deep/er/second", "first", "half", "sweep"]
    assert tab.page.get_attribute("th[aria-sort='ascending']", "aria-sort") == "ascending"
    keys.press("Enter")  # the focus has stayed
    assert tab.names() == ["sweep", "half", "first", "deep/er/second"]
    tab.focus("Choose first")
    keys.press("Space")
    assert tab.said() == "1 chosen" and tab.page.is_disabled("#compare")
    tab.focus("Choose deep/er/second")
    keys.press("Space")
    assert tab.page.inner_text("#compare") == "Compare 2"
    tab.page.evaluate("document.body.focus(); document.activeElement.blur()")
    tab.focus("Compare 2")
    keys.press("Enter")
    tab.page.wait_for_url("**/compare?runs=*")
    tab.page.wait_for_selector("html[data-ready]", timeout=120_000)
    assert tab.page.evaluate("flatlens.data.runs.length") == 2


@pytest.mark.browser
def test_what_is_typed_and_pressed_stands_in_the_address(tab: Tab) -> None:
    tab.open()
    tab.page.fill("#find", "SECOND")
    assert tab.names() == ["deep/er/second"] and tab.said() == "1 of 4 shown"
    tab.page.reload()
    tab.page.wait_for_selector("html[data-ready]")
    assert tab.names() == ["deep/er/second"] and tab.page.input_value("#find") == "SECOND"
    tab.page.fill("#find", "")
    tab.page.click("text=cells, too")
    assert len(tab.names()) == 6
    tab.page.click("#states >> text=interrupted")
    assert tab.names() == ["half"]
    for hostile in ("#o=__proto__&f=constructor", "#q=%E0%A4%A&f=%00", "#" + "x" * 5000):
        tab.page.evaluate("(hash) => { location.hash = hash; }", hostile)
    tab.open("/#o=nowhere&f=nothing")
    assert len(tab.names()) == 4


@pytest.mark.browser
def test_each_row_leads_to_its_page_and_a_sweep_to_its_cells(tab: Tab) -> None:
    tab.open()
    tab.page.click("tbody >> text=first")
    tab.page.wait_for_selector("html[data-ready]", timeout=120_000)
    assert tab.page.evaluate("flatlens.run.n") == 12
    tab.open(tab.served.rows()["sweep"]["href"])
    tab.page.click("#runs a")
    tab.page.wait_for_url("**/cells/*/report.html")
    tab.page.wait_for_selector("html[data-ready]", timeout=120_000)
    assert tab.page.evaluate("flatlens.run.n") > 0


@pytest.mark.browser
def test_a_new_run_comes_into_the_list_by_itself(browser: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_trace(6, 4).save(root / "first")
    with serving(root) as served:
        context = browser.new_context()
        tab = Tab(served, context.new_page())
        tab.open()
        shutil.copytree(VERSION1 / "unfinished", root / "other")
        tab.page.wait_for_function("() => document.querySelectorAll('tbody tr').length === 2", timeout=30_000)
        tab.page.route("**/api/list", lambda route: route.abort())
        tab.page.wait_for_function(
            "() => document.getElementById('note').textContent.includes('does not answer')", timeout=60_000
        )
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_names_of_anybodys_are_text(browser: Any, tmp_path: Path, scripts: bool) -> None:
    root = tmp_path / NAME.replace("/", "")
    caution = Caution(HOSTILE[:60], HOSTILE)
    trace = make_trace(6, 4, name=HOSTILE, model=f"flatlens:{HOSTILE}", cautions=(caution,), labels=(HOSTILE,) * 10)
    trace.save(root / NAME.replace("/", ""))
    (root / "damaged").mkdir()
    (root / "damaged" / "manifest.json").write_text(json.dumps({"schema_version": HOSTILE}))
    shutil.copytree(VERSION1 / "sweep", root / "sweep")
    plan = plan_of(root / "sweep")
    for spec in plan["cells"].values():
        spec |= {"name": HOSTILE, "model": HOSTILE}
    (root / "sweep" / "plan.json").write_text(json.dumps(plan))
    shutil.copytree(VERSION1 / "unfinished", root / f"half {NAME}")
    with serving(root) as served:
        context = browser.new_context(java_script_enabled=scripts)
        tab = Tab(served, context.new_page())
        tab.page.goto(served.server.address)
        if scripts:
            tab.page.wait_for_selector("html[data-ready]")
            tab.page.click("text=cells, too")
        shown = tab.page.inner_text("#list")
        assert HOSTILE.replace("\u202e", "")[:60] in shown.replace("\u202e", "") and shown.count("<img") >= 4
        for row in served.rows().values():
            tab.page.goto(served.base + row["href"])
            if scripts and row["state"] != "damaged":
                tab.page.wait_for_selector("html[data-ready]", timeout=120_000)
                assert all(frame.evaluate("window.owned") is None for frame in tab.page.frames)
            assert tab.page.locator("img[src=x]").count() == 0
        wrong = [text for text in tab.problems if "422" not in text]
        assert wrong == [] and all(url.startswith((served.base, "data:", "blob:")) for url in tab.requests)
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nobody_is_kept_out(browser: Any, served: Served, scheme: str, width: int) -> None:
    """axe finds nothing, and nothing is wider than the window."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)
    tab = Tab(served, context.new_page())
    for path in ("", served.rows()["half"]["href"]):
        tab.open(path)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.page.evaluate("document.documentElement.dataset.theme") == scheme
        tab.page.add_script_tag(content=axe())
        found = tab.page.evaluate("axe.run(document, { iframes: false })")
        assert [(one["id"], [n["html"] for n in one["nodes"]]) for one in found["violations"]] == []
    tab.open()
    assert tab.page.evaluate(SMALL) == []
    context.close()
