"""The page of a run in a browser: what it shows, and what a reader can do with it by pointer and by keyboard."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from flatlens.records.schema import Caution
from flatlens.report import page
from tests.browser import opened
from tests.synthetic import make_trace

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>&<!--"


def varied(trace):
    """Measures that are no multiples of each other, so that the page has a menu of them."""
    noise = np.random.default_rng(3).uniform(0.5, 2, trace.layers.num_rows)
    at = trace.layers.schema.get_field_index("trace")
    values = pa.array(trace.layers["trace"].to_numpy() * noise)
    return replace(trace, layers=trace.layers.set_column(at, trace.layers.schema.field(at), values))


@pytest.fixture(scope="module")
def trace():
    cautions = (Caution("not-converged", "The loss still rises at the last step of 12 % of the samples."),)
    return varied(make_trace(80, 20, ("head", "conv2", "conv1"), cautions=cautions, images="all"))


STATE = "structuredClone(flatlens.state)"
MEDIAN = "[...document.getElementById('valley')._fullData.find((t) => t.name === 'attack').y]"
CURVES = "JSON.stringify([...document.getElementById('valley')._fullData].map((t) => [...t.y].slice(0, 9)))"


def change(it, **parts):
    it.look("(parts) => { flatlens.change(parts); }", parts)
    it.settle()


# --- it opens


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 768, 1440, 2560])
def test_it_fits_every_width_in_both_themes_without_errors_or_requests(browser, file, width):
    for scheme in ("light", "dark") if width in (390, 1440) else ("light",):
        with opened(browser, file, width=width, scheme=scheme) as it:
            assert it.look("document.documentElement.dataset.theme") == scheme
            assert it.look("document.documentElement.scrollWidth") <= width
            before = it.look("getComputedStyle(document.body).backgroundColor")
            it.page.click("#theme")
            it.settle()
            assert it.look("getComputedStyle(document.body).backgroundColor") != before
            assert it.look("document.documentElement.scrollWidth") <= width
            assert it.problems == []
            assert [r for r in it.requests if not r.startswith(("data:", "blob:"))] == [file.as_uri()]


ODD = {
    "one sample": lambda: make_trace(1, 6),
    "no flips": lambda: make_trace(9, 6, flips=False),
    "no images": lambda: make_trace(9, 6, images="none"),
    "no controls": lambda: make_trace(9, 6, controls=()),
    "no labels": lambda: make_trace(9, 6, labels=None),
    "one step": lambda: make_trace(9, 1),
    "one step, no flips": lambda: make_trace(3, 1, flips=False, images="none", controls=()),
    "NaN and infinite": lambda: broken(make_trace(30, 8, ("head", "conv1"))),
    "nothing finite": lambda: broken(make_trace(9, 6), everything=True),
    "zeros": lambda: scaled(make_trace(30, 8), 0.0),
    "tiny": lambda: scaled(make_trace(30, 8), 1e-260),
    "1,000 classes": lambda: many_classes(make_trace(20, 6)),
    "no pictures": lambda: flat(make_trace(20, 6)),
    "colour pictures": lambda: coloured(make_trace(20, 6)),
    "layers only": lambda: make_trace(9, 6, ("conv2", "conv1")),
    "hostile texts": lambda: hostile(),
}


def with_kappa(trace, values):
    at = trace.layers.schema.get_field_index("relative_flatness")
    return replace(trace, layers=trace.layers.set_column(at, trace.layers.schema.field(at), pa.array(values)))


def broken(trace, *, everything=False):
    values = np.array(trace.layers["relative_flatness"])
    at = np.random.default_rng(0).random((3, len(values)))
    values[at[0] < 0.1], values[at[1] < 0.1], values[at[2] < 0.05] = np.nan, np.inf, -np.inf
    return with_kappa(trace, np.full(len(values), np.nan) if everything else values)


def scaled(trace, by):
    return with_kappa(trace, by * np.array(trace.layers["relative_flatness"]))


def many_classes(trace):
    p = np.zeros((len(trace.images.x), 1000), dtype=np.float32)
    p[:, :10] = trace.images.probabilities
    return replace(
        trace, labels=tuple(f"class {k}" for k in range(1000)), images=trace.images._replace(probabilities=p)
    )


def flat(trace):
    return replace(trace, images=trace.images._replace(x=trace.images.x.reshape(len(trace.images.x), -1)))


def coloured(trace):
    return replace(trace, images=trace.images._replace(x=np.repeat(trace.images.x, 3, axis=1)))


def hostile():
    names = {"labels": (HOSTILE,) * 10, "cautions": (Caution(HOSTILE, HOSTILE),), "model": HOSTILE, "data": HOSTILE}
    return make_trace(30, 5, (HOSTILE, "<b>x</b>"), controls=(HOSTILE, "a~b"), name=HOSTILE, attack=HOSTILE, **names)


@pytest.mark.browser
@pytest.mark.parametrize("kind", ODD)
def test_unusual_traces_can_be_opened(browser, tmp_path, kind):
    made = ODD[kind]()
    with opened(browser, page.write([made], tmp_path / "report.html"), width=390) as it:
        for press in ("ArrowRight", "Shift+ArrowRight", "1", "2", "3", "4", "b", "Escape", "?", "?"):
            it.page.keyboard.press(press)
        for align in ("flip", "raw"):
            change(it, align=align, path=len(made.paths) - 1, layer=len(made.layer_names) - 1)
        it.look("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        it.look("scrollTo(0, document.body.scrollHeight)")
        it.settle()
        assert it.look("document.documentElement.scrollWidth") <= 390
        assert it.look("document.getElementById('sentence').textContent.trim().length") > 10
        assert it.look("window.owned") is None and it.look("document.images.length") == 0
        assert it.look("[...document.querySelectorAll('a[href]')].every((a) => a.className === 'skip')")
        assert "undefined" not in (said := it.page.inner_text("body")) and "NaN" not in said and "[object" not in said
        assert it.problems == []
        assert [r for r in it.requests if not r.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_inputs_that_are_not_images_are_said_to_be_so(browser, tmp_path):
    with opened(browser, page.write([flat(make_trace(20, 6))], tmp_path / "report.html")) as it:
        assert "not images" in it.page.inner_text("#input-note")
        assert not it.page.is_visible("#picture-input") and it.page.is_visible("#bars")
        assert it.problems == []


@pytest.mark.browser
def test_without_a_program_the_picture_the_table_and_the_sentence_are_there(browser, file):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1440, "height": 900})
    shown = context.new_page()
    shown.goto(file.as_uri())
    assert shown.locator("#static svg path").count() > 6 and shown.locator("#static svg").is_visible()
    assert shown.locator("#paths tbody tr").count() == 3 and "%" in shown.inner_text("#paths")
    assert "%" in shown.inner_text("#sentence") and "need one" in shown.inner_text("noscript")
    context.close()


@pytest.mark.browser
def test_a_linked_plotly_is_loaded_from_disk_and_nothing_else(browser, trace, tmp_path):
    page.save_plotly(tmp_path)
    (tmp_path / "other.js").write_text("window.owned = 1")
    linked = page.write([trace], tmp_path / "cells" / "k" / "report.html", plotly="../../plotly.min.js")
    with opened(browser, linked) as it:
        assert it.problems == []
        assert [r.rsplit("/", 1)[1] for r in it.requests if r.startswith("file:")] == ["report.html", "plotly.min.js"]
        strangers(it)


@pytest.mark.browser
def test_what_is_injected_does_not_run(browser, file):
    with opened(browser, file) as it:
        (policy,) = it.look("[...document.querySelectorAll('meta[http-equiv]')].map((m) => m.content)")
        assert "unsafe" not in re.search("script-src ([^;]*)", policy)[1]
        strangers(it)


def strangers(it):
    """Scripts that the policy does not name."""
    for kind in ("src", "text"):
        it.look(
            """(kind) => { const s = document.createElement('script');
            s[kind] = { src: '../../other.js', text: 'window.owned = 1' }[kind]; document.body.append(s); }""",
            kind,
        )
    it.look("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')")
    it.page.wait_for_timeout(200)
    assert it.look("window.owned") is None
    assert len([p for p in it.problems if "Content Security Policy" in p]) >= 3


# --- what it shows


@pytest.mark.browser
def test_the_page_shows_the_statistics_of_valley(it, trace):
    share, other = (trace.valley(path=path).summary().valley_of_flipped for path in trace.paths[:2])
    for shown in ("#sentence", "#paths"):
        text = it.page.inner_text(shown)
        assert f"{100 * share.value:.1f} %" in text and f"{100 * other.value:.1f} %" in text
    assert f"{100 * share.low:.1f}–{100 * share.high:.1f}" in it.page.inner_text("#paths")
    assert "not converged" in it.page.inner_text("#cautions")
    np.testing.assert_allclose(
        it.look(MEDIAN)[:3],
        np.nanmedian(aligned := offsets(trace, "relative_flatness", "head"), axis=0)[enough(aligned)][:3],
        rtol=1e-5,
    )


def offsets(trace, measure, layer):
    from flatlens.records import valley

    values = trace.matrix(measure, layer=layer).values
    return valley.align(values, trace.valley(measure, layer=layer).flip_step)[1]


def enough(aligned):
    n = np.isfinite(aligned).sum(axis=0)
    return n >= max(1, 1 + n.max() // 10)


@pytest.mark.browser
def test_menus_switch_what_is_drawn(it, trace):
    it.page.click("#align button[data-value=raw]")
    it.settle()
    for menu, value in (("measure", "trace"), ("layer", "2"), ("path", "1"), ("layer", "0")):
        before = it.look(CURVES)
        it.page.select_option(f"#{menu}", value)
        it.settle()
        assert it.look(CURVES) != before, menu
    expected = np.median(trace.matrix("trace", layer="head").values, axis=0)
    np.testing.assert_allclose(it.look(MEDIAN), expected, rtol=1e-5)
    assert "attack step" in it.page.inner_text("#valley")
    it.page.click("#paths tbody tr:nth-child(2) button")
    it.settle()
    names = it.look("document.getElementById('valley').data.map((t) => t.name).filter(Boolean)")
    assert "line to another class" not in names and "attack" in names
    assert it.page.get_attribute("#paths tbody tr:nth-child(2) button", "aria-pressed") == "false"


DRAWN = """() => {
  const { state: s, run } = flatlens, i = s.sample, out = {};
  for (const name of ['valley', 'margin', 'loss', 'crossing']) {
    const node = document.getElementById(name);
    if (!node.data) continue;
    const dot = node.data[node.dot];
    const { xaxis, yaxis } = node._fullLayout, mark = [...node.querySelectorAll('.scatterlayer .trace')].at(-1);
    const point = mark.querySelector('.point'), there = point && point.getBoundingClientRect().width > 0;
    const drawn = there ? /\\((.+)[ ,](.+)\\)/.exec(point.getAttribute('transform')).slice(1).map(Number) : null;
    out[name] = [dot.x[0], dot.y[0], drawn && [drawn[0] - xaxis.d2p(dot.x[0]), drawn[1] - yaxis.d2p(dot.y[0])]];
  }
  const text = (key) => document.querySelector(`[data-number=${key}]`).textContent;
  return { dots: out, said: Object.fromEntries(['value', 'loss', 'margin'].map((key) => [key, text(key)])),
    live: document.getElementById('live').textContent, slider: Number(document.getElementById('step').value) };
}"""


@pytest.mark.browser
def test_what_the_inspector_says_is_where_every_dot_is(it, trace):
    """The drawn part of the property whose pure part is in tests/web/numbers.test.js."""
    it.page.set_viewport_size({"width": 1440, "height": 2600})
    it.settle()
    rng = np.random.default_rng(1)
    measures, layers, paths = it.look("[flatlens.run.measures, flatlens.run.layers.length, flatlens.run.paths.length]")
    placed = 0
    for _ in range(12):
        at = {
            "measure": str(rng.choice(measures)), "layer": int(rng.integers(layers)), "path": int(rng.integers(paths)),
            "sample": int(rng.integers(80)), "step": int(rng.integers(21)), "align": str(rng.choice(["raw", "flip"])),
        }  # fmt: skip
        change(it, **at | {"step": 20 - at["step"]})
        change(it, step=at["step"])  # the dot alone moves
        seen = it.look(DRAWN)
        layer, path = trace.layer_names[at["layer"]], trace.paths[at["path"]]
        flip = trace.valley(path=path).flip_step[at["sample"]]
        x = at["step"] if at["align"] == "raw" else (None if flip < 0 else at["step"] - flip)
        own = {
            name: trace.matrix(name, path=path, layer=layer if name == at["measure"] else None).values
            for name in (at["measure"], "loss", "margin")
        }
        value, loss, margin = (of[at["sample"], at["step"]] for of in own.values())
        expected = {"valley": (x, value), "margin": (x, margin), "loss": (x, loss), "crossing": (margin, value)}
        assert set(seen["dots"]) == set(expected)
        for name, (left, high) in expected.items():
            dot = seen["dots"][name]
            inside = dot[2] is not None
            assert not inside or np.abs(dot[2]).max() < 0.1, name  # px, from where it is drawn
            placed += inside
            assert dot[1] == pytest.approx(high, rel=1e-5), name
            assert (dot[0] is None or np.isnan(dot[0])) if left is None else dot[0] == pytest.approx(left, rel=1e-5)
        for name, number in (("value", value), ("loss", loss), ("margin", margin)):
            assert read(seen["said"][name]) == pytest.approx(number, rel=6e-3), name
        assert seen["slider"] == at["step"] and seen["said"]["value"] in seen["live"]
    assert placed > 20


def read(text):
    """A number as the page writes it."""
    text = text.replace("−", "-").replace(",", "")
    head, _, power = text.partition("·10")
    return float(head) * 10.0 ** float(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


LYING = """(names) => names.flatMap((name) => {
    const box = (node) => node.getBoundingClientRect(), node = document.getElementById(name);
    const words = [...node.querySelectorAll('.annotation-text, .legendtext')].map(box);
    const ticks = [...node.querySelectorAll('.ytick text, .xtick text')].map(box);
    const named = [...words.map((b) => ['words', b]), ...ticks.map((b) => ['tick', b])];
    const all = named.filter(([, b]) => b.width > 0);
    const shared = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
    const lies = (a, b) => Math.min(shared(a, b, 'left', 'right'), shared(a, b, 'top', 'bottom')) > 3;
    return all.flatMap(([one, a], i) => all.slice(0, i).filter(([, b]) => lies(a, b)).map(() => `${name}: ${one}`));
})"""


def powered(trace, by):
    return with_kappa(trace, np.array(trace.layers["relative_flatness"]) ** by)


EDGES = {
    "few steps": lambda: make_trace(20, 3, targeted="next"),
    "hardly a decade": lambda: scaled(make_trace(40, 20, flips=False), 1.0),
    "a decade and a half": lambda: powered(make_trace(40, 20), 0.6),
}


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("kind", EDGES)
def test_no_words_or_ticks_lie_over_each_other(browser, tmp_path, kind, width):
    with opened(browser, page.write([EDGES[kind]()], tmp_path / "report.html"), width=width) as it:
        it.look("scrollTo(0, document.body.scrollHeight)")
        it.settle()
        drawn = it.look("[...document.querySelectorAll('.plot')].filter((n) => n.data).map((n) => n.id)")
        assert "valley" in drawn and it.look(LYING, drawn) == []
