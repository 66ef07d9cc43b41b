"""`flatlens pairs`: all pairs of a data set's classes, found again, with a page; refusals in one line."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from flatlens import datasets
from flatlens.immunity.pairs import by_class, halved, pairs

DATA = "flatlens:digits?split=all"


@pytest.mark.parametrize("halve", [True, False])
def test_the_pixels_of_every_pair_of_classes(flatlens, tmp_path, halve):
    given = ["pairs", "--data", DATA, "--limit", "300", "--ridge", "0.01", "--out", tmp_path / "o"]
    given += ["--halve"] if halve else []
    done = flatlens(*given, "--json", "--quiet")
    told = json.loads(done.out)
    data = datasets.load(DATA)
    data = data.take(datasets.balanced(data.y, 300, 0))
    x = halved(data.x) if halve else data.x.reshape(len(data.y), -1)
    expected = pairs(by_class(x, data.y), ridge=0.01).to_pydict()
    assert done.code == 0 and len(told["pairs"]) == 90
    np.testing.assert_allclose([row["rir"] for row in told["pairs"]], expected["rir"], rtol=1e-8)
    text = (tmp_path / "o" / "report.html").read_text()
    assert told["page"] == str(tmp_path / "o" / "report.html") and text.count('<tr><th scope="row">') > 100
    before = (tmp_path / "o" / "pairs.parquet").stat().st_mtime_ns
    shown = flatlens(*given)
    assert shown.code == 0 and "90, ceiling" in shown.out
    assert (tmp_path / "o" / "pairs.parquet").stat().st_mtime_ns == before, "it was there"
    again = flatlens("report", tmp_path / "o")
    assert again.code == 0 and (tmp_path / "o" / "report.html").read_text() == text


def test_the_features_of_a_model(flatlens, tmp_path):
    given = ["--data", DATA, "--model", "flatlens:digits-cnn", "--holdout", "0.3", "--out", tmp_path / "o", "--quiet"]
    assert flatlens("pairs", *given).code == 0
    table = pq.read_table(tmp_path / "o" / "pairs.parquet")
    assert table.num_rows == 90 and np.isfinite(table["heldout_rir"].to_numpy()).all()
    other = flatlens("pairs", *given, "--ridge", "0.1")
    assert other.code == 2 and "holds a result with ridge 0.001, not 0.1" in other.err
    assert flatlens("pairs", *given, "--ridge", "0.1", "--force").code == 0


REFUSED = {
    "no data": (["--out", "o"], "--data is missing"),
    "no out": (["--data", DATA], "--out is missing"),
    "halved features": (["--data", DATA, "--model", "flatlens:digits-cnn", "--halve", "--out", "o"], "--halve is of"),
    "a layer of pixels": (["--data", DATA, "--layer", "fc", "--out", "o"], "--layer needs --model"),
    "a method": (["--data", DATA, "--method", "ceilin", "--out", "o"], "Did you mean 'ceiling'?"),
    "targets": (["--data", DATA, "--method", "imma", "--out", "o"], "has no targets"),
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_be_is_one_line(kind, flatlens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, says = REFUSED[kind]
    done = flatlens("pairs", *words)
    assert done.code == 2 and says in done.err and not (tmp_path / "o").exists()
