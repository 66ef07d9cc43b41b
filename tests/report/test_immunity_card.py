"""The card of a sweep's immunizations: seeds together, methods apart, and the model as it was beside them."""

from __future__ import annotations

import re

import pytest

from flatlens.report import immunity_card, sweep_page
from flatlens.specs.immunize import ImmunizeSpec
from tests.browser import opened
from tests.drawn_cells import HOSTILE, cell, digests, spec
from tests.web_tools import barriers


def reached(i=30.0, left=0.2, **more):
    told = {"method": "alg1", "stop": "steps", "i": i, "ii": 0.5, "rir": i / 0.5, "bound": 900.0, "heldout_i": i,
            "heldout_ii": 1.0, "heldout_rir": i, "harmful_left": left, "harmful_left_before": 0.01,
            "primary_left": 0.002, "primary_left_before": 0.005}  # fmt: skip
    return told | more


def immune(k, method, seed, told, **more):
    return cell(k, spec(immunize=ImmunizeSpec(method=method, seed=seed), **more), digests()[k % 3], immunized=told)


def cells():
    return [
        cell(0, spec(), digests()[0]),
        immune(1, "alg1", 0, reached(20.0)),
        immune(2, "alg1", 1, reached(40.0, 0.3)),
        immune(3, "alg1", 2, reached(30.0, 0.25)),
        immune(4, "r-ill", 0, reached(1e12, 0.9, primary_left=0.8)),
    ]


def test_seeds_are_one_row_with_their_range_and_the_model_as_it_was_comes_first():
    plain, alg1, ill = immunity_card.folded(cells())
    assert [(row["name"], row["seeds"]) for row in (plain, alg1, ill)] == [
        ("not immunized", 1), ("alg1", 3), ("r-ill", 1)]  # fmt: skip
    assert alg1["i"] == [30.0, 20.0, 40.0] and alg1["harmful_left"] == [0.25, 0.2, 0.3]
    assert plain["i"] == [None] * 3 and plain["harmful_left"] == [0.01] * 3 and plain["primary_left"][0] == 0.005
    shares = [one["rows"][0]["valley_of_flipped"]["value"] for one in digests()]
    assert alg1["valleys"] == [sorted(shares)[1], min(shares), max(shares)] and plain["valleys"][0] == shares[0]


def test_another_attack_on_the_same_model_is_no_other_immunization():
    both = [immune(0, "alg1", 0, reached()), immune(1, "alg1", 0, reached(), steps=7)]
    (row,) = immunity_card.folded(both)
    assert row["seeds"] == 1 and row["valleys"][1] == row["valleys"][2]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (cells(), "Where the primary task is spared, most of the harmful loss is left by alg1: 25 % to plain gradient "
                  "descent, with 0.2 % of the primary one; not immunized 1 % and 0.5 %."),
        (cells()[4:], "No method spares the primary task; most of the harmful loss is left by r-ill: 90 %"),
        ([immune(0, "ceiling", 0, reached(harmful_left=None))], "condition numbers are not speed"),
    ],
    ids=["one spares it", "none does", "no targets"],
)  # fmt: skip
def test_the_verdict_is_of_the_loss_that_is_left(told, says):
    assert says in immunity_card.card(told)


def test_what_else_differs_is_in_the_name():
    rows = immunity_card.folded([
        cell(k, spec(immunize=ImmunizeSpec(method="alg1", ridge=ridge)), digests()[0], immunized=reached())
        for k, ridge in enumerate((0.01, 0.1))
    ])  # fmt: skip
    assert [row["name"] for row in rows] == ["alg1, ridge 0.01", "alg1, ridge 0.1"]


def test_without_an_immunization_there_is_no_card():
    assert immunity_card.card([cell(0, spec(), digests()[0])]) == ""
    assert 'id="immunity-card"' not in sweep_page.document([cell(0, spec(), digests()[0])], name="s")


def test_hostile_names_and_figures_stay_text():
    odd = spec(model=HOSTILE) | {"immunize": {"method": HOSTILE, "layer": HOSTILE}}
    told = {"i": HOSTILE, "ii": [], "harmful_left": True, "primary_left": None}
    text = immunity_card.card([cell(0, odd, digests()[0], immunized=told), *cells()])
    assert "<img" not in text and "<script" not in text and "&lt;img" in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_it_stands_on_the_page_of_the_sweep(browser, tmp_path, width):
    file = sweep_page.write(cells(), tmp_path / "report.html", name="immune")
    with opened(browser, file, width=width, ready="#runs tbody tr") as it:
        assert it.look("document.querySelectorAll('#immunity-table tbody tr').length") == 3
        assert it.look("document.documentElement.scrollWidth") <= width
        assert it.problems == [] and barriers(it.look) == []
        values = """(k) => [...document.querySelectorAll(`#immunity-table tbody tr > :nth-child(${k + 1})`)]
            .map((cell) => cell.dataset.value).filter((value) => value !== undefined).map(Number)"""
        heads = it.page.locator("#immunity-table .sort")
        for k in range(1, heads.count()):
            heads.nth(k).click()
            told = it.look(values, k)
            assert told and told == sorted(told, reverse=True)
            heads.nth(k).click()
            assert it.look(values, k) == sorted(told)
        assert it.problems == []
    text = file.read_text()
    assert len(re.findall('id="immunity-card"', text)) == 1
