"""The page of all pairs of classes: a heat map that is a table, a figure, and every number."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flatlens.records.immunized import PAIRS, Result
from flatlens.report import html_file, immunity_page
from tests.browser import opened
from tests.drawn_cells import HOSTILE
from tests.web_tools import barriers

TOLD = {"method": "ceiling", "ridge": 0.001, "data": {"uri": "flatlens:digits"}, "model": None}


def pairs(classes=("0", "1", "2"), *, held=True):
    two = [(a, b) for a in classes for b in classes if a != b]
    k = np.arange(1.0, len(two) + 1)
    nothing = np.full(len(two), np.nan)
    table = {"primary": np.array([a for a, _ in two]), "harmful": np.array([b for _, b in two])}
    table |= {"i": np.exp(k), "ii": np.exp(-k), "rir": np.exp(2 * k), "bound": np.exp(2 * k)}
    return table | {f"heldout_{name}": table[name] / 2 if held else nothing for name in ("i", "ii", "rir")}


def document(table, **more):
    return immunity_page.document(Result(TOLD | more, {PAIRS: table}))


def cells(text, column):
    part = text[text.index(f'data-map="{column}"') :]
    lines = re.findall("<tr>(.*?)</tr>", part[: part.index("</table>")])
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def test_the_map_has_the_primary_class_down_and_the_harmful_one_across():
    text = document(pairs())
    assert cells(text, "rir") == [
        ["primary ↓ harmful →", "0", "1", "2"],
        ["0", "–", "2.0", "4.0"],
        ["1", "6.0", "–", "8.0"],
        ["2", "10.0", "12.0", "–"],
    ]
    assert cells(text, "ii")[1] == ["0", "–", "−1.0", "−2.0"]
    # Deeper is better: of ii the lowest, of the others the highest.
    for column in ("rir", "ii"):
        part = text[text.index(f'data-map="{column}"') :]
        strengths = [int(s) for s in re.findall(r"--s:(\d+)%", part[: part.index("</table>")])]
        assert strengths == sorted(strengths) and (strengths[0], strengths[-1]) == (4, 52)


def test_the_sentence_counts_pairs_that_have_both():
    table = pairs()
    table["ii"][0] = 1.5
    text = document(table)
    said = re.sub("<[^>]+>", "", re.search("<h1>(.*?)</h1>", text, re.S)[1])
    assert said == (
        "In 5 of 6 ordered pairs of classes the harmful one is worse conditioned and the primary one better: "
        "ln RIR 7.0 on average, at least 2.0."
    )


def test_below_it_stands_how_many_pairs_keep_both_on_samples_that_were_held_out():
    table = pairs()
    table["heldout_i"], table["heldout_ii"] = np.full(6, 2.0), np.array([0.5, 0.5, 1.5, 2.0, np.nan, 0.9])
    below = re.search('<p id="below">(.*?)</p>', document(table), re.S) or re.search(
        "</h1>(.*?)</p>", document(table), re.S
    )
    assert "On samples that no extractor has seen it is so in 3 of 5." in below[1]
    assert "no extractor has seen it" not in document(pairs(held=False))


@pytest.mark.parametrize("held", [True, False])
def test_what_was_not_held_out_has_no_map_and_no_column(held):
    text = document(pairs(held=held))
    assert ('data-map="heldout_rir"' in text) == held and (">RIR, held out</th>" in text) == held


def test_no_pair_with_a_ratio_is_a_page_too():
    table = pairs(held=False) | {name: np.full(6, np.nan) for name in ("i", "ii", "rir")}
    text = document(table)
    assert "In <em" in text and "No pair has a ratio." in text


def test_hostile_classes_stay_text():
    text = document(pairs(("0", HOSTILE)), data={"uri": HOSTILE}, model={"uri": HOSTILE, "layer": HOSTILE})
    outside = text.replace(html_file.inline(html_file.asset(html_file.BUNDLE)), "")
    assert "<img" not in outside and outside.count("<script") == outside.count("</script") == 3


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_one_map_is_shown_at_a_time_and_the_keyboard_reaches_the_others(browser, tmp_path, width, scheme):
    file = immunity_page.write(Result(TOLD, {PAIRS: pairs(tuple("0123456789"))}), tmp_path / "report.html")
    with opened(browser, file, width=width, scheme=scheme, ready="html[data-ready] #scatter .main-svg") as it:
        visible = "[...document.querySelectorAll('[data-map]')].filter((m) => !m.hidden).map((m) => m.dataset.map)"
        assert it.look(visible) == ["rir"]
        it.page.focus("[data-show=ii]")
        it.page.keyboard.press("Enter")
        assert it.look(visible) == ["ii"]
        assert it.look("document.querySelector('[data-show=ii]').ariaPressed") == "true"
        assert it.look("document.documentElement.scrollWidth") <= width
        assert it.problems == [] and barriers(it.look) == []
