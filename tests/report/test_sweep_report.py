"""A sweep's page: what it embeds, and that nothing from outside becomes markup."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from flatlens.report import html_file, sweep_data, sweep_page
from flatlens.report.pairs import Pair, pairs
from flatlens.report.sweep_data import DrawnCell, varying
from flatlens.specs.train import TrainSpec
from tests import drawn_cells
from tests.drawn_cells import HOSTILE, ROBUST, cell, spec
from tests.synthetic import CONTROLS

KINDS = {"f32": "<f4", "f64": "<f8", "u16": "<u2"}


@pytest.fixture(scope="module")
def digests():
    return drawn_cells.digests()


@pytest.fixture(scope="module")
def cells(digests):
    return drawn_cells.six(digests)


def embedded(text):
    return json.loads(re.search(r'id="flatlens-data">(.*?)</script>', text, re.S)[1])


def unpack(packed):
    kind = next(k for k in KINDS if k in packed)
    return np.frombuffer(base64.b64decode(packed[kind]), KINDS[kind]).reshape(packed["shape"])


# --- what varies, what belongs together


def test_varying_settings_come_in_the_order_of_a_specification():
    assert varying([spec(), spec()]) == []
    assert varying([spec(seed=1), spec("flatlens:mlp")]) == ["model", "seed"]
    trained = [spec(train=TrainSpec(epochs=3)), spec(train=ROBUST)]
    assert varying(trained) == ["train.adversarial", "train.eps"]
    assert varying([*trained, spec(seed=2)]) == ["seed", "train.adversarial", "train.eps"]
    assert varying([]) == []


def test_the_worst_case_is_told_where_a_cell_has_it():
    told = {"worst": {"value": 0.25, "low": 0.1, "high": 0.6, "n": 8}, "masked": True, "attacks": {}}
    cells = [DrawnCell(str(k), spec(seed=k), None, None, "done") for k in range(3)]
    bare = sweep_data.page(cells, "s")["cells"]
    assert "worst" not in bare["accuracy"] and bare["masked"] == []
    cells[1:] = [cells[1]._replace(worst_case=told), cells[2]._replace(worst_case=told | {"masked": False})]
    found = sweep_data.page(cells, "s")["cells"]
    expected = np.array([[np.nan] * 5, [0.25, 0.1, 0.6, 2, 8], [0.25, 0.1, 0.6, 2, 8]], np.float32)
    np.testing.assert_array_equal(unpack(found["accuracy"]["worst"]), expected)
    assert found["masked"] == [1]


def test_trained_or_not_is_a_difference_by_itself():
    specs = [spec(), spec(train=ROBUST)]
    assert varying(specs) == ["train"]
    column = sweep_data.page([DrawnCell(str(k), s, None, None, "waiting") for k, s in enumerate(specs)], "s")[
        "varying"
    ][0]
    assert column["values"] == ["pgd 0.1, 3 epochs", "–"] and column["of"] == [1, 0]


def test_values_are_written_as_typed_and_ordered_as_numbers():
    specs = [spec() | {"eps": e} for e in (0.3, 8 / 255, 2.0)]
    (column,) = sweep_data.page([DrawnCell(str(k), s, None, None, "waiting") for k, s in enumerate(specs)], "s")[
        "varying"
    ]
    assert column["key"] == "eps" and column["values"] == ["8/255", "0.3", "2"] and column["of"] == [1, 0, 2]


def test_pairs_differ_in_adversarial_training_alone():
    standard, robust = spec(train=TrainSpec(epochs=3)), spec(train=ROBUST)
    stronger = spec(train=TrainSpec(epochs=3, adversarial="pgd", eps=0.2, steps=9))
    longer = spec(train=TrainSpec(epochs=4, adversarial="pgd", eps=0.1))
    assert pairs([robust, standard, stronger, longer]) == [Pair(1, 0), Pair(1, 2)]
    named = [
        spec("flatlens:digits-cnn"),
        spec("flatlens:digits-cnn-robust"),
        spec("flatlens:digits-cnn-robust", seed=1),
    ]
    assert pairs(named) == [Pair(0, 1)]
    assert pairs([spec("m:a?x=1"), spec("m:a-robust?x=1"), spec("m:a-robust?x=2")]) == [Pair(0, 1)]


# --- what is embedded


def test_what_is_embedded_is_what_the_digests_say(cells):
    data = sweep_data.page(cells, "s")
    rows = data["rows"]
    assert data["paths"] == ["attack", *CONTROLS] and data["layers"] == ["head", "conv1"]
    assert len(rows["cell"]) == 4 * 3 * 2
    for k, (i, layer, path) in enumerate(zip(rows["cell"], rows["layer"], rows["path"], strict=True)):
        said = cells[i].digest["rows"]
        (own,) = [r for r in said if (r["layer"], r["path"]) == (data["layers"][layer], data["paths"][path])]
        share = [own["valley_of_flipped"][name] for name in ("value", "low", "high", "count", "n")]
        np.testing.assert_allclose(unpack(rows["shares"]["valley_of_flipped"])[k], np.array(share, float), rtol=1e-6)
        at = rows["attack"][k]
        assert (at >= 0) == (own["path"] == "attack")
        if at >= 0:
            depth = [own["depth"][name] for name in ("value", "low", "high", "n")]
            np.testing.assert_allclose(unpack(rows["medians"]["depth"])[at], depth, rtol=1e-6)
    curves = data["curves"]
    assert {data["paths"][p] for p in curves["path"]} == {"attack", "line-to-other-class"} and curves["left_out"] == 0
    median = unpack(curves["values"][0])[0]
    np.testing.assert_allclose(10.0**median, cells[0].digest["curves"][0]["median"], rtol=1e-4)


def test_tiny_values_zeros_and_infinite_depths_survive(digests):
    found = json.loads(json.dumps(digests[0]))
    found["curves"][0]["median"][3:6] = [1e-260, 0.0, None]
    found["rows"][0]["depth"]["value"] = "+inf"
    data = json.loads(json.dumps(sweep_data.page([cell(0, spec(), found)], "s"), allow_nan=False))
    median = unpack(data["curves"]["values"][0])[0]
    assert median[3] == pytest.approx(-260) and median[4] == -400 and np.isnan(median[5])
    assert np.isposinf(unpack(data["rows"]["medians"]["depth"])[0, 0])


def test_curves_have_a_budget(cells, monkeypatch):
    monkeypatch.setattr(sweep_data, "CURVE_BYTES", 2000)
    data = sweep_data.page(cells, "s")
    assert data["curves"]["left_out"] == 4 - len(set(data["curves"]["cell"])) > 0


@pytest.mark.parametrize("link", ["javascript:alert(1)", "//host/x", "/etc/passwd", "http://host", "a\\b", "a\nb"])
def test_a_link_that_leads_elsewhere_is_none(link, digests):
    assert sweep_data.page([cell(0, spec(), digests[0])._replace(page=link)], "s")["cells"]["page"] == [None]


@pytest.fixture(scope="module")
def hostile():
    return drawn_cells.hostile()


@pytest.mark.parametrize("plotly", [None, "plotly.min.js"])
def test_what_comes_from_outside_cannot_become_markup(hostile, plotly):
    text = sweep_page.document(hostile, name=HOSTILE, plotly=plotly)
    outside = text.replace(html_file.inline(html_file.asset(html_file.BUNDLE)), "")
    assert HOSTILE not in outside and "<img" not in outside
    assert outside.count("<script") == outside.count("</script") == 3
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", outside)
    assert embedded(text)["cells"]["error"] == {"2": HOSTILE}


def test_10_000_cells_make_a_bounded_file(cells, tmp_path):
    many = [cells[k % 4]._replace(key=f"{k:016x}") for k in range(10_000)]
    assert sweep_page.write(many, tmp_path / "s.html", name="s").stat().st_size < 45_000_000
