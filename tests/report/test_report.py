"""What the page embeds is what `valley` says, in bounded size; the file holds all it needs, and no foreign markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.offline
import pyarrow as pa
import pytest

from flatlens.errors import ResourceError, RunError
from flatlens.records import runs
from flatlens.records.schema import Caution
from flatlens.report import html_file, page, page_data, series
from tests.page_text import embedded
from tests.synthetic import make_trace

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>&<!--"
KINDS = {"f32": "<f4", "f64": "<f8", "u16": "<u2"}


@pytest.fixture(scope="module")
def trace():
    cautions = (Caution("not-converged", "The loss still rises at the last step of 12 % of the samples."),)
    return make_trace(80, 20, ("head", "conv2", "conv1"), cautions=cautions)


def plotly_array(packed):
    """One of plotly's own arrays."""
    return np.frombuffer(base64.b64decode(packed["bdata"]), f"<{packed['dtype']}")


def unpack(packed):
    kind = next(k for k in KINDS if k in packed)
    return np.frombuffer(base64.b64decode(packed[kind]), KINDS[kind]).reshape(packed["shape"])


def with_column(table, name, values):
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, type=table.schema.field(name).type))


# --- what is embedded


def test_statistics_are_those_of_valley(trace):
    run = page_data.pages([trace])["runs"][0]
    for layer, found in zip(run["layers"], run["results"], strict=True):
        for measure, of in found.items():
            for path, look in zip(run["paths"], of, strict=True):
                expected = trace.valley(measure, layer=layer["name"], path=path["name"])
                assert look["summary"] == page_data.record(expected.summary())
                kinds = look["kinds"]
                assert kinds["valley"] == expected.is_valley.sum()
                assert kinds["valley"] + kinds["none"] == expected.flipped.sum()
                assert sum(kinds[name] for name in ("valley", "none", "unflipped", "wrong")) == run["n"]


def test_every_measure_layer_and_path_has_its_numbers_and_its_figure(trace):
    run = page_data.pages([trace])["runs"][0]
    assert [layer["name"] for layer in run["layers"]] == list(trace.layer_names)
    for index, found in enumerate(run["results"]):
        assert list(found) == run["measures"]
        for measure in found:
            for steps in ("flip", "raw"):
                assert f"{measure}|{index}|{steps}" in run["figures"]["valley"]["variants"]
            for name in ("tau", "peak", "crossing"):
                assert f"{measure}|{index}" in run["figures"][name]["variants"]
    assert len(run["lead"]) == len(run["layers"]) * len(run["measures"])


def test_single_samples_numbers_are_the_traces(trace):
    """What the inspector, the dots and the tables read: of every path, measure and layer."""
    run = page_data.pages([trace])["runs"][0]
    rows = np.searchsorted(trace.matrix("label").sample, run["sample"])
    for index, path in enumerate(run["paths"]):
        flow = {name: trace.matrix(name, path=path["name"]).values[rows] for name in path["flow"]}
        assert set(flow) == {"loss", "margin", "confidence", "prediction"}
        for name, values in flow.items():
            np.testing.assert_allclose(unpack(path["flow"][name]), values, rtol=1e-6)
        np.testing.assert_array_equal(unpack(path["flip"]), trace.valley(path=path["name"]).flip_step[rows])
        for layer, found in zip(run["layers"], run["results"], strict=True):
            for measure, of in found.items():
                matrix = trace.matrix(measure, path=path["name"], layer=layer["name"]).values
                np.testing.assert_allclose(unpack(of[index]["lines"]), matrix[rows], rtol=1e-6)
                valley = trace.valley(measure, path=path["name"], layer=layer["name"])
                np.testing.assert_array_equal(unpack(of[index]["peak"]), valley.peak_step[rows])
                np.testing.assert_array_equal(unpack(of[index]["valley"]), valley.is_valley[rows])
                np.testing.assert_allclose(unpack(of[index]["rise"]), valley.rise[rows], rtol=1e-6)


def test_measures_that_say_the_same_in_other_units_are_left_out(trace):
    assert series.measures(trace) == ("relative_flatness",)
    values = np.array(trace.layers["trace"]) * np.random.default_rng(0).uniform(0.5, 2, trace.layers.num_rows)
    other = replace(trace, layers=with_column(trace.layers, "trace", values))
    assert series.measures(other) == ("relative_flatness", "trace")


def test_aggregates_are_over_all_samples_and_lines_over_a_few():
    trace = make_trace(900, 10)
    run = page_data.pages([trace])["runs"][0]
    values = trace.matrix("relative_flatness", layer="head").values
    look = run["results"][0]["relative_flatness"][0]
    np.testing.assert_allclose(unpack(look["median"]), np.median(values, axis=0), rtol=1e-6)
    drawn = run["figures"]["valley"]["variants"]["relative_flatness|0|raw"]["data"]
    (line,) = [t for t in drawn if t.get("name") == "attack"]
    np.testing.assert_allclose(plotly_array(line["y"]), np.median(values, axis=0), rtol=1e-6)
    band = plotly_array(line["customdata"]).reshape(-1, 3)
    assert (band[:, 2] == 900).all()
    assert len(run["sample"]) == page_data.MOST_SAMPLES
    np.testing.assert_allclose(unpack(look["lines"]), values[run["sample"]], rtol=1e-6)
    (marks,) = run["figures"]["peak"]["variants"]["relative_flatness|0"]["data"]
    assert plotly_array(marks["text"]).sum() == trace.valley().summary().flipped.count


def test_accuracy_counts_all_samples(trace):
    found = series.accuracy(trace)
    prediction, label = trace.matrix("prediction").values, trace.matrix("label").values
    assert found.clean.value == pytest.approx((prediction[:, 0] == label[:, 0]).mean())
    assert found.attacked.value == pytest.approx((prediction[:, -1] == label[:, 0]).mean())


def test_the_ledger_adds_up(trace):
    moved = series.ledger(trace, "head")
    values = {
        name: np.log10(trace.matrix(name, layer="head").values)
        for name in ("relative_flatness", "confidence_term", "feature_norm_sq")
    }
    since = {name: of - of[:, :1] for name, of in values.items()}
    loose = since["relative_flatness"] - since["confidence_term"] - since["feature_norm_sq"]
    np.testing.assert_allclose(
        moved["relative_flatness"].raw.median, np.median(since["relative_flatness"], axis=0), atol=1e-12
    )
    np.testing.assert_allclose(
        moved["confidence_term"].raw.median, np.median(since["confidence_term"], axis=0), atol=1e-12
    )
    np.testing.assert_allclose(moved["dispersion"].raw.median, np.median(loose, axis=0), atol=1e-12)
    # What the synthetic trace has beside the two factors is 5 % noise.
    assert np.abs(moved["dispersion"].raw.median).max() < 0.05 < np.abs(moved["relative_flatness"].raw.median).max()
    assert series.ledger(trace, "conv2") is None


def test_looseness_is_the_bound_over_the_true_rise(trace):
    found = series.looseness(trace, "head")
    eigenvalue, kappa = found["certificate_bound_eigenvalue"].raw, found["certificate_bound_kappa"].raw
    at = eigenvalue.position > 0
    np.testing.assert_allclose(eigenvalue.median[at], 1.2 + eigenvalue.position[at] / 21, rtol=1e-12)
    np.testing.assert_allclose(kappa.median[at], 3 * eigenvalue.median[at])
    rise = trace.matrix("loss_change", layer="head").values
    np.testing.assert_array_equal(eigenvalue.n, (rise > 0).sum(0))
    assert series.looseness(trace, "conv2") is None


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
    look = run["results"][0]["relative_flatness"][0]
    assert look["summary"]["not_finite"] == broken.valley().summary().not_finite > 0
    assert np.isfinite(unpack(look["median"])).all()


# --- the file


def test_what_comes_from_outside_cannot_become_markup(trace):
    names = {"labels": (HOSTILE,) * 10, "cautions": (Caution(HOSTILE, HOSTILE),), "model": HOSTILE}
    hostile = make_trace(12, 5, (HOSTILE,), controls=(HOSTILE,), **names)
    for text in (page.document([hostile, trace]), page.document([hostile], plotly='../"><img src=x>/plotly.min.js')):
        assert HOSTILE not in text and "<img" not in text and "onerror=window.owned=1>" not in text
        assert text.count("<script") == text.count("</script")
        assert embedded(text)["runs"][0]["cautions"] == [[HOSTILE, HOSTILE]]


def test_the_file_refers_to_nothing_outside_and_its_policy_names_what_may_run(trace):
    text = page.document([trace])
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", text)
    assert set(re.findall(r"https?://[^\s\"'`<>)]+", text)) <= {"http://www.w3.org/2000/svg"}
    policy = re.search(r"Content-Security-Policy\" content=\"(.*?)\"", text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    allowed = re.search("script-src ([^;]*)", policy)[1]
    assert "unsafe" not in allowed and "nonce" not in allowed
    # The program on the page, and plotly as it is once it is unpacked, and nothing else.
    held = re.search(r'<script type="application/octet-stream" id="plotly">(.*?)</script>', text, re.S)[1]
    own = (gzip.decompress(base64.b64decode(held)).decode(), re.search(r"<script>(.*?)</script>", text, re.S)[1])
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in own]
    assert allowed.split() == [f"'sha256-{digest}'" for digest in hashes]


def test_without_a_program_the_picture_and_the_table_are_there(trace):
    text = re.sub(r"<script.*?</script>", "", page.document([trace]), flags=re.S)
    share = trace.valley().summary().valley_of_flipped
    assert text.count("<svg") >= 2 and 'clip-path="url(#inside)"' in text
    assert f"<td>{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]</td>" in text
    assert "<noscript>" in text and "not converged" in text


def test_the_bundle_is_the_one_of_the_installed_plotly():
    bundle = html_file.asset(html_file.BUNDLE)
    assert f"plotly.js (cartesian - minified) v{plotly.offline.get_plotlyjs_version()}" in bundle[:300]
    assert (
        hashlib.sha256(bundle.encode()).hexdigest()
        == "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"
    )


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
    assert shared.name == "plotly.min.js" and shared.read_text() == html_file.asset(html_file.BUNDLE)
    shared.write_text("kept")
    assert page.save_plotly(tmp_path).read_text() == html_file.asset(html_file.BUNDLE)
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


# --- beyond one number: κ without confidence, the curve over τ, where the accuracy is taken


def test_the_page_has_what_hangs_on_no_choice(trace):
    run = page_data.pages([trace])["runs"][0]
    assert run["attacked_at"] == "last iterate"
    for index, layer in enumerate(trace.layer_names):
        values = trace.matrix("scale_free", layer=layer).values
        drawn = run["figures"]["free"]["variants"][f"{index}|raw"]["data"]
        (line,) = [t for t in drawn if t.get("name") == "attack"]
        np.testing.assert_allclose(plotly_array(line["y"]), np.median(values, axis=0), rtol=1e-6)
        shares = trace.valley(layer=layer).over_tau()
        drawn = run["figures"]["tau"]["variants"][f"relative_flatness|{index}"]["data"]
        (line,) = [t for t in drawn if t["meta"]["path"] == "attack" and t["line"]["width"] > 2]
        np.testing.assert_allclose(plotly_array(line["y"]), 100 * shares.value, rtol=1e-6)


def test_a_run_of_version_1_has_no_curve_that_it_did_not_measure():
    old = runs.load(Path(__file__).parents[1] / "version1" / "run").trace()
    assert "free" not in page_data.pages([old])["runs"][0]["figures"]
