"""`flatlens reproduce` and `flatlens claims` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flatlens.claims import catalogue


def test_claims_are_listed(flatlens: Any) -> None:
    assert [one["claim"] for one in json.loads(flatlens("claims", "--json").out)["claims"]] == list(catalogue.FILES)
    assert all(name in flatlens("claims").out for name in catalogue.FILES)


def test_a_claim_in_numbers(flatlens: Any, tmp_path: Path) -> None:
    done = flatlens("reproduce", "c14", "--limit", "30", "--workers", "1", "--out", tmp_path / "out", "--json")
    (one,) = json.loads(done.out)["claims"]
    assert done.code == 0 and one["claim"] == "C14" and one["verdict"] == "inconclusive"
    assert {"value", "low", "high", "n", "interval"} <= set(one) and (tmp_path / "out" / "index.html").exists()
    assert "C14" in done.err and "inconclusive" in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("C99",), "no claim 'C99'"),
        (("--limit", "0"), "--limit 0"),
        (("--eps", "-1"), "--eps -1"),
        (("--workers", "0"), "--workers 0"),
        (("--model", "flatlens:digits-cnn"), "without --data"),
        (("--data", "flatlens:digits"), "without --model"),
        (("--twin", "flatlens:digits-cnn-robust"), "give one for each"),
    ],
)
def test_bad_input_is_one_line(flatlens: Any, tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    done = flatlens("reproduce", *given, "--out", tmp_path / "out", "--quiet")
    assert done.code != 0 and said in done.err and done.err.count("\n") == 1


def test_a_folder_is_needed(flatlens: Any) -> None:
    done = flatlens("reproduce", "C1")
    assert done.code != 0 and "--out is missing" in done.err


def test_language_models_need_no_data(flatlens: Any, tmp_path: Path) -> None:
    done = flatlens("reproduce", "C5", "--model", "lm:./nowhere", "--out", tmp_path / "out", "--json", "--quiet")
    (one,) = json.loads(done.out)["claims"]
    assert done.code == 0 and one["verdict"] == "not run" and "folder './nowhere' is not there" in one["why"]
