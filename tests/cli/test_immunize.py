"""`flatlens immunize`: of a model, which loads again by one name, and of two tables; refusals in one line."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from flatlens_cli import app
from flatlens_cli.immunize import _moved
from safetensors.numpy import load_file

import flatlens as fl
from flatlens import datasets, models
from flatlens.measure.features import features
from tests.expected import cautioned
from tests.immunity.made import pair

pytestmark = cautioned("singular", "constant-features")
MODEL, DATA = "flatlens:digits-cnn", "flatlens:digits?split=all"
DIGITS = ["--model", MODEL, "--primary", DATA, "--primary-classes", "0-4", "--harmful", DATA, "--harmful-classes"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for name, (x, y) in zip("ab", pair(), strict=True):
        rows = [",".join(map(repr, row)) for row in np.c_[x, y].tolist()]
        (folder / f"{name}.csv").write_text("\n".join(["p,q,r,s,t,u,y", *rows]))
    return folder


def accuracy(train, y, test, z):
    """Of the least-squares probe with a small ridge, on samples that it has not seen."""
    k = train.T @ train / len(train)
    k += 1e-6 * np.trace(k) / len(k) * np.eye(len(k))
    w = np.linalg.solve(k, train.T @ np.eye(10)[y] / len(train))
    return float(((test @ w).argmax(1) == z).mean())


@pytest.fixture(scope="module")
def immune(tmp_path_factory):
    out, said = tmp_path_factory.mktemp("immune") / "of-digits", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert app.run(["immunize", *DIGITS, "5-9", "--out", str(out), "--json", "--quiet"]) == 0
    return out, json.loads(said.getvalue())


def test_a_model_is_immunized_on_samples_that_were_held_out_too(immune):
    out, told = immune
    assert told["bound"] == pytest.approx(told["rir"], rel=1e-6) and told["method"] == "ceiling"
    assert math.log(told["heldout"]["i"]) >= 2 and math.log(told["heldout"]["ii"]) <= 0.1
    assert told["model"]["logits"] <= 1e-4 and told["model"]["layer"] == "fc"
    files = {"immunization.json", "theta.safetensors", "attackers.parquet", "report.html"}
    assert {file.name for file in out.iterdir()} == files
    table = pq.read_table(out / "attackers.parquet").to_pandas()
    last = table[(table.iteration == 100) & (table.extractor == "immunized")]
    gaps = {(row.attacker, row.task): row.loss_gap for row in last.itertuples()}
    assert told["attackers"]["adam"]["harmful"]["immunized"] == gaps["adam", "harmful"]
    assert gaps["conjugate-gradients", "harmful"] < 1e-9 < gaps["gradient-descent", "harmful"]


def test_its_name_loads_the_same_logits_and_the_immunized_features(immune, flatlens):
    out, told = immune
    data = datasets.load(DATA)
    x = torch.from_numpy(data.x)
    plain, made = (models.load(uri, shape=(1, 8, 8), classes=10).model for uri in (MODEL, told["model"]["appended"]))
    with torch.no_grad():
        torch.testing.assert_close(made(x), plain(x), rtol=0, atol=1e-4)
    high = data.y >= 5
    before, after = (features(model, x).x for model in (plain, made))
    theta = load_file(out / "theta.safetensors")["theta"]
    np.testing.assert_allclose(after, before @ theta, rtol=0, atol=1e-5 * np.abs(after).max())
    # Not i: the ridge of `condition` is one of the new features and bounds it, that of i belongs to the old ones.
    worse = [fl.condition(f[high], ridge=1e-2).condition_number for f in (before, after)]
    assert worse[1] > worse[0]
    odd = np.arange(len(data)) % 2 == 1
    for part in (high, ~high):
        found = [
            accuracy(f[part & odd], data.y[part & odd], f[part & ~odd], data.y[part & ~odd]) for f in (before, after)
        ]
        assert abs(found[0] - found[1]) <= 0.002
    done = flatlens("condition", "--model", told["model"]["appended"], "--data", DATA, "--ridge", "1e-2", "--json")
    assert done.code == 0


def test_it_is_found_again_and_not_replaced_by_another(immune, flatlens):
    out, told = immune
    again = flatlens("immunize", *DIGITS, "5-9", "--out", out, "--json")
    assert again.code == 0 and json.loads(again.out) == told
    other = flatlens("immunize", *DIGITS, "6-9", "--out", out)
    assert other.code == 2 and "holds a result with harmful_sha256" in other.err and "--force" in other.err


@pytest.mark.parametrize("method", ["ceiling", "alg1"])
def test_two_tables_need_no_model(tables, flatlens, tmp_path, method):
    primary, harmful = (f"table:{tables}/{name}.csv?target=y" for name in "ab")
    given = ["--primary", primary, "--harmful", harmful, "--method", method, "--holdout", "0", "--steps", "9"]
    done = flatlens("immunize", *given, "--out", tmp_path / "o", "--json")
    found, expected = json.loads(done.out), fl.immunize(*pair(), method, holdout=0, steps=9)
    assert found["rir"] == pytest.approx(expected.rir, rel=1e-6) and found["model"] is None
    shown = flatlens("immunize", *given, "--out", tmp_path / "o")
    assert shown.code == 0 and "conjugate-gradients" in shown.out and "no linear map exceeds" in shown.out
    assert flatlens("immunize", *given, "--out", tmp_path / "o", "--quiet") == (0, "", "")


def test_its_page_is_drawn_and_drawn_again_without_torch(immune, flatlens, tmp_path):
    out, told = immune
    page = out / "report.html"
    assert told["page"] == str(page)
    text = page.read_text()
    assert "Conjugate gradients, least squares and whitening learn it as before" in text
    assert "flatlens:digits-cnn · immunized, ceiling" in text and "classes 5, 6, 7, 8, 9" in text
    page.unlink()
    code = "import sys; sys.modules['torch'] = None; from flatlens_cli.app import main; main()"
    for more, file in (([], page), (["--out", tmp_path / "p.html"], tmp_path / "p.html"),
                       (["--folder", tmp_path / "web"], tmp_path / "web" / "index.html")):  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code, "report", str(out), *map(str, more)], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        assert file.read_text() == text
    for more, says in ((["--format", "svg"], "leave it out"), ([out], "name it alone")):
        refused = flatlens("report", out, *more)
        assert refused.code == 2 and says in refused.err


def test_a_page_that_cannot_be_is_a_line_and_no_failure(tables, flatlens, tmp_path):
    primary, harmful = (f"table:{tables}/{name}.csv?target=y" for name in "ab")
    given = ["immunize", "--primary", primary, "--harmful", harmful, "--out", tmp_path / "o", "--json", "--quiet"]
    assert flatlens(*given).code == 0
    (tmp_path / "o" / "report.html").write_text("<p>my notes</p>")
    done = flatlens(*given)
    assert done.code == 0 and json.loads(done.out)["page"] is None and "no page: " in done.err
    assert (tmp_path / "o" / "report.html").read_text() == "<p>my notes</p>"


@pytest.mark.parametrize(("most", "says"), [(2e-5, "moved by at most 2e-05"), (0.3, "0.3; more than rounding should")])
def test_logits_that_moved_are_told(most, says):
    assert says in _moved(most) and ("rounding" in _moved(most)) == (most > 1e-4)


REFUSED = {
    "no out": (["--primary", "{a}?target=y", "--harmful", "{b}?target=y"], "--out is missing"),
    "no harmful": (["--primary", "{a}?target=y", "--out", "o"], "--harmful is missing"),
    "one class": ([*DIGITS, "5", "--out", "o"], "of class 5: there is nothing to learn"),
    "no class": ([*DIGITS, "5-11", "--out", "o"], "has no sample of class 10; its classes are 0 to 9"),
    "classes": ([*DIGITS, "five", "--out", "o"], "--harmful-classes 'five': needs numbers such as 0-4"),
    "ridge": ([*DIGITS, "5-9", "--out", "o", "--ridge", "-1"], "--ridge -1.0: needs a number of at least 0"),
    "no ridge": ([*DIGITS, "5-9", "--out", "o", "--ridge", "0"], "singular: .*--ridge 0.01"),
    "method": ([*DIGITS, "5-9", "--out", "o", "--method", "x"], "no method 'x'; there are: ceiling, alg1"),
    "layers": ([*DIGITS, "5-9", "--out", "o", "--layer", "head", "--layer", "fc"], "before one layer; name one"),
    "limit": (
        ["--primary", "{a}?target=y", "--harmful", "{b}?target=y", "--out", "o", "--limit", "5"],
        "--limit needs --model",
    ),
    "target": ([*DIGITS, "5-9", "--out", "o", "--target", "1e9"], "above the ceiling: no linear extractor exceeds"),
    "text": (["--primary", "{a}?target=z", "--harmful", "{b}?target=y", "--out", "o"], "no column 'z'; .*has: p, q"),
    "columns": (
        ["--primary", "{a}?target=y", "--harmful", "{b}?target=y&without=p", "--out", "o"],
        "need the same features: only one has 'p'",
    ),
    "no model": (["--primary", DATA, "--harmful", DATA, "--out", "o"], "--model is missing"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_is_one_line(which, tables, flatlens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, said = REFUSED[which]
    done = flatlens("immunize", *(flag.format(a=f"table:{tables}/a.csv", b=f"table:{tables}/b.csv") for flag in flags))
    assert done.code == 2 and re.search(said, done.err) and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "o").exists()
