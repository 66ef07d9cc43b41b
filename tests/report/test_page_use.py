"""How the page of a run is used: what the first screen holds, keys alone, pointer, address, paper, screen readers."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from flatlens.records.schema import Caution
from flatlens.report import page
from tests.browser import opened
from tests.complete import complete
from tests.synthetic import make_trace
from tests.web_tools import barriers

CONTROLS = ("line-to-other-class", "line-to-end", "gaussian-noise", "uniform-noise", "random-signs")
STATE = "structuredClone(flatlens.state)"


@pytest.fixture(scope="module")
def trace():
    cautions = (Caution("flat-because-confident", "394 of 433 valleys end at a confidence above 0.999."),)
    return complete(make_trace(120, 25, controls=CONTROLS, cautions=cautions, images="all"))


# --- the first screen

PLOT = """() => { const box = document.getElementById('valley').getBoundingClientRect();
  return [box.top + scrollY, (Math.min(innerHeight, box.bottom + scrollY) - box.top - scrollY) / box.height]; }"""
EMPTY = """() => [...document.querySelectorAll('.row, .stage, .cards')].flatMap((row) => {
  const lines = {}, width = row.getBoundingClientRect().width;
  for (const card of row.children) {
    const box = card.getBoundingClientRect();
    if (box.width) (lines[Math.round(box.top)] ??= []).push(box.width);
  }
  return Object.values(lines).map((widths) => 1 - widths.reduce((a, b) => a + b, 0) / width);
})"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "height", "begins", "shown"), [(1440, 900, 260, 0.9), (1920, 1080, 300, 0.9), (390, 844, 560, 0)]
)
def test_the_picture_is_on_the_first_screen(it, width, height, begins, shown):
    it.page.set_viewport_size({"width": width, "height": height})
    it.settle()
    top, share = it.look(PLOT)
    assert top < begins and share >= shown


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 1920, 2560])
def test_no_row_of_cards_has_an_empty_end(it, width):
    it.page.set_viewport_size({"width": width, "height": 1000})
    it.settle()
    empty = it.look(EMPTY)
    assert len(empty) > 3 and max(empty) <= 0.15
    if width == 1440:
        assert it.look("document.documentElement.scrollHeight") <= 2600


# --- keys alone

FOCUS = "((e) => e.id || e.getAttribute('aria-label') || e.textContent.trim())(document.activeElement)"


def tab_to(it, wanted, most=400):
    """How many times Tab takes to an element whose id, label or text begins so."""
    for count in range(1, most + 1):
        it.page.keyboard.press("Tab")
        if it.look(FOCUS).startswith(wanted):
            return count
    raise AssertionError(f"Tab never reached {wanted}")


@pytest.mark.browser
def test_keys_alone_do_everything(it, trace):
    press = it.page.keyboard.press
    assert tab_to(it, "Skip to the sample") <= 2
    press("Enter")
    assert it.look("document.activeElement.id") == "sample" and it.look(STATE) == it.look("begun")
    at = int(it.look("flatlens.run.sample[40]"))
    press("Control+A")
    it.page.keyboard.type(str(at))
    press("Enter")
    it.settle()
    state = it.look(STATE)
    assert it.look("flatlens.run.sample")[state["sample"]] == at
    said = [it.page.inner_text("#live")]
    assert f"Sample {at}, step {state['step']}: κ" in said[0]

    tab_to(it, "next")
    press("Enter")
    it.settle()
    assert it.look(STATE)["sample"] == state["sample"] + 1
    said.append(it.page.inner_text("#live"))
    tab_to(it, "cleanstep 0")
    press("Enter")
    it.settle()
    assert it.look(STATE)["step"] == 0
    said.append(it.page.inner_text("#live"))
    for key, moves in (("ArrowRight", 1), ("ArrowRight", 1), ("ArrowLeft", -1)):
        before = it.look(STATE)["step"]
        press(key)
        it.settle()
        assert it.look(STATE)["step"] == before + moves
        said.append(it.page.inner_text("#live"))
    assert all(one != other for one, other in itertools.pairwise(said))  # each is spoken

    tab_to(it, "play")
    press("Enter")
    it.until("flatlens.state.step >= 3")
    assert it.look(FOCUS) == "play" and it.page.get_attribute("#play", "aria-label") == "Stop"
    press("Enter")
    step = it.look(STATE)["step"]
    it.page.wait_for_timeout(400)
    assert it.look(STATE)["step"] == step

    tab_to(it, "valley ")
    press("Enter")
    it.settle()
    assert it.look(STATE)["filter"] == "valley"
    press("b")
    it.settle()
    brushed = it.look("flatlens.state.brush.map((i) => flatlens.run.sample[i])")
    flips = trace.valley().flip_step
    assert len({int(flips[i]) for i in brushed}) == 1
    assert it.page.inner_text("#selection-text").startswith(f"{len(brushed)} of 120 samples")
    press("Escape")
    it.settle()
    assert it.look(STATE)["brush"] is None and not it.page.is_visible("#selection")


@pytest.mark.browser
def test_keys_alone_take_away_what_a_figure_shows_and_turn_the_surface(it):
    press = it.page.keyboard.press
    it.look("document.getElementById('valley').focus()")
    tab_to(it, "Data")
    press("Enter")
    it.settle()
    tab_to(it, "CSV")
    with it.page.expect_download() as got:
        press("Enter")
    lines = got.value.path().read_text().splitlines()
    assert lines[0] == "curve,x,y,low,high,n" and len(lines) > 50 and lines[1].count(",") == 5
    tab_to(it, "CSV of the sample")
    with it.page.expect_download() as got:
        press("Enter")
    assert len(got.value.path().read_text().splitlines()) == 27
    tab_to(it, "SVG")
    with it.page.expect_download() as got:
        press("Enter")
    assert got.value.suggested_filename == "flatlens-valley.svg" and "<svg" in got.value.path().read_text()
    tab_to(it, "surface")
    before = it.look("document.getElementById('surface').toDataURL()")
    state = it.look(STATE)
    press("ArrowRight")
    it.settle()
    turned = it.look("document.getElementById('surface').toDataURL()")
    press("ArrowUp")
    it.settle()
    assert len({before, turned, it.look("document.getElementById('surface').toDataURL()")}) == 3
    assert it.look(STATE) == state
    it.look("document.querySelectorAll('details').forEach((d) => { d.open = false; })")


@pytest.mark.browser
def test_focus_is_always_seen(it):
    for _ in range(30):
        it.page.keyboard.press("Tab")
        style = it.look(
            "((style) => [style.outlineStyle, style.outlineWidth])(getComputedStyle(document.activeElement))"
        )
        assert style[0] != "none" and float(style[1][:-2]) >= 1, it.look(FOCUS)


@pytest.mark.browser
def test_every_figure_says_what_it_shows(it, trace):
    found = trace.valley().summary()
    said = it.look("document.getElementById('valley').getAttribute('aria-label')")
    assert f"flip by step {found.flip_step.value:g}" in said and f"sharpest by step {found.peak_step.value:g}" in said
    it.page.set_viewport_size({"width": 1440, "height": 2600})
    it.settle()
    labels = it.look(
        "[...document.querySelectorAll('figure:not([hidden]) .plot')].map((p) => p.getAttribute('aria-label'))"
    )
    assert len(labels) >= 9 and all(re.search(r"at step \d+: κ [\d–−]", label) for label in labels)


# --- pointer

SPOT = """(name) => {
  const plot = document.getElementById(name);
  plot.scrollIntoView({ block: 'center' });
  const box = plot.getBoundingClientRect(), { xaxis, yaxis } = plot._fullLayout;
  const lines = plot._fullData.find((t) => typeof t.customdata?.[0] === 'number');
  let k = -1;
  lines.y.forEach((y, at) => {
    const inside = lines.x[at] > xaxis.range[0] && lines.x[at] < xaxis.range[1] && Math.log10(y) < yaxis.range[1];
    if (inside && lines.customdata[at] !== flatlens.state.sample && (k < 0 || y > lines.y[k])) k = at;
  });
  return { x: box.left + xaxis._offset + xaxis.d2p(lines.x[k]), y: box.top + yaxis._offset + yaxis.d2p(lines.y[k]) };
}"""


@pytest.mark.browser
def test_the_pointer_names_a_curve_and_a_click_chooses_its_sample_everywhere(it):
    spot = it.look(SPOT, "valley")
    it.page.mouse.move(spot["x"] - 3, spot["y"])
    it.page.mouse.move(spot["x"], spot["y"])
    it.until("!document.getElementById('tip').hidden")
    named = it.page.inner_text("#tip")
    assert re.fullmatch(r"sample \d+ · label .+ · step \d+ · κ .+", named)
    it.page.mouse.click(spot["x"], spot["y"])
    it.until("flatlens.state.sample !== begun.sample")
    it.settle()
    state = it.look(STATE)
    chosen = it.look("flatlens.run.sample")[state["sample"]]
    assert named.startswith(f"sample {chosen} ") and f"step {state['step']} " in named
    assert it.page.input_value("#sample") == str(chosen)
    own = "document.getElementById('valley').data.at(-1).customdata[0]"
    assert it.look(own) == state["sample"]
    assert it.look("document.querySelector('#gallery [aria-current]').dataset.sample") == str(state["sample"])
    it.page.mouse.move(5, 5)


def drag(it, name, x, y):
    """Over a share of a figure's plane."""
    it.look("(name) => document.getElementById(name).scrollIntoView({ block: 'center' })", name)
    it.settle()
    box = it.page.locator(f"#{name} .nsewdrag").first.bounding_box()
    at = [(box["x"] + box["width"] * u, box["y"] + box["height"] * v) for u, v in zip(x, y, strict=True)]
    it.page.mouse.move(*at[0])
    it.page.mouse.down()
    it.page.mouse.move((at[0][0] + at[1][0]) / 2, (at[0][1] + at[1][1]) / 2, steps=3)
    it.page.mouse.move(*at[1], steps=3)
    it.page.mouse.up()


@pytest.mark.browser
def test_a_brush_chooses_what_its_box_touches_and_says_what_they_have_in_common(it, trace):
    drag(it, "valley", (0.7, 0.98), (0.5, 0.05))
    it.until("flatlens.state.brush !== null")
    it.settle()
    ids = it.look("flatlens.state.brush.map((i) => flatlens.run.sample[i])")
    assert 0 < len(ids) < 120
    found = trace.valley()
    flipped = found.flipped[ids]
    share = found.is_valley[ids][flipped].mean()
    text = it.page.inner_text("#selection-text")
    assert text.startswith(f"{len(ids)} of 120 samples") and f"valley {100 * share:.1f} %" in text
    assert f"{flipped.sum()} flip" in text
    with it.page.expect_download() as got:
        it.page.click("#selection-csv")
    rows = got.value.path().read_text().splitlines()
    assert len(rows) == 1 + 26 * len(ids)
    first = rows[1].split(",")
    own = trace.matrix("relative_flatness").values[int(first[0]), 0]
    assert float(first[4]) == pytest.approx(own, rel=1e-6)
    it.page.keyboard.press("Escape")
    it.settle()
    assert it.look(STATE)["brush"] is None


@pytest.mark.browser
def test_figures_with_the_same_steps_are_zoomed_together(it):
    it.page.set_viewport_size({"width": 1440, "height": 2600})
    it.settle()
    range = "(n) => document.getElementById(n)._fullLayout.xaxis.range.map(Number)"
    ranges = f"['valley', 'margin', 'loss', 'free'].map({range})"
    before = it.look(ranges)
    it.page.keyboard.down("Shift")
    it.settle()
    drag(it, "valley", (0.3, 0.6), (0.2, 0.8))
    it.page.keyboard.up("Shift")
    it.until(f"{ranges}[1][1] < {before[1][1] - 1}")
    it.settle()
    after = it.look(ranges)
    assert after[0] != before[0] and it.look(STATE)["brush"] is None
    for other in after[1:]:
        assert other == pytest.approx(after[0], abs=1e-6)
    it.look("document.getElementById('align').children[1].click()")
    it.settle()


# --- the address


@pytest.mark.browser
def test_reload_and_back_restore_what_was_shown(browser, file):
    with opened(browser, file) as it:
        first = it.look(STATE)
        wanted = {
            "sample": 7,
            "step": 3,
            "align": "raw",
            "path": 1,
            "off": ["uniform-noise"],
            "brush": [1, 2, 7],
            "filter": "valley",
            "order": "rise",
        }
        it.look("(parts) => { flatlens.change(parts); }", wanted)
        it.settle()
        state = it.look(STATE)
        assert state == first | wanted
        it.page.reload()
        it.until("document.documentElement.dataset.ready === 'yes'")
        assert it.look(STATE) == state and it.page.input_value("#sample") == str(it.look("flatlens.run.sample[7]"))
        it.look("() => { flatlens.change({ sample: 9, step: 4 }); }")
        it.page.go_back()
        it.until("flatlens.state.sample === 7")
        assert it.look(STATE) == state
        it.page.go_forward()
        it.until("flatlens.state.sample === 9")
        for hostile in ("#s=-1&t=1e9&l=<img src=x>&sel=0-99999999999999", "#%E0%A4%A", "#sample", "#__proto__=1"):
            it.look("(hash) => { location.hash = hash; }", hostile)
            it.page.wait_for_timeout(50)
        it.settle()
        assert it.problems == []


# --- paper and screen readers

OUTSIDE = """() => [...document.querySelectorAll('main :is(table, .main-svg, canvas, p, h1, h2, figcaption, td, th)')]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().width > 0)
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
  .map((e) => `${e.tagName} ${e.textContent.slice(0, 30)} ${e.getBoundingClientRect().right}`)"""
# 10 px are 7.5 pt. plotly writes the 2 and the 5 between powers of ten smaller than those.
SMALL = """() => [...document.querySelectorAll('main *')]
  .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.checkVisibility())
  .filter((e) => e.getBoundingClientRect().width > 0 && !['2', '5'].includes(e.dataset.unformatted))
  .filter((e) => parseFloat(getComputedStyle(e).fontSize) < 10).map((e) => e.outerHTML.slice(0, 80))"""


@pytest.mark.browser
def test_paper_is_light_has_five_pages_at_most_and_clips_nothing(browser, file, tmp_path):
    with opened(browser, file, scheme="dark") as it:
        it.look("""() => addEventListener('beforeprint', () => {
          window.printed = document.documentElement.dataset.theme; })""")
        data = it.page.pdf(path=tmp_path / "report.pdf", format="A4", prefer_css_page_size=True)
        assert 1 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", data)) <= 5
        assert it.look("window.printed") == "light" and it.look("document.documentElement.dataset.theme") == "dark"
        # The sheet as Chromium lays it out: A4 less its margins.
        it.page.emulate_media(media="print")
        it.page.set_viewport_size({"width": 711, "height": 1000})
        it.look("dispatchEvent(new Event('beforeprint'))")
        it.settle()
        assert it.look(OUTSIDE) == []
        assert it.look(SMALL) == []
        assert it.problems == []


CHOSEN = """() => { const traces = [...document.querySelectorAll('#valley .scatterlayer .trace')].slice(-3);
  const boxes = traces.slice(0, 2).map((t) => t.querySelector('.js-line')?.getBBox());
  const lines = boxes.map((b) => b && [b.x, b.y, b.width, b.height]);
  const dot = traces[2].querySelector('.point')?.getAttribute('transform').match(/-?[0-9.]+/g).map(Number);
  return [...lines, dot].flat().filter((v) => v !== undefined && v > -900); }"""
ANEW = """() => { const { off } = flatlens.state; flatlens.change({ off: ['gaussian-noise'] });
  requestAnimationFrame(() => flatlens.change({ off })); }"""


@pytest.mark.browser
def test_a_curve_that_is_moved_lies_where_one_drawn_anew_does(it):
    samples, compared = it.look("flatlens.run.sample.length"), 0
    it.look("() => { const drawn = Plotly.react; Plotly.react = (...of) => { window.drawn++; return drawn(...of); }; }")
    for sample in np.random.default_rng(0).choice(samples, 12, replace=False).tolist():
        it.look("(sample) => { window.drawn = 0; flatlens.change({ sample, step: -1 }); }", sample)
        it.settle()
        moved, again = it.look(CHOSEN), it.look("window.drawn")
        it.look(ANEW)
        it.settle()
        assert again < it.look("window.drawn")
        anew = it.look(CHOSEN)
        assert moved[: len(anew)] == pytest.approx(anew, abs=0.5)
        compared += len(anew) > 0
    assert compared > 6


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_no_barrier(it, width):
    it.page.set_viewport_size({"width": width, "height": 900})
    it.look("() => { flatlens.change({ brush: [0, 1, 2] }); }")
    for _ in ("light", "dark"):
        it.settle()
        assert barriers(it.look) == []
        it.page.click("#theme")
    it.settle()
    # It would find some.
    it.look(
        "document.body.insertAdjacentHTML('beforeend', '<button id=bad style=\"color:#999;background:#aaa\"></button>')"
    )
    assert barriers(it.look) != []
    it.look("document.getElementById('bad').remove()")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_no_barrier_in_a_comparison(browser, tmp_path, width):
    compared = [make_trace(40, 12, seed=seed, name=f"run {seed}") for seed in range(3)]
    with opened(browser, page.write(compared, tmp_path / "report.html"), width=width) as it:
        for _ in ("light", "dark"):
            it.settle()
            assert barriers(it.look) == []
            it.page.click("#theme")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_whatever_is_pressed_is_large_enough(it, width):
    it.page.set_viewport_size({"width": width, "height": 900})
    it.settle()
    small = it.look("""() => [...document.querySelectorAll('button, select, input, summary')]
      .filter((e) => e.checkVisibility() && e.getBoundingClientRect().width > 0)
      .map((e) => [e.id || e.getAttribute('aria-label') || e.textContent.trim(), e.getBoundingClientRect()])
      .filter(([, box]) => box.width < 24 || box.height < 24)
      .map(([name, box]) => `${name} ${box.width} × ${box.height}`)""")
    assert small == []
