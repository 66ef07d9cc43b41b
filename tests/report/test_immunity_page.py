"""The page of an immunization: its sentence, its figures and tables, from a folder that may lack anything."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

from flatlens.errors import ResourceError
from flatlens.records.immunized import ATTACKERS, FINETUNING, HISTORY, Result
from flatlens.report import drawn_immunity, html_file, immunity_page, immunity_words
from flatlens.report.roles import colours
from tests import immunized_rows
from tests.browser import opened
from tests.drawn_cells import HOSTILE
from tests.immunized_rows import RATES, attackers, history, made, told, tuned
from tests.web_tools import barriers

DRAWN = ["harmful", "primary", "left-harmful", "left-primary", "tuned-0", "tuned-1", "history"]


def said(text):
    """What stands in the page's sentence, as text."""
    return re.sub("<[^>]+>", "", re.search("<h1>(.*?)</h1>", text, re.S)[1])


def lines(text, heading):
    """The cells of the table below a heading."""
    part = text[text.index(f">{heading}</h2>") :]
    part = part[: part.index("</table>")]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall("<tr>.*?</tr>", part)]


# --- what it says


def test_the_first_screen_is_one_sentence_of_the_result_and_what_it_does_not_protect_from():
    text = immunity_page.document(made())
    assert said(text) == (
        "Much slower: after 100 iterations of plain gradient descent 37 % of the harmful task’s loss is left, without "
        "immunization 0.0045 %. Conjugate gradients and least squares learn it as before."
    )
    assert "which removes nothing: it costs time" in text
    assert "by Adam has 92 % of the harmful task right after 4 epochs, without immunization 92 %" in text
    assert "Harmful npz:b.npz; primary flatlens:digits, classes 0, 1." in text


@pytest.mark.parametrize(
    ("rates", "begins"),
    [
        ({"identity": 0.1, "immunized": 0.02}, "Much slower"),
        ({"identity": 0.05, "immunized": 0.04}, "A little slower"),
        ({"identity": 0.05, "immunized": 0.05}, "Not slower"),
        ({"identity": 0.02, "immunized": 0.04}, "Not slower"),
        ({"identity": 0.3, "immunized": 0.08}, "Not slower"),
    ],
    ids=["times 3000", "times 2.7", "the same", "faster", "learnt all the same"],
)
def test_the_verdict_follows_the_loss_that_is_left(rates, begins):
    found = Result(told(), {ATTACKERS: attackers(RATES | {"gradient-descent": rates})})
    assert said(immunity_page.document(found)).startswith(f"{begins}: after 100 iterations")


def test_a_primary_task_that_became_slower_is_told():
    found = Result(told(), {ATTACKERS: attackers({"gradient-descent": {"identity": 0.01, "immunized": 0.1}})})
    assert "The primary task is slower, too: 37 % left, without immunization 0.0045 %." in said(
        immunity_page.document(found)
    )


@pytest.mark.parametrize("more", [{"bound": 1.02}, {"stop": "not-immunizable"}], ids=["ceiling of 1", "it says so"])
def test_what_cannot_be_immunized_is_called_so(more):
    text = immunity_page.document(made(**more))
    assert said(text).startswith("Not immunizable: both tasks see these features alike.")
    assert ": not immunizable</td>" in text


def test_without_targets_it_speaks_of_condition_numbers():
    text = immunity_page.document(Result(told(), {}))
    assert said(text).startswith(
        "The harmful task’s condition number is 104 × what it was, and the primary one’s 0.35 ×"
    )
    assert "no targets were given" in text


def test_condition_numbers_stand_with_the_ceiling_and_the_held_out_ones():
    assert lines(immunity_page.document(made()), "Condition numbers") == [
        ["task", "κ without θ", "κ with θ", "ratio", "ratio, held out", "wanted"],
        ["harmful: i", "1,117", "116,000", "104", "98", "above 1"],
        ["primary: ii", "1,265", "443", "0.35", "1.7", "below 1"],
        ["RIR = i / ii", "", "", "297", "57.6", "ceiling 18,520"],
    ]


def test_every_attacker_is_in_the_table():
    rows = lines(immunity_page.document(made()), "Loss left after 100 iterations")
    assert [row[0] for row in rows[1:]] == ["gradient descent", "conjugate gradients", "least squares", "Adam"]
    assert rows[1] == ["gradient descent", "0.0045 %", "37 %", "37 %", "0.0045 %"]
    assert rows[2][1:] == ["&lt; 0.001 %"] * 4


def test_fine_tuning_is_told_with_the_spread_of_its_seeds():
    rows = lines(immunity_page.document(made()), "Fine-tuning the whole network")
    assert rows[2] == ["SGD, harmful, immunized", "12.0 [10.0, 14.0]", "22.0 [20.0, 24.0]", "52.0 [50.0, 54.0]", "4"]
    assert len(rows) == 1 + 8


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0307, "0.0307"), (18520.4, "18,520"), (2.5e12, "2.5 · 10¹²"), (4e-9, "4.0 · 10⁻⁹"), (0.0, "0"), (None, "–"),
     (math.nan, "–"), (True, "–"), ("<b>", "–")],
)  # fmt: skip
def test_numbers_are_short(value, expected):
    assert immunity_words.short(value) == expected


# --- what it draws


@pytest.mark.parametrize("task", ["harmful", "primary"])
def test_convergence_is_drawn_as_it_is_told_and_ends_at_the_lower_edge(task):
    table = attackers()
    figure = drawn_immunity.convergence(table, task)
    by_name = {line["name"]: line for line in figure["data"]}
    assert set(by_name) == {"gradient descent", "… not immunized", "conjugate gradients", "least squares", "Adam"}
    for name, attacker, extractor in (
        ("gradient descent", "gradient-descent", "immunized"),
        ("… not immunized", "gradient-descent", "identity"),
        ("conjugate gradients", "conjugate-gradients", "immunized"),
    ):
        those = (table["task"] == task) & (table["attacker"] == attacker) & (table["extractor"] == extractor)
        np.testing.assert_allclose(by_name[name]["y"], np.maximum(table["loss_gap"][those], 1e-10))
    assert figure["layout"]["yaxis"]["type"] == "log"
    low, high = figure["layout"]["yaxis"]["range"]
    assert all(low < math.log10(y) < high for line in figure["data"] for y in line["y"])
    heights = sorted(note["y"] for note in figure["layout"]["annotations"])
    assert all(b - a > 0.06 * (high - low) for a, b in itertools.pairwise(heights)) and low <= heights[0] < high


def test_before_and_after_are_joined_for_each_attacker():
    between, before, after = drawn_immunity.left(attackers(), "harmful")["data"]
    assert before["x"][0] == pytest.approx(np.exp(-10)) and after["x"][0] == pytest.approx(np.exp(-1))
    np.testing.assert_allclose(between["x"][:2], [before["x"][0], after["x"][0]])
    assert np.isnan(before["x"][1]) and before["text"][0] == "gradient descent"


def test_the_search_is_drawn_with_its_ceiling():
    figure = drawn_immunity.history(history(), 18520.0)
    assert [line["name"] for line in figure["data"]] == ["i, harmful", "ii, primary", "RIR = i / ii"]
    assert [shape["y0"] for shape in figure["layout"]["shapes"]] == [1, 18520.0]
    assert figure["layout"]["yaxis"]["range"][1] > math.log10(18520)


def test_fine_tuning_shows_the_median_between_the_seeds():
    low, high, middle = drawn_immunity.tuned(tuned(), "sgd")["data"][:3]
    np.testing.assert_allclose(middle["y"], [12, 22, 32, 42, 52])
    np.testing.assert_allclose(low["y"], middle["y"] - 2)
    np.testing.assert_allclose(high["y"], middle["y"] + 2)


@pytest.mark.parametrize(
    ("left", "drawn"),
    [((), DRAWN), ((FINETUNING,), [*DRAWN[:4], "history"]), ((ATTACKERS,), DRAWN[4:]), ((HISTORY,), DRAWN[:-1])],
    ids=["all", "no fine-tuning", "no targets", "no search"],
)
def test_what_is_not_there_is_not_drawn(left, drawn):
    whole = made()
    text = immunity_page.document(Result(whole.told, {k: v for k, v in whole.tables.items() if k not in left}))
    assert re.findall('<div class="plot" id="([a-z0-9-]+)"', text) == drawn
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.S).lower()


def test_the_first_paint_is_there_without_a_script_in_the_pages_colours():
    stills = re.findall("<svg viewBox=.0 0 680.*?</svg>", immunity_page.document(made()))
    assert len(stills) == 7 and len(set(re.findall('clipPath id="([^"]+)"', "".join(stills)))) == 7
    assert ">conjugate gradients</text>" in stills[2] and "<circle" in stills[2]
    assert not [colour for colour in colours()["light"].values() if any(colour in still for still in stills)]


# --- what comes from outside


def test_hostile_texts_stay_text():
    of = made(method=HOSTILE, stop=HOSTILE, steps=HOSTILE, cautions=[{"code": HOSTILE, "message": HOSTILE}],
              model={"uri": HOSTILE, "layer": HOSTILE, "appended": HOSTILE}, bound=HOSTILE,
              data={"harmful": {"uri": HOSTILE, "classes": [HOSTILE]}})  # fmt: skip
    of.tables[ATTACKERS]["attacker"] = np.where(of.tables[ATTACKERS]["attacker"] == "adam", HOSTILE, "least-squares")
    of.tables[FINETUNING]["optimizer"] = np.full(len(of.tables[FINETUNING]["seed"]), HOSTILE)
    text = immunity_page.document(of)
    outside = text.replace(html_file.inline(html_file.asset(html_file.BUNDLE)), "")
    assert "<img" not in outside and outside.count("<script") == outside.count("</script") == 3
    assert HOSTILE not in outside


@pytest.mark.parametrize("left", sorted(told()))
def test_a_summary_may_lack_anything(left):
    whole = made()
    for odd in ({}, {left: None}, {left: [[]]}):
        text = immunity_page.document(Result({k: v for k, v in whole.told.items() if k != left} | odd, whole.tables))
        assert text.rstrip().endswith("</html>") and said(text)


def test_it_is_written_over_its_own_kind_and_over_nothing_else(tmp_path):
    file = tmp_path / "report.html"
    for method in ("alg1", "ceiling"):
        immunity_page.write(made(method=method), file)
    assert "immunized, ceiling" in file.read_text()
    file.write_text("<!doctype html><p>my notes</p></html>")
    with pytest.raises(ResourceError, match="report.html' is there and is no page of an immunization; move it"):
        immunity_page.write(made(), file)
    assert "my notes" in file.read_text()


# --- in a browser


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_it_opens_without_errors_or_requests_and_fits(browser, tmp_path, width, scheme):
    file = immunity_page.write(immunized_rows.made(), tmp_path / "report.html")
    ready = "html[data-ready] #history .main-svg"
    with opened(browser, file, width=width, scheme=scheme, ready=ready) as it:
        assert it.look("document.documentElement.scrollWidth") <= width
        assert it.look("[...document.querySelectorAll('.plot')].map((p) => p.id)") == DRAWN
        own = "document.getElementById('harmful').data.find((line) => line.name === 'gradient descent').line.color"
        assert it.look(own) == colours()[scheme]["attack"]
        assert barriers(it.look) == []
        it.page.click("#theme")
        it.settle()
        assert it.look(own) == colours()["dark" if scheme == "light" else "light"]["attack"]
        assert it.problems == [] and len([r for r in it.requests if not r.startswith(("data:", "blob:"))]) == 1
