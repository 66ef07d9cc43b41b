"""What a reader can do with a sweep's page, in a browser: sort, filter, choose, fold, compare, print."""

from __future__ import annotations

import time

import numpy as np
import pytest

from flatlens.report import page, sweep_page
from flatlens.report.sweep_data import DrawnCell
from tests import drawn_cells
from tests.browser import opened
from tests.drawn_cells import HOSTILE, cell, spec
from tests.web_tools import barriers


@pytest.fixture(scope="module")
def digests():
    return drawn_cells.digests()


@pytest.fixture(scope="module")
def cells(digests):
    return drawn_cells.six(digests)


@pytest.fixture(scope="module")
def hostile():
    return drawn_cells.hostile()


@pytest.fixture(scope="module")
def file(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for one in cells[:4]:
        target = folder / one.page
        target.parent.mkdir(parents=True)
        target.write_text(f"<!doctype html><title>{one.key}</title>")
    return sweep_page.write(cells, folder / "index.html", name="robust-digits")


def view(browser, file, **more):
    return opened(browser, file, ready="html[data-ready] #runs tbody tr", **more)


FIRST = "[...document.querySelectorAll('#runs tbody tr')].map((row) => row.cells[0].innerText)"
COLUMN = "[...document.querySelectorAll('#runs tbody tr')].map((r) => r.children[{}]?.firstChild.textContent)"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_opens_without_errors_or_requests_and_fits(browser, file, scheme, width):
    with view(browser, file, width=width, scheme=scheme) as it:
        assert it.look("document.documentElement.scrollWidth") <= width
        it.page.click("#theme")
        it.settle()
        assert it.look("document.documentElement.dataset.theme") != scheme
        for name in ("against", "robust", "heat"):
            assert it.look(f"document.querySelectorAll('#{name} .main-svg').length") > 0
        assert it.look("document.querySelectorAll('#panels svg').length") == 4
        assert it.problems == [] and len([r for r in it.requests if not r.startswith(("data:", "blob:"))]) == 1


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_no_barrier(browser, file, scheme, width):
    with view(browser, file, width=width, scheme=scheme) as it:
        assert barriers(it.look) == []


@pytest.mark.browser
def test_it_says_what_was_swept_and_how_many_comparisons_it_makes(browser, file):
    with view(browser, file) as it:
        # Six of the eight that the product would be, so no × stands between them.
        assert "6 runs over model (4), train.adversarial (2)" in it.page.inner_text("#swept")
        assert "4 of 6 done" in it.page.inner_text("#states") and "1 failed" in it.page.inner_text("#states")
        said = it.page.inner_text("#comparisons")
        # Noise flips nothing in these traces.
        assert "8 shares of valleys" in said and "4 pairs of an attack and a control" in said
        assert "2 pairs of a defence and standard" in said and "on 4 of these paths nothing flipped" in said
        assert "heads=3 does not divide" in it.page.inner_text("#runs")
        assert (
            "any path that crosses a boundary confidently has a valley" in it.page.inner_text("#against-note").lower()
        )


@pytest.mark.browser
def test_the_table_sorts_by_every_column(browser, file, cells):
    shares = [c.digest["rows"][0]["valley_of_flipped"]["value"] for c in cells[:4]]
    with view(browser, file) as it:
        keys = it.look("[...document.querySelectorAll('#runs .sort')].map((b) => b.dataset.key)")
        for key in keys:
            it.page.focus(f"[data-key='{key}']")
            it.page.keyboard.press("Enter")
            assert it.look(f"document.activeElement.dataset.key === '{key}'")
            sort = f"document.querySelector(`[data-key='{key}']`).closest('th').getAttribute('aria-sort')"
            assert it.look(sort) in ("ascending", "descending")
        it.page.click("[data-key='valley']")
        column = COLUMN.format(keys.index("valley"))
        expected = [f"{100 * s:.1f} %" for s in sorted(shares, reverse=True)]
        assert it.look(column)[:4] == expected
        it.page.click("[data-key='valley']")
        assert it.look(column)[:4] == expected[::-1]
        # What has no numbers is last in either direction, and a third click gives the sweep's order back.
        assert it.look(FIRST)[4:] == ["vit-tiny", "vgg11-bn"]
        it.page.click("[data-key='valley']")
        assert it.look(FIRST) == ["cnn", "cnn", "mlp", "mlp", "vit-tiny", "vgg11-bn"]
        assert it.problems == []


@pytest.mark.browser
def test_filters_apply_to_the_table_and_to_every_figure(browser, file):
    with view(browser, file) as it:
        it.page.select_option("#pick-0", label="flatlens:mlp")
        it.settle()
        assert it.look(FIRST) == ["mlp", "mlp"] and it.page.inner_text("#matches") == "2 of 6 rows"
        assert it.look("document.querySelectorAll('#panels svg').length") == 2
        assert it.look("document.getElementById('heat').data[0].z.length") == 2
        assert it.look("document.getElementById('robust').data[1].x.length") == 1
        assert "4 shares" in it.page.inner_text("#comparisons")
        it.page.click("#reset")
        it.page.fill("#find", "FLATLENS:mlp pgd")
        it.until("document.getElementById('matches').textContent.startsWith('1 of')")
        it.settle()
        assert "None of the sweep’s 2 pairs" in it.page.inner_text("#robust-note")
        it.page.fill("#find", "divide")
        it.until("document.querySelector('#runs tbody').innerText.includes('vit-tiny')")
        it.settle()
        assert it.look("document.getElementById('panels-card').hidden && document.getElementById('heat-card').hidden")
        assert it.problems == []


@pytest.mark.browser
def test_chosen_runs_are_compared_alone_and_the_address_says_so(browser, file, cells):
    with view(browser, file) as it:
        for row in (0, 2):
            it.page.check(f"#runs tbody tr:nth-child({row + 1}) input.pick")
        it.page.click("#compare")
        it.settle()
        assert it.look(FIRST) == ["cnn", "mlp"]
        assert it.look("document.querySelectorAll('#panels svg').length") == 2
        hash_ = it.look("location.hash")
        assert hash_ == f"#only={cells[0].key}.{cells[2].key}"
        it.page.goto(f"file://{file}{hash_}&find=%3Cimg%20onerror%3D1%3E&sort=nothing&is%3Amodel=none")
        it.page.reload()
        it.until("document.querySelector('#runs')")
        assert it.page.input_value("#find") == "<img onerror=1>"
        it.page.click("#reset")
        it.settle()
        assert len(it.look(FIRST)) == 6
        assert it.problems == []


@pytest.mark.browser
def test_the_address_leads_back_to_what_was_chosen(browser, file):
    with view(browser, file) as it:
        it.page.select_option("#layer", label="conv1")
        it.look("document.querySelector('#share input[value=valley_of_all]').click()")
        it.page.select_option("#pick-state", "done")
        chosen = it.look("location.hash")
        it.page.focus(".skip")
        it.page.keyboard.press("Enter")  # a link inside the page leaves the address alone
        assert it.look("document.activeElement.id") == "all-runs" and it.look("location.hash") == chosen
        it.page.click("#reset")
        it.page.select_option("#layer", label="head")
        it.look("(hash) => { location.hash = hash; }", chosen)
        it.until("document.getElementById('matches').textContent === '4 of 6 rows'")
        assert it.page.input_value("#layer") == "1" and it.page.input_value("#pick-state") == "done"
        assert it.look("document.querySelector('#share input:checked').value") == "valley_of_all"
        assert it.problems == []


@pytest.mark.browser
def test_seeds_are_folded_to_their_median_and_range(browser, digests, tmp_path):
    several = [cell(k, spec("flatlens:cnn", seed=k), digests[k]) for k in range(3)]
    page = sweep_page.write(several, tmp_path / "seeds.html", name="seeds")
    with view(browser, page) as it:
        assert len(it.look(FIRST)) == 3
        it.page.check("#fold")
        it.settle()
        row = it.look("document.querySelector('#runs tbody tr').innerText")
        assert len(it.look(FIRST)) == 1 and "3 seeds" in row and "of 3" in row
        shares = sorted(d["rows"][0]["valley_of_flipped"]["value"] for d in digests[:3])
        assert f"{100 * shares[1]:.1f} %" in row
        assert it.look("location.hash") == "#fold=seeds"
        assert it.problems == []


@pytest.mark.browser
def test_menus_switch_layers_shares_and_heights(browser, file, cells):
    with view(browser, file) as it:
        it.page.select_option("#layer", "-1")
        it.settle()
        assert it.page.inner_text("#matches") == "10 rows" and "conv1" in it.page.inner_text("#runs")
        it.page.select_option("#layer", "1")
        it.look("document.querySelector('#share input[value=valley_of_all]').click()")
        before = it.look("document.getElementById('heat').data[0].z[0][0]")
        it.look("document.querySelector('#heights input[value=end]').click()")
        it.settle()
        (row,) = [r for r in cells[0].digest["rows"] if (r["layer"], r["path"]) == ("conv1", "attack")]
        assert f"{100 * row['valley_of_all']['value']:.1f} %" in it.page.inner_text("#runs tbody tr")
        (own,) = [
            m for m in cells[0].digest["measures"] if (m["layer"], m["measure"]) == ("conv1", "relative_flatness")
        ]
        after = it.look("document.getElementById('heat').data[0].z[0][0]")
        assert after == pytest.approx(np.log10(own["end"] / own["clean"]), abs=1e-5) and after != before
        assert it.problems == []


@pytest.mark.browser
def test_a_row_leads_to_its_run(browser, file, cells):
    with view(browser, file) as it:
        assert it.look("document.querySelector('#runs tbody a').getAttribute('href')") == cells[0].page
        assert it.look("document.querySelectorAll('#runs tbody a').length") == 4
        it.page.click("#runs tbody tr:nth-child(3) td:nth-child(4)")
        it.page.wait_for_url("**/report.html")
        assert it.page.title() == cells[2].key


@pytest.mark.browser
def test_each_picture_has_its_numbers_as_a_table_and_a_file(browser, file, cells):
    with view(browser, file) as it:
        rows = "[...document.querySelectorAll('#{} details.data tbody tr')].map((row) => row.innerText.split('\\t'))"
        cards = {"table": 6, "panels": 4 * 2 * 13, "against": 4, "robust": 2, "heat": 4 * 5}
        for card, many in cards.items():
            it.page.focus(f"#{card}-card details.data summary")
            it.page.keyboard.press("Enter")
            it.until(f"document.querySelectorAll('#{card}-card details.data tbody tr').length > 0")
            assert len(it.look(rows.format(f"{card}-card"))) == many, card
        assert barriers(it.look) == []
        with it.page.expect_download() as download:
            it.page.click("#against-card .takeaway button:nth-child(1)")
        head, first, *_ = download.value.path().read_text("utf-8").splitlines()
        assert head.startswith("run,control,attack,attack low") and first.startswith(
            "cnn · standard,line-to-other-class,"
        )
        (own,) = [r for r in cells[0].digest["rows"] if (r["layer"], r["path"]) == ("head", "attack")]
        assert float(first.split(",")[2]) == pytest.approx(own["valley_of_flipped"]["value"], abs=1e-6)
        with it.page.expect_download() as download:
            it.page.click("#heat-card .takeaway button:nth-child(2)")
        assert "<svg" in download.value.path().read_text("utf-8")[:300]
        it.page.select_option("#pick-0", label="flatlens:mlp")  # what is open follows what is chosen
        it.settle()
        assert len(it.look(rows.format("table-card"))) == 2 and it.look("scrollX") == 0
        assert it.look("document.documentElement.scrollWidth") <= 1440 and it.problems == []


@pytest.mark.browser
def test_a_step_is_read_in_all_panels_at_once(browser, file):
    with view(browser, file) as it:
        it.page.locator("#panels svg").first.scroll_into_view_if_needed()
        box = it.page.locator("#panels svg").first.bounding_box()
        it.page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"])
        said = it.look("[...document.querySelectorAll('.readout')].map((p) => p.textContent)")
        assert len(said) == 4 and len({text.split(":")[0] for text in said}) == 1 and said[0].startswith("step ")


@pytest.mark.browser
def test_hostile_names_stay_text(browser, hostile, tmp_path):
    with view(browser, sweep_page.write(hostile, tmp_path / "s.html", name=HOSTILE)) as it:
        assert it.look("window.owned") is None and it.look("document.querySelectorAll('img').length") == 0
        assert it.page.inner_text("#headline") == HOSTILE and HOSTILE in it.page.inner_text("#runs")
        assert it.look("document.documentElement.scrollWidth") <= 1440 and it.problems == []


@pytest.mark.browser
@pytest.mark.parametrize("count", [0, 1])
def test_small_and_empty_sweeps(browser, count, digests, tmp_path):
    few = [cell(0, spec(), digests[0])][:count] or [DrawnCell("0" * 16, spec(), None, None, "waiting")]
    with view(browser, sweep_page.write(few, tmp_path / "s.html", name="s"), width=390) as it:
        assert f"{count} of 1 done" in it.page.inner_text("#states")
        assert it.look("document.getElementById('panels-card').hidden") == (count == 0)
        assert it.problems == []


@pytest.mark.browser
def test_without_a_script_the_table_is_there(browser, hostile, file, cells, tmp_path):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert tab.inner_text("#headline") == "robust-digits" and tab.locator("#runs tbody tr").count() == 6
    (share,) = [
        r["valley_of_flipped"] for r in cells[0].digest["rows"] if (r["layer"], r["path"]) == ("head", "attack")
    ]
    said = f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
    assert said in tab.inner_text("#runs tbody tr:first-child") and "heads=3" in tab.inner_text("#runs")
    assert tab.locator("#runs tbody a").first.get_attribute("href") == cells[0].page
    assert not tab.is_visible("#controls") and not tab.is_visible("figure") and tab.is_visible("noscript")
    tab.goto(sweep_page.write(hostile, tmp_path / "s.html", name=HOSTILE).as_uri())
    assert tab.inner_text("#headline") == HOSTILE and HOSTILE in tab.inner_text("#runs")
    assert tab.locator("img").count() == 0
    context.close()


@pytest.mark.browser
def test_2_000_runs_are_answered_at_once(browser, cells, tmp_path):
    many = [cells[k % 4]._replace(key=f"{k:016x}", spec=cells[k % 4].spec | {"seed": k // 4}) for k in range(2000)]
    with view(browser, sweep_page.write(many, tmp_path / "s.html", name="s")) as it:
        assert it.look("document.querySelectorAll('#runs tbody tr').length") == 200
        it.page.click("#more-rows")
        assert it.look("document.querySelectorAll('#runs tbody tr').length") == 400
        began = time.perf_counter()
        it.page.click("[data-key='valley']")
        it.page.fill("#find", "mlp")
        it.until("document.getElementById('matches').textContent === '1,000 of 2,000 rows'")
        it.settle()
        assert time.perf_counter() - began < 6
        assert it.problems == []


@pytest.mark.browser
def test_a_linked_plotly_works_from_disk(browser, cells, tmp_path):
    page.save_plotly(tmp_path)
    file = sweep_page.write(cells, tmp_path / "index.html", name="s", plotly="plotly.min.js")
    assert file.stat().st_size < 200_000
    with view(browser, file) as it:
        assert it.look("document.querySelectorAll('#heat .main-svg').length") > 0 and it.problems == []
        assert [r.rsplit("/", 1)[1] for r in it.requests if r.startswith("file:")] == ["index.html", "plotly.min.js"]


@pytest.mark.browser
def test_paper_is_light_and_the_screen_is_as_before(browser, file, tmp_path):
    with view(browser, file, scheme="dark") as it:
        it.look("addEventListener('beforeprint', () => { window.printed = document.documentElement.dataset.theme; })")
        it.page.pdf(path=tmp_path / "sweep.pdf")
        assert it.look("window.printed") == "light"
        assert it.look("document.documentElement.dataset.theme") == "dark"
        assert it.problems == []
