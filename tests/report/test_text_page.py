"""How the page of a language model's run is used: slider, chips, heat map, keys, dark; hostile pieces are text."""

from __future__ import annotations

import pyarrow.compute as pc
import pytest

from flatlens.report import page
from tests.browser import opened
from tests.synthetic import make_trace
from tests.synthetic_text import HOSTILE, make_text_trace
from tests.web_tools import barriers


@pytest.fixture(scope="module")
def trace():
    return make_text_trace(pieces=HOSTILE)


def slot_of(trace, sample, step):
    rows = trace.tokens.to_pylist()
    return [r for r in rows if (r["path"], r["sample"], r["step"]) == ("attack", sample, step)]


@pytest.mark.browser
def test_chips_are_the_tokens_of_the_step_and_hostile_pieces_are_text(it, trace):
    sample = it.look("flatlens.run.sample[flatlens.state.sample]")
    for step in (0, 3, 12):
        it.look("(step) => flatlens.change({ step })", step)
        it.settle()
        found = it.look(
            "[...document.querySelectorAll('.chip.slot')].map((n) => [n.title, n.classList.contains('changed')])"
        )
        expected = slot_of(trace, sample, step)
        assert len(found) == len(expected)
        for (title, changed), token in zip(found, expected, strict=True):
            assert f"token {token['token']} ·" in title and changed == token["changed"]
    assert it.look("window.owned") is None
    assert it.look("document.querySelectorAll('#prompt script, #prompt img').length") == 0
    prefix = trace.prompts[0]["pieces"]["prefix"]
    assert len(prefix) == 2
    # All kinds of hostile pieces, in prompts and slots, are seen as they are spelt.
    shown = it.look("flatlens.run.text.pieces.join('')")
    assert all(piece in shown for piece in HOSTILE)


@pytest.mark.browser
def test_the_slider_keys_and_colours_move_the_chips(it):
    it.look("() => flatlens.change({ step: 2 })")
    it.settle()
    before = it.page.get_attribute("#chips", "aria-label")
    it.page.keyboard.press("ArrowRight")
    it.settle()
    assert it.look("flatlens.state.step") == 3 and it.page.get_attribute("#chips", "aria-label") != before
    grounds = "[...document.querySelectorAll('.chip.slot')].map((n) => getComputedStyle(n).backgroundColor).join()"
    seen = set()
    for tint in ("changed", "age", "grad", "dot"):
        it.page.click(f"#tint button[data-value={tint}]")
        seen.add(it.look(grounds))
    assert len(seen) >= 3
    it.page.click("#tint button[data-value=changed]")
    assert "target" in it.page.inner_text("#live")


@pytest.mark.browser
def test_a_text_that_does_not_give_its_tokens_back_is_warned_of(it):
    sample = it.look("flatlens.run.sample[flatlens.state.sample]")
    for step in range(1, 9):
        it.look("(step) => flatlens.change({ step })", step)
        it.settle()
        assert it.page.is_visible("#retokenises") == ((sample + step) % 4 == 3)


@pytest.mark.browser
def test_the_heat_map_and_the_plane_hold_the_numbers(it, trace):
    it.look("document.getElementById('heat').scrollIntoView()")
    it.until("document.querySelector('#heat .main-svg') && document.querySelector('#against .main-svg')")
    it.settle()
    sample = it.look("flatlens.run.sample[flatlens.state.sample]")
    z = it.look("document.getElementById('heat').data[0].z")
    at = [r for r in trace.positions.to_pylist() if r["path"] == "attack" and r["sample"] == sample]
    for row in at:
        assert 10 ** z[row["position"]][row["step"]] == pytest.approx(row["nll"], rel=1e-5)
    it.page.click("#heat-of button[data-value=kappa]")
    assert 10 ** it.look("document.getElementById('heat').data[0].z[0][0]") == pytest.approx(
        at[0]["relative_flatness"], rel=1e-5
    )
    names = it.look("document.getElementById('against').data.flatMap((t) => t.text ?? [])")
    assert {"0×", "32×", "ask", "planted"} <= set(names)
    boxes = it.look("""[...document.querySelectorAll('#against .annotation-text')]
        .map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right, box.top, box.bottom])""")
    assert boxes
    for k, (left, right, top, bottom) in enumerate(boxes):
        for x0, x1, y0, y1 in boxes[:k]:
            assert min(right, x1) - max(left, x0) < 2 or min(bottom, y1) - max(top, y0) < 2
    assert "by construction" in it.page.inner_text("figure:has(#against) figcaption")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_it_can_be_read_by_all(browser, file, width, scheme):
    with opened(browser, file, width=width, scheme=scheme) as found:
        assert barriers(found.look) == []
        assert found.look("document.documentElement.scrollWidth") <= width
        assert found.problems == [] and len(found.requests) == 1


@pytest.mark.browser
def test_a_page_of_both_kinds_changes_its_inspector(browser, tmp_path):
    file = page.write([make_text_trace(2, 4), make_trace(20, 6)], tmp_path / "both.html")
    with opened(browser, file) as found:
        assert found.page.is_visible("#prompt") and found.page.inner_text("#rail-title") == "Prompt"
        found.look("() => flatlens.change({ run: 1 })")
        found.settle()
        assert not found.page.is_visible("#prompt") and found.page.is_visible("#pictures")
        assert found.page.inner_text("#rail-title") == "Sample" and not found.page.is_visible("#against")
        found.look("() => flatlens.change({ run: 0 })")
        found.settle()
        assert found.page.is_visible("#prompt") and found.problems == []


@pytest.mark.browser
def test_redacted_it_shows_no_letter(browser, tmp_path):
    file = page.write([make_text_trace(2, 4, pieces=HOSTILE)], tmp_path / "black.html", redact=True)
    with opened(browser, file) as found:
        shown = found.look(
            "[...document.querySelectorAll('#chips bdi, #target-chips bdi')].map((n) => n.textContent).join('')"
        )
        assert set(shown) <= set("▮·⏎") and "▮" in shown and found.problems == []


@pytest.mark.browser
def test_a_mixture_shows_the_text_that_it_is_rounded_to(browser, tmp_path, file):
    trace = make_text_trace(2, 4, soft=True, relaxed=True, pieces=HOSTILE)
    with opened(browser, page.write([trace], tmp_path / "mixed.html")) as found:
        sample = found.look("flatlens.run.sample[flatlens.state.sample]")
        rows = trace.tokens.filter(pc.equal(trace.tokens["kind"], "discrete")).to_pylist()
        for step in (0, 3):
            found.look("(step) => flatlens.change({ step })", step)
            found.settle()
            pieces = [row["piece"] for row in rows if (row["sample"], row["step"]) == (sample, step)]
            shown = found.look("document.querySelector('#rounded bdi').textContent")
            assert found.page.is_visible("#rounded")
            plain = [piece for piece in pieces if piece.isprintable()]
            assert plain and all(piece.strip() in shown for piece in plain)
        assert found.look("window.owned") is None and found.problems == []
    with opened(browser, file) as found:
        assert not found.page.is_visible("#rounded")
