"""The page and the figures: what they say is what `valley` says, and nothing from outside becomes markup."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flatlens.errors import LayerError, ResourceError, RunError, SpecError
from flatlens.records.schema import Caution
from flatlens.report import figures, html_file, page, page_data, series
from tests.browser import chromium, opened
from tests.synthetic import make_trace

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>&<!--"
KINDS = {"f32": "<f4", "f64": "<f8", "u16": "<u2"}


@pytest.fixture(scope="module")
def trace():
    cautions = (Caution("not-converged", "The loss still rises at the last step of 12 % of the samples."),)
    return make_trace(80, 20, ("head", "conv2", "conv1"), cautions=cautions)


def embedded(text):
    return json.loads(re.search(r'id="flatlens-data">(.*?)</script>', text, re.S)[1])


def unpack(packed):
    kind = next(k for k in KINDS if k in packed)
    return np.frombuffer(base64.b64decode(packed[kind]), KINDS[kind]).reshape(packed["shape"])


def with_column(table, name, values):
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, type=table.schema.field(name).type))


# --- what is embedded


def test_statistics_are_those_of_valley(trace):
    run = page_data.pages([trace])["runs"][0]
    for path in run["paths"]:
        for layer, found in zip(run["layers"], path["layers"], strict=True):
            for measure, look in found["measures"].items():
                expected = trace.valley(measure, layer=layer["name"], path=path["name"]).summary()
                assert look["summary"] == page_data.record(expected)


def test_aggregates_are_over_all_samples_and_lines_over_a_few():
    trace = make_trace(900, 10)
    run = page_data.pages([trace])["runs"][0]
    values = trace.matrix("relative_flatness", layer="head").values
    look = run["paths"][0]["layers"][0]["measures"]["relative_flatness"]
    np.testing.assert_allclose(unpack(look["raw"]["median"]), np.median(values, axis=0), rtol=1e-6)
    assert (unpack(look["raw"]["n"]) == 900).all()
    assert len(run["sample"]) == page_data.MOST_SAMPLES and len(run["lines"]) == page_data.MOST_LINES
    np.testing.assert_allclose(unpack(look["lines"]), values[run["sample"]], rtol=1e-6)
    cells = look["cells"]
    assert unpack(cells["count"]).sum() == trace.valley().summary().flipped.count


def test_accuracy_counts_all_samples(trace):
    found = series.accuracy(trace)
    prediction, label = trace.matrix("prediction").values, trace.matrix("label").values
    assert found.clean.value == pytest.approx((prediction[:, 0] == label[:, 0]).mean())
    assert found.attacked.value == pytest.approx((prediction[:, -1] == label[:, 0]).mean())


def test_factors_add_up(trace):
    moved = series.factors(trace, "head", series.flip_step(trace))
    total = sum(moved[k].raw.mean for k in ("confidence_term", "feature_norm_sq", "weight_norm"))
    # The synthetic trace has 5 % noise on the product.
    np.testing.assert_allclose(moved["relative_sharpness"].raw.mean, total, atol=0.02)
    assert series.factors(trace, "conv2", series.flip_step(trace)) is None


def test_looseness_is_the_bound_over_the_true_rise(trace):
    own = trace
    found = series.looseness(own, "head", series.flip_step(own))
    eigenvalue, kappa = found["certificate_bound_eigenvalue"].raw, found["certificate_bound_kappa"].raw
    at = eigenvalue.position > 0
    np.testing.assert_allclose(eigenvalue.median[at], 1.2 + eigenvalue.position[at] / 21, rtol=1e-12)
    np.testing.assert_allclose(kappa.median[at], 3 * eigenvalue.median[at])
    rise = own.matrix("loss_change", layer="head").values
    np.testing.assert_array_equal(eigenvalue.n, (rise > 0).sum(0))
    assert series.looseness(trace, "conv2", series.flip_step(trace)) is None


def test_the_chosen_samples_are_the_same_every_time_and_of_all_kinds():
    flip = np.r_[np.full(950, 7), np.full(50, -1)]
    chosen = series.pick(flip, 100)
    assert (chosen == series.pick(flip, 100)).all() and len(set(chosen)) == 100
    assert (flip[chosen] == -1).sum() == 5


def test_100_000_samples_make_a_bounded_file(tmp_path):
    trace = make_trace(100_000, 4, controls=("line-to-other-class",), images="none")
    file = page.write([trace], tmp_path / "report.html")
    assert file.stat().st_size < 7_000_000
    assert embedded(file.read_text())["runs"][0]["n"] == 100_000


def test_images_are_bounded_and_precise(trace):
    budget = 40_000
    ids = trace.matrix("label").sample
    kept = page_data.images(trace, ids, budget)
    assert 0 < kept["samples"] < len(ids)
    assert len(kept["x"]["u16"]) < 1.5 * budget
    drawn = kept["low"] + unpack(kept["x"]).astype(float) * (kept["high"] - kept["low"]) / 65535
    rows = np.flatnonzero(np.isin(trace.images.sample, kept["sample"]))
    np.testing.assert_allclose(drawn, trace.images.x[rows], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "kind"), [(1.0, "f32"), (1e-200, "f64"), (1e90, "f64"), (np.nan, "f32"), (np.inf, "f32")]
)
def test_small_and_large_numbers_survive(value, kind):
    packed = page_data.pack(np.array([0.0, value]))
    assert list(packed) == [kind, "shape"]
    assert unpack(packed)[1] == value or not np.isfinite(value)


def test_nan_and_infinite_values_are_valid_json(trace):
    values = np.array(trace.layers["relative_flatness"])
    values[0], values[3] = np.nan, np.inf  # the first layer's rows: every third one
    broken = replace(trace, layers=with_column(trace.layers, "relative_flatness", values))
    run = embedded(page.document([broken]))["runs"][0]
    look = run["paths"][0]["layers"][0]["measures"]["relative_flatness"]
    assert look["summary"]["not_finite"] == broken.valley().summary().not_finite > 0
    assert np.isfinite(unpack(look["raw"]["median"])).all()


# --- the file


def test_what_comes_from_outside_cannot_become_markup(trace):
    names = {"labels": (HOSTILE,) * 10, "cautions": (Caution(HOSTILE, HOSTILE),), "model": HOSTILE}
    hostile = make_trace(12, 5, (HOSTILE,), controls=(HOSTILE,), **names)
    text = page.document([hostile, trace])
    outside = text.replace(html_file.inline(html_file.get_plotlyjs()), "")
    assert HOSTILE not in outside and "<img" not in outside and "onerror=window.owned=1>" not in outside
    assert outside.count("<script") == outside.count("</script") == 3
    assert embedded(text)["runs"][0]["cautions"] == [[HOSTILE, HOSTILE]]


def test_the_file_refers_to_nothing_outside(trace):
    text = page.document([trace])
    own = text.replace(html_file.inline(html_file.get_plotlyjs()), "")
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", own)
    assert not re.search(r"https?://", own)
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:" in own


def test_write_replaces_the_file_at_once_and_leaves_nothing_behind(trace, tmp_path):
    target = tmp_path / "new" / "report.html"
    assert page.write([trace], target) == target == trace.report(target)
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]
    with pytest.raises(RunError, match="at least one run"):
        page.write([], target)
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        page.write([trace], occupied / "report.html")


def test_two_machines_may_write_a_page_at_the_same_time(tmp_path, monkeypatch):
    """Their processes may well have the same number: the other one writes it all while this one is about to rename."""
    file, sync, waiting = tmp_path / "report.html", os.fsync, ["theirs"]

    def later(number):
        if waiting:
            html_file.save(waiting.pop(), file)
        sync(number)

    monkeypatch.setattr(os, "fsync", later)
    html_file.save("ours", file)
    assert file.read_text() == "ours" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_plotly_can_be_shared_by_many_pages(trace, tmp_path):
    shared = page.save_plotly(tmp_path)
    assert shared.name == "plotly.min.js" and shared.read_text() == html_file.get_plotlyjs()
    shared.write_text("kept")
    assert page.save_plotly(tmp_path).read_text() == html_file.get_plotlyjs()
    text = page.document([trace], plotly='../"><script>/plotly.min.js')
    assert len(text) < 2_000_000 and text.count("<script") == text.count("</script") == 3
    policy = re.search(r"Content-Security-Policy\" content=\"(.*?)\"", text)[1]
    (mark,) = re.findall(r"script-src 'nonce-([0-9a-f]{32})'", policy)
    assert "unsafe-inline" not in policy.split("style-src")[0] and text.count(f'nonce="{mark}"') == 2
    assert mark not in page.document([trace], plotly="plotly.min.js")


def test_runs_are_named_by_what_differs():
    assert page_data.run_names([{"eps": 0.1, "model": "m"}, {"eps": 0.3, "model": "m"}]) == ["eps 0.1", "eps 0.3"]
    assert page_data.run_names([{"eps": 0.1}, {"eps": 0.1}]) == ["run 1", "run 2"]


def test_drawing_needs_no_torch():
    code = "import sys, flatlens.report.page, flatlens.report.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- figures for notebooks


@pytest.mark.parametrize("aligned", [False, True])
def test_every_figure_can_be_drawn(trace, aligned):
    drawn = figures.valley(trace, "trace", layer="conv2", aligned=aligned)
    assert {"attack", *trace.paths} == {t.name for t in drawn.data if t.name}
    for figure in (
        figures.flow(trace, aligned=aligned),
        figures.factors(trace, aligned=aligned),
        figures.certificate(trace, aligned=aligned),
        figures.against_margin(trace),
        figures.flip_and_peak(trace),
        figures.layers(trace),
    ):
        json.loads(figure.to_json())


def test_a_figure_says_what_it_cannot_draw(trace):
    with pytest.raises(SpecError, match="Did you mean 'trace'"):
        figures.valley(trace, "trac")
    with pytest.raises(LayerError, match="this trace has: head"):
        figures.valley(trace, layer="heat")
    with pytest.raises(LayerError, match="confidence term"):
        figures.factors(trace, layer="conv1")
    with pytest.raises(LayerError, match="certificate"):
        figures.certificate(trace, layer="conv1")


# --- in a browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(trace, tmp_path_factory):
    return page.write([trace], tmp_path_factory.mktemp("page") / "report.html")


MEDIAN = "[...document.getElementById('valley').data.find((t) => t.name?.startsWith('attack')).y]"
CHOSEN = "Number(document.getElementById('sample').value)"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1440])
def test_it_opens_without_errors_or_requests_and_fits(browser, file, scheme, width):
    with opened(browser, file, width=width, scheme=scheme) as it:
        assert it.look("document.documentElement.dataset.theme") == scheme
        assert it.look("document.documentElement.scrollWidth") <= width
        before = it.look("getComputedStyle(document.body).backgroundColor")
        it.page.click("#theme")
        it.settle()
        assert it.look("getComputedStyle(document.body).backgroundColor") != before
        assert it.problems == []
        assert [r for r in it.requests if not r.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_the_page_shows_the_statistics_of_valley(browser, file, trace):
    summary = trace.valley().summary()
    with opened(browser, file) as it:
        for shown in ("#tiles", "#statistics"):
            text = it.page.inner_text(shown)
            assert f"{100 * summary.valley_of_flipped.value:.1f} %" in text
            assert f"{100 * summary.valley_of_flipped.low:.1f}–{100 * summary.valley_of_flipped.high:.1f}" in text
        assert "not-converged" in it.page.inner_text("#cautions")


@pytest.mark.browser
def test_menus_switch_what_is_drawn(browser, file, trace):
    with opened(browser, file) as it:
        for choose, value in (("measure", "trace"), ("layer", "2"), ("path", "1"), ("layer", "0")):
            before = it.look(
                "JSON.stringify([...document.getElementById('valley').data].map((t) => [...t.y].slice(0, 30)))"
            )
            it.page.select_option(f"#{choose}", value)
            it.settle()
            after = it.look(
                "JSON.stringify([...document.getElementById('valley').data].map((t) => [...t.y].slice(0, 30)))"
            )
            assert before != after, choose
        expected = np.median(trace.matrix("trace", layer="head").values, axis=0)
        np.testing.assert_allclose(it.look(MEDIAN), expected, rtol=1e-5)
        for scale in ("linear", "symlog", "log"):
            it.look(f"document.querySelector('#scale input[value={scale}]').click()")
            it.settle()
            assert it.look("document.getElementById('valley').layout.yaxis.type") == (
                "log" if scale == "log" else "linear"
            )
        it.page.uncheck("#controls-on")
        it.page.select_option("#path", "0")
        it.settle()
        assert it.look("document.getElementById('valley').data.filter((t) => t.name).length") == 1
        assert it.problems == []


@pytest.mark.browser
def test_alignment_at_the_flip(browser, file, trace):
    found = trace.valley()
    curve = series.curve(trace.matrix("relative_flatness", layer="head").values, found.flip_step).aligned
    with opened(browser, file) as it:
        it.look("document.querySelector('#aligned input[value=true]').click()")
        it.settle()
        np.testing.assert_allclose(it.look(MEDIAN), curve.median[curve.n > 0], rtol=1e-5)
        assert "steps from the flip" in it.page.inner_text("#valley")
        assert it.problems == []


@pytest.mark.browser
def test_a_click_on_a_line_chooses_its_sample_everywhere(browser, file):
    with opened(browser, file) as it:
        before = it.look(CHOSEN)
        # A point of some other sample's line, far from the chosen one, in the page's pixels.
        spot = it.look(
            """() => {
              const plot = document.getElementById('valley');
              plot.scrollIntoView({ block: 'center' });
              const box = plot.getBoundingClientRect();
              const lines = plot.data.find((t) => t.mode === 'lines' && typeof t.customdata?.[0] === 'number');
              const { xaxis, yaxis } = plot._fullLayout;
              let k = -1;
              lines.y.forEach((y, at) => { if (y !== null && (k < 0 || y > lines.y[k])) k = at; });
              const x = box.left + xaxis._offset + xaxis.d2p(lines.x[k]);
              return { x, y: box.top + yaxis._offset + yaxis.d2p(lines.y[k]), sample: lines.customdata[k] };
            }"""
        )
        it.page.mouse.move(spot["x"] - 3, spot["y"])
        it.page.mouse.move(spot["x"], spot["y"])
        it.page.mouse.click(spot["x"], spot["y"])
        it.settle()
        assert it.look(CHOSEN) == spot["sample"] != before
        for figure in ("valley", "flow", "margin"):
            own = f"document.getElementById('{figure}').data.at(-2).customdata[0]"
            assert it.look(own) == spot["sample"]
        assert it.problems == []


@pytest.mark.browser
def test_a_brush_marks_its_samples_in_the_other_figures(browser, file):
    with opened(browser, file) as it:
        it.look("document.querySelector('#drag input[value=brush]').click()")
        it.settle()
        it.page.locator("#peak").scroll_into_view_if_needed()
        box = it.page.locator("#peak .nsewdrag").bounding_box()
        x, y, width, height = (box[k] for k in ("x", "y", "width", "height"))
        traces = it.look("document.getElementById('valley').data.length")
        it.page.mouse.move(x + 3, y + 3)
        it.page.mouse.down()
        it.page.mouse.move(x + width * 0.7, y + height * 0.7, steps=4)
        it.page.mouse.move(x + width - 3, y + height - 3, steps=4)
        it.page.mouse.up()
        # plotly gathers the events of a drag and reports a little after the button is released.
        it.until(f"document.getElementById('valley').data.length === {traces + 1}")
        assert it.problems == []


@pytest.mark.browser
def test_the_inspector_by_keyboard(browser, file):
    with opened(browser, file) as it:
        it.page.focus("#step")
        it.page.keyboard.press("Home")
        at = int(it.look("document.getElementById('step').value"))
        picture = it.look("document.getElementById('canvas-input').toDataURL()")
        for expected in (at + 1, at + 2):
            it.page.keyboard.press("ArrowRight")
            it.settle()
            assert int(it.look("document.getElementById('step').value")) == expected
            assert it.look("document.activeElement.id") == "step"
        assert it.look("document.getElementById('canvas-input').toDataURL()") != picture
        before = it.look(CHOSEN)
        it.page.focus("#next")
        it.page.keyboard.press("Enter")
        assert it.look(CHOSEN) == before + 1
        it.page.fill("#sample", "40")
        it.page.keyboard.press("Enter")
        assert it.look(CHOSEN) == 40
        assert it.page.locator(".bars .truth").count() == 1
        assert it.problems == []


ODD = {
    "one sample": make_trace(1, 6),
    "no flips": make_trace(9, 6, flips=False),
    "no images": make_trace(9, 6, images="none"),
    "no controls": make_trace(9, 6, controls=()),
    "no labels": make_trace(9, 6, labels=None),
    "one step": make_trace(9, 1),
    "every image": make_trace(9, 12, images="all"),
}


@pytest.mark.browser
@pytest.mark.parametrize("kind", ODD)
def test_unusual_traces_can_be_opened(browser, tmp_path, kind):
    with opened(browser, page.write([ODD[kind]], tmp_path / "report.html"), width=390) as it:
        it.look("document.querySelector('#aligned input[value=true]').click()")
        it.settle()
        it.page.click("#next")
        it.settle()
        assert it.look("document.documentElement.scrollWidth") <= 390
        assert it.problems == []


@pytest.mark.browser
def test_inputs_that_are_not_images_are_said_to_be_so(browser, tmp_path, trace):
    flat = replace(trace, images=trace.images._replace(x=trace.images.x.reshape(len(trace.images.x), -1)))
    with opened(browser, page.write([flat], tmp_path / "report.html")) as it:
        assert "not images" in it.page.inner_text("#inspector-note")
        assert it.page.locator("canvas#canvas-input").count() == 0
        assert it.problems == []


@pytest.mark.browser
def test_hostile_texts_stay_texts(browser, tmp_path):
    names = {"labels": (HOSTILE,) * 10, "cautions": (Caution(HOSTILE, HOSTILE),), "model": HOSTILE}
    hostile = make_trace(12, 5, (HOSTILE, "<b>x</b>"), controls=(HOSTILE,), **names)
    with opened(browser, page.write([hostile, make_trace(9, 6)], tmp_path / "report.html"), width=390) as it:
        assert it.look("window.owned") is None
        assert it.look("document.images.length") == 0
        assert HOSTILE in it.page.inner_text("#cautions")
        assert it.look("document.documentElement.scrollWidth") <= 390
        assert it.problems == []


@pytest.mark.browser
def test_paper_is_light_and_the_screen_is_as_before(browser, file, tmp_path):
    with opened(browser, file, scheme="dark") as it:
        it.look("addEventListener('beforeprint', () => { window.printed = document.documentElement.dataset.theme; })")
        it.page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert it.look("window.printed") == "light"
        assert it.look("document.documentElement.dataset.theme") == "dark"
        assert it.problems == []


@pytest.mark.browser
def test_a_linked_plotly_is_loaded_from_disk_and_nothing_else(browser, trace, tmp_path):
    page.save_plotly(tmp_path)
    (tmp_path / "other.js").write_text("window.owned = 1")
    file = page.write([trace], tmp_path / "cells" / "k" / "report.html", plotly="../../plotly.min.js")
    with opened(browser, file) as it:
        assert it.problems == []
        assert [r.rsplit("/", 1)[1] for r in it.requests if r.startswith("file:")] == ["report.html", "plotly.min.js"]
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


@pytest.mark.browser
def test_several_runs_share_a_page(browser, tmp_path):
    runs = [make_trace(20, 10, eps=0.1), make_trace(30, 10, eps=0.3, seed=1)]
    with opened(browser, page.write(runs, tmp_path / "report.html")) as it:
        it.page.select_option("#run", "1")
        it.page.check("#runs-on")
        it.settle()
        assert "eps 0.1, seed 0" in it.look("document.getElementById('valley').data.map((t) => t.name)")
        assert "eps 0.3" in it.page.inner_text("#statistics") and "eps 0.1" in it.page.inner_text("#statistics")
        assert "30" in it.page.inner_text("#chips")
        assert it.problems == []


# --- beyond one number: κ without confidence, the curve over τ, where the accuracy is taken


def test_the_page_has_what_hangs_on_no_choice(trace):
    run = page_data.pages([trace])["runs"][0]
    assert run["attacked_at"] == "last iterate"
    for path in run["paths"]:
        for layer, found in zip(run["layers"], path["layers"], strict=True):
            values = trace.matrix("scale_free", layer=layer["name"], path=path["name"]).values
            np.testing.assert_allclose(unpack(found["free"]["raw"]["median"]), np.median(values, axis=0), rtol=1e-6)
            valley = trace.valley(layer=layer["name"], path=path["name"])
            look = found["measures"]["relative_flatness"]
            np.testing.assert_allclose(unpack(look["over_tau"]["value"]), valley.over_tau().value, rtol=1e-6)
            assert look["over_tau"]["n"] == look["depths"]["n"] == valley.summary().flipped.count


@pytest.mark.browser
@pytest.mark.parametrize(("which", "shown"), [("now", True), ("version 1", False)])
def test_the_second_curve_is_drawn_where_it_was_measured(browser, trace, tmp_path, which, shown):
    from flatlens.records import runs

    old = runs.load(Path(__file__).parents[1] / "version1" / "run").trace()
    file = page.write([trace if which == "now" else old], tmp_path / "page.html")
    with opened(browser, file) as seen:
        assert seen.look("() => !document.getElementById('free-card').hidden") == shown
        assert seen.look("() => document.querySelectorAll('#free .main-svg').length > 0") == shown
        assert seen.look("() => document.querySelectorAll('#tau .main-svg').length > 0")
        tiles = seen.look("() => document.getElementById('tiles').textContent")
        assert "right at the last iterate" in tiles and seen.problems == []
