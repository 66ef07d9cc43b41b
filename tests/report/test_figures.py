"""Figures for notebooks: every one can be drawn, draws the statistics' own numbers, and says what it cannot draw."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flatlens.errors import DataError, LayerError, SpecError
from flatlens.report import figures, page_data, series
from tests.synthetic import make_trace


@pytest.fixture(scope="module")
def trace():
    return make_trace(80, 20, ("head", "conv2", "conv1"))


KINDS = {
    "valley": lambda t, a: figures.valley(t, aligned=a),
    "valley, another layer": lambda t, a: figures.valley(t, "trace", layer="conv2", aligned=a),
    "valley, alone and linear": lambda t, a: figures.valley(t, aligned=a, controls=False, lines=0, scale="linear"),
    "valley, scale-free": lambda t, a: figures.valley(t, "scale_free", aligned=a),
    "margin": lambda t, a: figures.margin(t, aligned=a),
    "loss": lambda t, a: figures.loss(t, aligned=a, controls=False),
    "over_tau": lambda t, a: figures.over_tau(t),
    "ledger": lambda t, a: figures.ledger(t, aligned=a),
    "certificate": lambda t, a: figures.certificate(t, aligned=a),
    "certificate of a control": lambda t, a: figures.certificate(t, path="line-to-other-class", aligned=a),
    "bending": lambda t, a: figures.bending(t, aligned=a),
    "against_margin": lambda t, a: figures.against_margin(t, lines=5),
    "flip_and_peak": lambda t, a: figures.flip_and_peak(t),
    "layers": lambda t, a: figures.layers(t, "trace"),
}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_can_be_drawn(trace, kind, aligned):
    drawn = KINDS[kind](trace, aligned)
    assert drawn.data and drawn.layout.title.text
    json.loads(drawn.to_json())


@pytest.mark.parametrize("name", figures.__dict__)
def test_no_public_figure_is_left_out(name):
    found = getattr(figures, name)
    if (
        getattr(found, "__module__", "") == figures.__name__
        and getattr(found, "__annotations__", {}).get("return") == "go.Figure"
    ):
        assert name.startswith("_") or any(kind.split(",")[0] == name for kind in KINDS)


def named(figure, name):
    (line,) = [t for t in figure.data if t.name == name]
    return np.asarray(line.y)


@pytest.mark.parametrize("layer", ["head", "conv2"])
@pytest.mark.parametrize("path", ["attack", "line-to-other-class"])
def test_a_line_is_the_median_of_its_path(trace, layer, path):
    words = {"attack": "attack", "line-to-other-class": "line to another class"}[path]
    values = trace.matrix("trace", layer=layer, path=path).values
    raw = figures.valley(trace, "trace", layer=layer, aligned=False, lines=0)
    np.testing.assert_allclose(named(raw, words), np.median(values, axis=0))
    curve = series.curve(values, trace.valley("trace", layer=layer, path=path).flip_step).aligned
    most = max(1, 1 + curve.n.max() // 10)
    np.testing.assert_allclose(
        named(figures.valley(trace, "trace", layer=layer, lines=0), words), curve.median[curve.n >= most]
    )
    margin = trace.matrix("margin", path=path).values
    np.testing.assert_allclose(named(figures.margin(trace, aligned=False), words), np.median(margin, axis=0))


def test_noise_is_drawn_around_the_flip_only_where_enough_of_it_flips(trace):
    raw, aligned = (figures.valley(trace, aligned=aligned) for aligned in (False, True))
    assert "Gaussian noise" in {t.name for t in raw.data}
    assert "Gaussian noise" not in {t.name for t in aligned.data}


def test_the_heat_map_is_each_layers_change_in_decades(trace):
    z = np.asarray(figures.layers(trace).data[0].z)
    middle = np.median(trace.matrix("relative_flatness", layer="conv1").values, axis=0)
    np.testing.assert_allclose(z[2], np.log10(middle / middle[0]), rtol=1e-12)


def test_flip_and_peak_counts_every_flipped_sample_once(trace):
    drawn = figures.flip_and_peak(trace).data[0]
    found = trace.valley()
    assert sum(drawn.text) == found.flipped.sum()
    most = int(np.argmax(drawn.text))
    pair = (found.flip_step == drawn.x[most]) & (found.peak_step == drawn.y[most]) & found.flipped
    assert pair.sum() == drawn.text[most]


def without_bending(trace):
    """As a run of an earlier version: without the columns."""
    return replace(trace, steps=trace.steps.drop_columns(["path_second", "path_third"]))


def test_the_bending_is_the_columns_medians_and_is_left_out_of_the_page_of_an_older_run(trace):
    figure, at = figures.bending(trace, aligned=False), np.arange(1, 21)
    np.testing.assert_allclose(named(figure, "second")[-20:], at / 10)
    np.testing.assert_allclose(named(figure, "third")[-20:], -at / 20)
    embedded = [page_data.pages([t])["runs"][0]["figures"] for t in (trace, without_bending(trace))]
    assert ["bending" in of for of in embedded] == [True, False]
    assert set(embedded[0]["bending"]["variants"]) == {"raw", "flip"}


def test_the_page_embeds_these_very_figures(trace):
    run = page_data.pages([trace])["runs"][0]
    figure = figures.margin(trace, aligned=False)
    drawn = run["figures"]["margin"]["variants"]["raw"]["data"]
    assert [t.get("name") for t in drawn] == [t.name for t in figure.data]
    assert run["figures"]["margin"]["layout"]["yaxis"]["title"]["text"] == figure.layout.yaxis.title.text


@pytest.mark.parametrize(
    ("draw", "error", "said"),
    [
        (lambda t: figures.valley(t, "trac"), SpecError, "Did you mean 'trace'"),
        (lambda t: figures.valley(t, layer="heat"), LayerError, "this trace has: head"),
        (lambda t: figures.over_tau(t, layer="heat"), LayerError, "this trace has: head"),
        (lambda t: figures.layers(t, "trac"), SpecError, "Did you mean 'trace'"),
        (lambda t: figures.ledger(t, layer="conv1"), LayerError, "confidence term"),
        (lambda t: figures.certificate(t, layer="conv1"), LayerError, "certificate"),
        (lambda t: figures.bending(without_bending(t)), DataError, "no derivatives of the loss along its path"),
        (lambda t: figures.against_margin(t, "x"), SpecError, "no measure 'x'"),
    ],
)
def test_a_figure_says_what_it_cannot_draw(trace, draw, error, said):
    with pytest.raises(error, match=said):
        draw(trace)


@pytest.mark.parametrize("draw", [lambda t: figures.valley(t, aligned=False), figures.over_tau, figures.layers])
def test_names_from_outside_are_text_in_a_figure(draw):
    hostile = "<a href=x>x</a>"
    drawn = draw(make_trace(80, 8, (hostile, "b"), controls=(hostile, "line-to-other-class"))).to_json()
    text = drawn.replace("\\u003c", "<").replace("\\u003e", ">")
    assert "&lt;a href=x&gt;" in text and hostile not in text


def test_each_part_of_a_path_bears_its_name_so_that_it_can_be_hidden(trace):
    for drawn in (figures.over_tau(trace), figures.valley(trace, lines=0), figures.loss(trace)):
        assert all(part.meta["path"] in trace.paths for part in drawn.data)
