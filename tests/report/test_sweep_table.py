"""The table of a sweep with many settings: it is wider than any window, and scrolls inside its own box."""

from __future__ import annotations

import pytest

from flatlens.records.digest import digest
from flatlens.report import sweep_page
from flatlens.report.sweep_data import DrawnCell
from flatlens.specs.run import RunSpec
from flatlens.specs.train import TrainSpec
from tests.browser import opened
from tests.synthetic import make_trace

GEOMETRY = """() => {
  const box = document.getElementById("all-runs"), at = (node) => node.getBoundingClientRect(), edge = at(box);
  const rows = [...document.querySelectorAll("#runs tr")], heads = rows.map((row) => row.firstElementChild);
  const seen = (cell) => {
    const { right, top, height } = at(cell);
    return document.elementFromPoint(right - 4, top + height / 2)?.closest("th, td");
  };
  return {
    width: box.scrollWidth, box: edge.width, left: box.scrollLeft, page: document.documentElement.scrollWidth,
    scrolled: scrollX, column: at(heads[1]).width, first: heads.map((cell) => at(cell).left - edge.left),
    over: heads.slice(1).map((cell) => seen(cell) === cell),
    last: Math.max(...rows.map((row) => at(row.lastElementChild).right)) - edge.right,
  };
}"""
"""The table's box, what of it is in sight, whether the page has moved, and what lies over the first column."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Six runs that differ in ten settings, one of which has a long name."""
    found = digest(make_trace(40, 12, images="none"))
    cells = []
    for k in range(6):
        train = TrainSpec(epochs=3 + k, adversarial="pgd" if k % 2 else None, eps=0.1 + 0.1 * (k % 2), seed=k)
        model = f"flatlens:cnn?width={k}&name=a-model-with-quite-a-long-name" if k % 2 else "flatlens:mlp"
        spec = RunSpec(
            model=model,
            data="flatlens:digits",
            eps=0.1 + k / 10,
            steps=10 + k,
            seed=k,
            limit=50 + k,
            name=f"run {k}",
            train=train,
        )
        cells.append(
            DrawnCell(f"{k:016x}", spec.resolved().to_dict(), found, f"cells/{k}/report.html", "done", seconds=1.5)
        )
    return sweep_page.write(cells, tmp_path_factory.mktemp("wide") / "index.html", name="wide")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_a_wide_table_scrolls_in_its_box_and_its_first_column_stays(browser, wide, width):
    with opened(browser, wide, width=width, ready="html[data-ready] #runs tbody tr") as it:
        it.look("document.getElementById('all-runs').scrollIntoView({ block: 'center' })")
        before = it.look(GEOMETRY)
        assert before["width"] > 1440 >= width >= before["page"] and before["box"] <= width
        assert before["last"] > 0, "the last column is outside of the box at first"
        it.page.focus("#all-runs")
        it.page.keyboard.press("ArrowRight")
        it.until("document.getElementById('all-runs').scrollLeft > 0")
        it.look("document.getElementById('all-runs').scrollLeft = 1e6")
        it.settle()
        after = it.look(GEOMETRY)
        assert after["left"] > 0 and after["scrolled"] == 0 and after["page"] <= width
        assert abs(after["last"]) <= 1, "the last column is reached"
        # The first column has not moved, and what goes past goes behind it.
        assert max(map(abs, before["first"] + after["first"])) <= 1 and all(after["over"])
        assert after["column"] <= 0.45 * after["box"]
        assert it.problems == []


@pytest.mark.browser
def test_what_is_chosen_stays_in_sight_below_the_bar(browser, wide):
    with opened(browser, wide, ready="html[data-ready] #runs tbody tr") as it:
        it.look("scrollTo(0, 900)")
        it.settle()
        edge = "(of) => document.querySelector(of[0]).getBoundingClientRect()[of[1]]"
        assert it.look(edge, [".bar", "top"]) == 0
        assert abs(it.look(edge, [".controls", "top"]) - it.look(edge, [".bar", "bottom"])) <= 2
