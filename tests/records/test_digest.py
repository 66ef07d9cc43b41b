"""The digest of a run says what the trace says, in plain JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import flatlens as fl
from flatlens.records import valley as valleys
from flatlens.records.digest import accuracy, digest, record
from flatlens.records.schema import MEASURES, Caution
from flatlens.specs.run import RunSpec
from tests.expected import cautioned
from tests.synthetic import make_trace

pytestmark = cautioned("flat-because-confident")


@pytest.fixture(scope="module")
def small():
    cautions = (Caution("not-converged", "The loss still rises."),)
    return make_trace(40, 12, ("head", "conv1"), images="none", cautions=cautions)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    # Attacks that keep a best point and stop early have rows that are no part of the path.
    spec = RunSpec("flatlens:digits-cnn", "flatlens:digits", attack="apgd-ce", eps=0.3, steps=6, restarts=2, limit=15,
                   control=("line-to-other-class",), layer=("all",), images="none")  # fmt: skip
    return fl.open(fl.run(spec, tmp_path_factory.mktemp("run") / "r").path)


def put(trace, column, values):
    at = trace.layers.schema.get_field_index(column)
    return replace(trace, layers=trace.layers.set_column(at, column, pa.array(values, pa.float64())))


@pytest.mark.parametrize("name", ["small", "real"])
def test_rows_and_curves_are_those_of_the_trace(name, request):
    trace = request.getfixturevalue(name)
    found = digest(trace)
    assert [(r["layer"], r["path"]) for r in found["rows"]] == [
        (la, p) for la in trace.layer_names for p in trace.paths
    ]
    for row, curve in zip(found["rows"], found["curves"], strict=True):
        where = {"layer": row["layer"], "path": row["path"]}
        expected = record(trace.valley(**where).summary())
        assert row["measure"] == curve["measure"] == "relative_flatness" and row["exact"]
        assert {key: row[key] for key in expected} == expected
        assert {key: curve[key] for key in where} == where
        band = valleys.band(trace.matrix("relative_flatness", **where).values)
        for kind in ("median", "low", "high"):
            np.testing.assert_allclose(curve[kind], getattr(band, kind), rtol=1e-5)
        assert curve["n"] == band.n.tolist()


@pytest.mark.parametrize("name", ["small", "real"])
def test_accuracy_is_of_what_the_attack_found(name, request):
    trace = request.getfixturevalue(name)
    found = digest(trace)["accuracy"]
    label = trace.matrix("label").values[:, 0]
    assert found["clean"]["count"] == (trace.matrix("prediction").values[:, 0] == label).sum()
    assert found["attacked"]["count"] == (trace.result("prediction") == label).sum()
    assert found == record(accuracy(trace))


def test_heights_of_all_measures(small):
    found = {(m["layer"], m["measure"]): m for m in digest(small)["measures"]}
    assert set(found) == {(layer, measure) for layer in ("head", "conv1") for measure in MEASURES}
    values = small.matrix("trace", layer="conv1").values
    own = found["conv1", "trace"]
    expected = [np.median(v) for v in (values[:, 0], values.max(1), values[:, -1])]
    np.testing.assert_allclose([own["clean"], own["peak"], own["end"]], expected, rtol=1e-5)
    assert own["n"] == 40


def test_what_is_not_finite_is_valid_json(small):
    values = np.array(small.layers["relative_flatness"]).copy()
    values[:60] = np.nan
    values[100] = np.inf
    found = digest(put(small, "relative_flatness", values))
    assert found["rows"][0]["not_finite"] > 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_an_end_at_zero_is_infinitely_deep():
    trace = make_trace(30, 8, controls=(), images="none")
    values = np.array(trace.layers["relative_flatness"]).copy()
    values[np.array(trace.layers["step"]) == 8] = 0.0
    (row,) = digest(put(trace, "relative_flatness", values))["rows"]
    assert row["depth"]["value"] == row["depth"]["high"] == "+inf"


def test_a_path_without_flips_has_no_medians():
    (row,) = digest(make_trace(10, 5, controls=(), images="none", flips=False))["rows"]
    assert row["flipped"]["count"] == 0
    assert row["valley_of_flipped"]["value"] is None and row["rise"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
    }


def test_another_measure_stands_in_where_there_is_no_flatness(small):
    without = put(small, "relative_flatness", np.full(small.layers.num_rows, np.nan))
    found = digest(without)
    assert {row["measure"] for row in found["rows"]} == {"trace"}
    assert {m["measure"] for m in found["measures"]} == set(MEASURES) - {"relative_flatness"}
    for measure in MEASURES:
        without = put(without, measure, np.full(small.layers.num_rows, np.nan))
    row = digest(without)["rows"][0]
    # Who flipped is known without any measure.
    assert row["flipped"]["count"] == small.valley().summary().flipped.count and row["not_finite"] == 40


def test_cautions_are_kept(small):
    assert digest(small)["cautions"] == [{"code": "not-converged", "message": "The loss still rises."}]


def test_it_is_small(small):
    assert len(json.dumps(digest(small))) < 1500 * 6 + 600 * 10
