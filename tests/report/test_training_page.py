"""The page of a training: its sentence, its figures and its table, from rows and a record that may lack anything."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest

from flatlens.errors import ResourceError
from flatlens.report import drawn_training, html_file, training_page
from flatlens.report.roles import colours
from tests.browser import opened
from tests.drawn_cells import HOSTILE
from tests.trained_rows import record, rows
from tests.web_tools import barriers

ALARM = {"code": "catastrophic-overfitting", "epoch": 3, "text": "catastrophic overfitting in epoch 3: FGSM 80 %"}


def said(text):
    """What stands in the page's sentence, as text."""
    return re.sub("<[^>]+>", "", re.search("<h1>(.*?)</h1>", text, re.S)[1])


# --- what it says


def test_the_first_screen_is_one_sentence_of_the_result():
    text = training_page.document(rows(), record())
    assert said(text) == (
        "Right: 95.8 % clean, 73.6 % [69.3–77.4] in the worst case; "
        "at clean inputs the head is sharper than before: κ 0.021 → 29."
    )
    assert "On flatlens:digits?split=test; the worst case of PGD-20, APGD-CE, APGD-T and Square, linf, eps 0.1" in text
    assert "<title>flatlens:cnn · pgd, linf, eps 0.1, 6 epochs of flatlens:digits · flatlens</title>" in text


@pytest.mark.parametrize(
    ("more", "holds", "lacks"),
    [
        ({"kappa": {"before": {"value": 6.0}, "after": {"value": 0.3}}}, "flatter than before: κ 6 → 0.3", "sharper"),
        ({"kappa": {"before": None, "after": None}}, "in the worst case.", "κ"),
        ({"alarms": [ALARM]}, "; 1 alarm.", "alarms"),
        ({"alarms": [ALARM, {"code": "masked", "epoch": 6, "text": "masked: …"}]}, "; 2 alarms.", "; 1 "),
        ({"worst_accuracy": None}, "– [n = 0] in the worst case", "73.6"),
    ],
    ids=["flatter", "no head", "an alarm", "two alarms", "not judged"],
)
def test_the_sentence_follows_the_record(more, holds, lacks):
    found = said(training_page.document(rows(), record(**more)))
    assert holds in found and lacks not in found


def test_the_best_epochs_weights_are_told_as_such():
    assert "The weights are those of epoch 4, the best." in training_page.document(rows(), record(epoch=4))
    assert "the best." not in training_page.document(rows(), record())


def test_the_table_tells_every_epoch():
    of = rows(every=3)
    text = training_page.document(of, record())
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall("<tr>.*?</tr>", text)]
    assert len(lines) == 1 + 6 and lines[0][:4] == ["epoch", "loss", "right, trained on, %", "clean, %"]
    for k, line in enumerate(lines[1:]):
        looked = (k + 1) % 3 == 0
        assert line[:3] == [str(k + 1), f"{of['loss'][k]:.3g}", f"{100 * of['accuracy'][k]:.1f}"]
        assert line[5] == (f"{100 * of['pgd_accuracy'][k]:.1f}" if looked else "–")
    assert "6 epochs, 2 of them looked at" in text


# --- what it draws


@pytest.mark.parametrize("name", drawn_training.FIGURES)
def test_a_figure_holds_what_was_looked_at(name):
    of = rows(every=2)
    made = drawn_training.figure(name, of, [])
    kind = drawn_training.FIGURES[name]
    assert len(made["data"]) == len(kind.lines)
    for trace, line in zip(made["data"], kind.lines, strict=True):
        looked = [k for k in range(6) if math.isfinite(of[line.column][k])]
        scale = 100 if kind.scale == "percent" else 1
        np.testing.assert_allclose(trace["x"], np.array(of["epoch"])[looked])
        np.testing.assert_allclose(trace["y"], scale * np.array(of[line.column])[looked])
        low, high = (10.0**v if kind.scale == "log" else v for v in made["layout"]["yaxis"]["range"])
        assert low <= min(trace["y"]) and max(trace["y"]) <= high
    heights = sorted(note["y"] for note in made["layout"]["annotations"])
    assert all(b - a > 0 for a, b in itertools.pairwise(heights))


def test_alarms_are_upright_lines_with_their_words_in_the_first_figure():
    late = {"code": "masked", "epoch": 6, "text": "masked"}
    for name in drawn_training.FIGURES:
        layout = drawn_training.figure(name, rows(), [ALARM, late])["layout"]
        assert [shape["x0"] for shape in layout["shapes"]] == [3, 6]
        words = [note["text"] for note in layout["annotations"] if note.get("name") == "alarm"]
        told = ["<b>catastrophic overfitting, epoch 3</b>", "<b>masked, epoch 6</b>"]
        assert words == (told if name == "accuracy" else [])
    top, below = (n["y"] for n in drawn_training.figure("accuracy", rows(), [ALARM, late])["layout"]["annotations"][:2])
    assert 100 < below < top


@pytest.mark.parametrize(
    ("of", "drawn"),
    [
        (rows(epochs=1), ["accuracy", "loss", "kappa", "roles"]),
        (rows(head=False), ["accuracy", "loss", "roles"]),
        (rows(every=100), ["accuracy", "loss"]),
        (rows(diverged=True), ["accuracy", "kappa", "roles"]),
    ],
    ids=["one epoch", "no head", "nothing looked at", "no finite loss"],
)
def test_what_is_not_there_is_not_drawn(of, drawn):
    text = training_page.document(of, record())
    assert re.findall('<div class="plot" id="([a-z]+)"', text) == drawn
    assert ("no head with a closed-form κ" in text) == ("kappa" not in drawn)
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.S).lower()


def test_the_first_paint_is_there_without_a_script_in_the_pages_colours():
    text = training_page.document(rows(epochs=1), record(alarms=[ALARM]))
    stills = re.findall("<svg viewBox=.0 0 860.*?</svg>", text)
    assert len(stills) == 4 and len(set(re.findall('clipPath id="([^"]+)"', text))) == 4
    assert "<circle" in stills[0], "a line of one point would not be seen"
    assert "catastrophic overfitting, epoch 3" in stills[0] and ">100</text>" in stills[0]
    assert not [colour for colour in colours()["light"].values() if any(colour in still for still in stills)]


# --- what comes from outside


def test_hostile_records_stay_text():
    hostile = record(
        model=HOSTILE, test=HOSTILE, alarms=[{"code": HOSTILE, "epoch": 2, "text": HOSTILE}], recipe={"data": HOSTILE}
    )
    text = training_page.document(rows(), hostile)
    outside = text.replace(html_file.inline(html_file.asset(html_file.BUNDLE)), "")
    assert "<img" not in outside and outside.count("<script") == outside.count("</script") == 3
    assert HOSTILE not in outside


@pytest.mark.parametrize("left", sorted(record()))
def test_a_record_may_lack_anything(left):
    text = training_page.document(rows(), {key: value for key, value in record().items() if key != left})
    assert text.rstrip().endswith("</html>") and said(text).startswith("Right:")


def test_it_is_written_over_a_trainings_page_and_over_nothing_else(tmp_path):
    file = tmp_path / "net.html"
    training_page.write(rows(), record(), file)
    training_page.write(rows(), record(alarms=[ALARM]), file)
    assert "; 1 alarm." in file.read_text()
    file.write_text("<!doctype html><p>my notes</p></html>")
    with pytest.raises(ResourceError, match="net.html' is there and is no page of a training; move it"):
        training_page.write(rows(), record(), file)
    assert "my notes" in file.read_text()
    other = tmp_path / "link.html"
    other.symlink_to(file)
    with pytest.raises(ResourceError, match="no page of a training"):
        training_page.write(rows(), record(), other)


def test_the_data_are_small_however_long_the_training(tmp_path):
    file = training_page.write(rows(epochs=5000), record(), tmp_path / "long.html")
    assert file.stat().st_size < 2_500_000 and "5,000 epochs" in file.read_text()
    assert file.read_text().count("<tr>") == training_page.MOST_ROWS + 1


# --- in a browser


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_it_opens_without_errors_or_requests_and_fits(browser, tmp_path, width, scheme):
    file = training_page.write(rows(), record(alarms=[ALARM]), tmp_path / "net.html")
    ready = "html[data-ready] #roles .main-svg"
    with opened(browser, file, width=width, scheme=scheme, ready=ready) as it:
        assert it.look("document.documentElement.scrollWidth") <= width
        drawn = it.look("[...document.querySelectorAll('.plot')].map((p) => [p.id, p.data.length, !!p.ariaLabel])")
        assert drawn == [["accuracy", 4, True], ["loss", 1, True], ["kappa", 2, True], ["roles", 2, True]]
        own = "document.getElementById('accuracy').data[3].line.color"
        assert it.look(own) == colours()[scheme]["attack"]
        assert barriers(it.look) == []
        it.page.click("#theme")
        it.settle()
        other = "dark" if scheme == "light" else "light"
        assert it.look(own) == colours()[other]["attack"]
        assert it.problems == [] and len([r for r in it.requests if not r.startswith(("data:", "blob:"))]) == 1


def test_nothing_but_numbers_is_in_the_data():
    """The rows stand in the table; what the figures are given is finite."""
    made = {name: drawn_training.figure(name, rows(every=4), []) for name in drawn_training.FIGURES}
    json.dumps([[list(map(float, t["y"])) for t in one["data"]] for one in made.values() if one], allow_nan=False)
