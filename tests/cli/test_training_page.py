"""`flatlens train` draws a page of the training beside the weights, and never over anything else."""

from __future__ import annotations

import json

import pytest

from flatlens.training import epochs, judging


@pytest.fixture
def train(flatlens, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "ROBUST_SAMPLES", 30)
    words = ["train", "--model", "flatlens:mlp", "--data", "flatlens:digits", "--limit", 60, "--epochs", 1]
    return lambda *more: flatlens(*words, "--out", tmp_path / "net.safetensors", *more)


def test_it_lies_beside_the_weights_and_json_says_where(train, tmp_path):
    done = train("--json", "--quiet")
    page = tmp_path / "net.html"
    found = json.loads(done.out)
    assert done.code == 0 and found["page"] == str(page)
    text = page.read_text()
    assert f"{100 * found['accuracy']:.1f} %" in text and "flatlens:mlp · standard, 1 epoch of flatlens:digits" in text
    before = page.stat().st_mtime_ns
    assert f"page           {page}" in train().err + train().out
    assert page.stat().st_mtime_ns == before, "nothing was to do"
    page.write_bytes(b"")  # a full disk's
    assert json.loads(train("--json", "--quiet").out)["page"] == str(page) and page.read_text() == text


def test_a_file_of_that_name_is_left_and_the_training_is_not_lost(train, tmp_path):
    mine = tmp_path / "net.html"
    mine.write_text("<!doctype html><p>my notes</p></html>")
    for resumed in ("new", "finished"):
        done = train("--json", "--quiet")
        found = json.loads(done.out)
        assert done.code == 0 and (found["page"], found["resumed"]) == (None, resumed)
        assert (tmp_path / "net.safetensors").exists()
        assert mine.read_text() == "<!doctype html><p>my notes</p></html>"
        (line,) = [line for line in done.err.splitlines() if "no page" in line]
        assert "net.html' is there and is no page of a training" in line


def test_models_of_before_have_no_page_and_say_nothing_of_it(train, tmp_path):
    train("--quiet")
    epochs.beside(tmp_path / "net.safetensors").unlink()
    (tmp_path / "net.html").unlink()
    done = train("--json", "--quiet")
    assert done.code == 0 and json.loads(done.out)["page"] is None and "page" not in done.err


def test_damaged_rows_make_no_page_and_one_line(train, tmp_path):
    train("--quiet")
    epochs.beside(tmp_path / "net.safetensors").write_bytes(b"PAR1")
    (tmp_path / "net.html").unlink()
    done = train("--json", "--quiet")
    assert done.code == 0 and json.loads(done.out)["page"] is None
    assert [line for line in done.err.splitlines() if "no page: net.training.parquet is damaged" in line]
