"""What a reader can do with a sweep's defences, in a browser: see, point, walk with keys, sort, do without a script."""

from __future__ import annotations

import pytest

from flatlens.report import sweep_page
from tests import drawn_cells
from tests.browser import opened
from tests.drawn_cells import HOSTILE, reached
from tests.web_tools import barriers


@pytest.fixture(scope="module")
def cells():
    return drawn_cells.defended(drawn_cells.digests()[0])


@pytest.fixture(scope="module")
def file(cells, tmp_path_factory):
    return sweep_page.write(cells, tmp_path_factory.mktemp("defences") / "index.html", name="defences")


def view(browser, file, **more):
    return opened(browser, file, ready="html[data-ready] #defences-table tbody tr", **more)


NAMES = "[...document.querySelectorAll('#defences-table tbody th')].map((th) => th.textContent)"
BOXES = """() => {
  const at = (node) => { const r = node.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const names = [...document.querySelectorAll("#defences [data-across=kappa] .name")];
  return { names: names.map((n) => n.textContent), boxes: names.map(at),
    frame: at(document.querySelector("#defences [data-across=kappa]")),
    dots: [...document.querySelectorAll("[data-across=kappa] :is(.dot, .mean) > :last-child")].map(at) };
}"""


def apart(a, b):
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_it_fits_without_barriers_and_its_names_lie_apart(browser, file, scheme, width):
    with view(browser, file, width=width, scheme=scheme) as it:
        assert it.look("document.documentElement.scrollWidth") <= width
        assert "Flat is not robust, and robust is not flat" in it.page.inner_text("#defences-card")
        found = it.look(BOXES)
        assert sorted(found["names"]) == ["fam", "gradient", "pgd", "sam", "standard", "trades"]
        for k, box in enumerate(found["boxes"]):
            assert not apart(box, found["frame"]) and all(apart(box, other) for other in found["boxes"][k + 1 :])
            assert all(apart(box, dot) for dot in found["dots"])
        assert len(found["dots"]) == 12 + 6
        assert barriers(it.look) == []
        assert it.problems == []


@pytest.mark.browser
def test_what_is_trained_against_an_attack_differs_in_shape_and_colour_and_masked_is_hollow(browser, file):
    with view(browser, file) as it:
        kinds = it.look(
            "[...document.querySelectorAll('[data-across=kappa] .dot')]"
            ".map((g) => [Number(g.dataset.row), g.lastChild.tagName, "
            "getComputedStyle(g.lastChild).stroke, getComputedStyle(g.lastChild).fill, g.getAttribute('aria-label')])"
        )
        attacked = {(tag, ink) for row, tag, ink, _, _ in kinds if row in (4, 5)}
        others = {(tag, ink) for row, tag, ink, _, _ in kinds if row not in (4, 5)}
        assert {tag for tag, _ in attacked} == {"path"} and {tag for tag, _ in others} == {"circle"}
        assert len(attacked) == len(others) == 1 and not {ink for _, ink in attacked} & {ink for _, ink in others}
        assert [said for _, _, ink, fill, said in kinds if ink != fill] == [kinds[-1][-1]]
        assert kinds[-1][-1].startswith("pgd, seed 1: κ 1,500, Lipschitz bound 47") and kinds[-1][-1].endswith("masked")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_the_lipschitz_bound_has_a_picture_of_its_own_and_lights_the_same_defence_in_both(browser, file, width):
    with view(browser, file, width=width) as it:
        kappa, bound = it.look("[...document.querySelectorAll('#defences svg')].map((s) => s.dataset.across)")
        assert (kappa, bound) == ("kappa", "lipschitz")
        (left, top, *_), (beside, below, right, _) = it.look(
            "[...document.querySelectorAll('#defences svg')].map((s) => s.getBoundingClientRect())"
            ".map((r) => [r.left, r.top, r.right, r.bottom])"
        )
        assert (beside > left and below == top) if width == 1440 else (beside == left and below > top)
        assert right <= width
        it.page.locator("#defences [data-across=lipschitz] .dot").nth(0).hover()
        assert ", Lipschitz bound 10,000, worst case" in it.page.inner_text("#defences-readout")
        lit = "[...document.querySelectorAll('#defences .dot.lit')].map((g) => g.closest('svg').dataset.across)"
        assert sorted(set(it.look(lit))) == ["kappa", "lipschitz"]
        assert it.problems == []


@pytest.mark.browser
def test_keys_and_pointer_reach_every_dot(browser, file):
    with view(browser, file) as it:
        label = "document.activeElement.getAttribute('aria-label')"
        it.look("document.querySelector('#defences [data-across=kappa] .dot[tabindex=\"0\"]').focus()")
        it.page.keyboard.press("Home")
        seen = [it.look(label)]
        for _ in range(11):
            it.page.keyboard.press("ArrowRight")
            seen.append(it.look(label))
        every = it.look(
            "[...document.querySelectorAll('[data-across=kappa] .dot')].map((g) => g.getAttribute('aria-label'))"
        )
        assert sorted(seen) == sorted(every) and len(set(seen)) == 12
        assert it.page.inner_text("#defences-readout") == seen[-1]
        assert it.look("document.querySelectorAll('#defences [data-across=kappa] .dot[tabindex=\"0\"]').length") == 1
        assert it.look("[...document.querySelectorAll('#defences-table tr.lit')].map((r) => r.dataset.row)") == ["5"]
        it.page.keyboard.press("ArrowDown")
        assert it.look(label) != seen[-1]
        it.look("document.activeElement.blur()")
        it.page.locator("#defences [data-across=kappa] .dot").nth(2).hover()
        assert it.page.inner_text("#defences-readout") == every[2]
        assert it.problems == []


@pytest.mark.browser
def test_the_table_sorts_by_every_column(browser, file):
    with view(browser, file) as it:
        heads = it.page.locator("#defences-table .sort")
        worst, name = 3, 0
        heads.nth(worst).click()
        strip = [text.split()[-1] for text in it.look(NAMES)]
        assert strip == ["pgd", "trades", "gradient", "sam", "standard", "fam"]
        heads.nth(worst).click()
        assert [text.split()[-1] for text in it.look(NAMES)] == strip[::-1]
        for k in range(heads.count()):
            heads.nth(k).focus()
            it.page.keyboard.press("Enter")
            sort = "(k) => document.querySelectorAll('#defences-table th')[k].getAttribute('aria-sort')"
            assert it.look(sort, k) in ("ascending", "descending")
        heads.nth(name).click()
        assert it.problems == []


@pytest.mark.browser
def test_each_defence_stands_beside_its_standard_twin_by_name(browser, file):
    with view(browser, file) as it:
        drawn = it.look(
            "(({ data, layout }) => [data.slice(1).map((t) => [t.name, t.x.length]), layout.yaxis.ticktext])"
            "(document.getElementById('robust'))"
        )
        assert drawn[0] == [["standard", 10], ["with a defence", 10]]
        for name in ("fam", "sam", "gradient", "trades", "pgd"):
            assert sum(name in label for label in drawn[1]) == 2
        note = it.page.inner_text("#robust-note")
        assert "nothing but the defence of their training" in note and "adversarial" not in note


@pytest.mark.browser
def test_two_kinds_of_adversarial_training_are_told_apart(browser, cells, tmp_path):
    kinds = [None, "pgd", "fgsm"]
    three = [
        one._replace(spec=one.spec | {"train": one.spec["train"] | {"adversarial": kind, "penalty": None, "seed": 0}})
        for one, kind in zip(cells[2:], kinds, strict=False)
    ]
    with view(browser, sweep_page.write(three, tmp_path / "s.html", name="s")) as it:
        labels = it.look("document.getElementById('robust').layout.yaxis.ticktext")
        assert len(labels) == 2 and "pgd" in labels[0] and "fgsm" in labels[1]


@pytest.mark.browser
def test_without_a_script_sentence_and_table_are_there(browser, file):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert tab.locator("#defences-table tbody tr").count() == 6 and tab.is_visible("#defences-table")
    assert "Flat is not robust" in tab.inner_text("#defences-card") and not tab.is_visible("#defences-figure")
    context.close()


@pytest.mark.browser
def test_trainings_without_a_closed_form_are_in_the_table_alone(browser, cells, tmp_path):
    without = [one._replace(trained=reached(None, 0.5)) for one in cells]
    with view(browser, sweep_page.write(without, tmp_path / "s.html", name="s")) as it:
        assert it.look("[...document.querySelectorAll('#defences svg')].map((s) => s.dataset.across)") == ["lipschitz"]
        assert it.look("document.querySelectorAll('#defences-table tbody tr').length") == 6
    neither = [one._replace(trained=reached(None, 0.5, lipschitz=None)) for one in cells]
    with view(browser, sweep_page.write(neither, tmp_path / "n.html", name="n")) as it:
        assert not it.page.is_visible("#defences-figure")
        assert it.problems == []


@pytest.mark.browser
def test_hostile_names_stay_text(browser, cells, tmp_path):
    bad = [
        one._replace(spec=one.spec | {"model": HOSTILE + str(k)}, trained=reached(alarms=[HOSTILE], norm=HOSTILE))
        for k, one in enumerate(cells)
    ]
    with view(browser, sweep_page.write(bad, tmp_path / "s.html", name=HOSTILE)) as it:
        assert it.look("window.owned") is None and it.look("document.querySelectorAll('img').length") == 0
        assert HOSTILE in it.page.inner_text("#defences-table") and it.problems == []
