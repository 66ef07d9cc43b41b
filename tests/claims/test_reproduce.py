"""`flatlens reproduce` as a user runs it: on the shipped network, after a part is lost, and asked for nonsense."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flatlens.claims import catalogue, work
from flatlens.claims.work import Asked, reproduce
from flatlens.report import claims_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("claims") / "out"
    reproduce(Asked(tuple(catalogue.FILES), limit=60), out)
    return out


def told(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "claims.json").read_text())["claims"]
    return found


def test_one_network_is_inconclusive_where_the_rule_asks_for_five(folder: Path) -> None:
    assert [one["claim"] for one in told(folder)] == list(catalogue.FILES)
    for one in told(folder):
        assert one["verdict"] == "inconclusive" and "1 network of the 5" in one["why"] and one["nets"] == 1
        assert one["value"] is not None and one["low"] <= one["value"] <= one["high"] and one["n"] > 0


def _ranks(values: np.ndarray) -> np.ndarray:
    """How many are smaller, and half of those that are equal."""
    return np.array([np.sum(values < v) + (np.sum(values == v) + 1) / 2 for v in values])


def _recomputed(part: dict[str, Any], table: dict[str, Any]) -> float:
    """A number from the samples alone."""
    kind, given = part["statistic"]["kind"], part["statistic"]["given"]
    rows = table[given].astype(bool) if given else np.ones(len(table["sample"]), bool)
    values = [np.asarray(table[name], dtype=float)[rows] for name in part["statistic"]["columns"]]
    if kind == "share":
        return float(np.sum(values[0] > 0) / len(values[0]))
    if kind == "difference":
        return float(np.mean(values[0]) - np.mean(values[1]))
    if kind == "exceptions":
        return float(np.count_nonzero(values[0] == 0))
    if kind == "mean":
        return float(np.sum(values[0]) / len(values[0]))
    if kind == "correlation":
        return float(np.corrcoef(*(_ranks(v) for v in values))[0, 1])
    if kind == "partial correlation":
        inverse = np.linalg.inv(np.corrcoef([_ranks(v) for v in values]))
        return float(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))
    assert kind == "median"
    return float(np.quantile(values[0][~np.isnan(values[0])], 0.5))


def test_every_number_is_that_of_the_samples_in_the_files(folder: Path) -> None:
    count = 0
    for one in told(folder):
        (file,) = (folder / "cells" / one["claim"]).glob("*.parquet")
        read = pq.read_table(file)
        table = {name: read[name].to_numpy() for name in read.column_names}
        for part in one["parts"]:
            assert part["value"] == pytest.approx(_recomputed(part, table), abs=1e-9)
            count += 1
    assert count == sum(len(catalogue.claim(name).parts) for name in catalogue.FILES)


def test_scaled_weights_underflow_and_nothing_else(folder: Path) -> None:
    (one,) = (one for one in told(folder) if one["claim"] == "C7")
    parts = {part["name"]: part for part in one["parts"]}
    assert parts["rise"]["value"] >= 0.8 and parts["margin"]["value"] == parts["dlr"]["value"] == 0
    assert parts["underflow"]["value"] == parts["underflow64"]["value"] == 0
    assert parts["wide"]["value"] < parts["rise"]["value"]
    assert one["by_construction"] is False  # what decides is measured; the transfer is shown, and marked
    assert parts["transfer"]["value"] == 1 and parts["transfer"]["forced"]


def test_what_is_there_is_not_measured_again_and_what_is_lost_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    (table,) = (again / "cells" / "C14").glob("*.parquet")
    table.write_bytes(table.read_bytes()[:100])
    tried = []
    real = work._try
    monkeypatch.setattr(work, "_try", lambda cell, out: (tried.append(cell.claim), real(cell, out))[1])
    reproduce(Asked(tuple(catalogue.FILES), limit=60), again)
    assert tried == ["C14"]
    assert (again / "claims.json").read_text() == (folder / "claims.json").read_text()
    tried.clear()
    reproduce(Asked(("C1",), limit=50), again)  # fewer samples are another table
    assert tried == ["C1"]


def test_a_network_that_fails_is_named_and_loses_no_other(tmp_path: Path) -> None:
    models = ("flatlens:digits-cnn", "flatlens:cnn?act=no-such")
    (found,) = reproduce(Asked(("C14",), models=models, data="flatlens:digits", eps=0.3, limit=40), tmp_path / "out")
    assert found.verdict == "inconclusive" and found.nets == 1 and "no-such" in found.why
    (found,) = reproduce(Asked(("C14",), models=models[1:], data="flatlens:digits", limit=40), tmp_path / "other")
    assert found.verdict == "not run" and "no-such" in found.why


class Counted(HTMLParser):
    """How often each element begins, and what stands in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.begun: dict[str, int] = {}
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.begun[tag] = self.begun.get(tag, 0) + 1

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_has_a_row_a_claim_and_no_script(folder: Path) -> None:
    page = Counted((folder / "index.html").read_text())
    parts = sum(len(one["parts"]) for one in told(folder))
    assert page.begun["details"] == len(catalogue.FILES) and page.begun["svg"] == parts and "script" not in page.begun
    assert all(caveat in page.said for one in told(folder) for caveat in one["caveats"])


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "</details>", '"><img src=x>', "\u202egnp"])
def test_hostile_words_are_text(folder: Path, hostile: str) -> None:
    claims = json.loads((folder / "claims.json").read_text())
    before = Counted(claims_page.page(claims)).begun
    for one in claims["claims"]:
        one["why"] = one["title"] = one["source"] = hostile
        one["parts"][0]["says"] = one["parts"][0]["forced"] = hostile
    page = Counted(claims_page.page(claims))
    assert hostile in page.said
    assert {k: v for k, v in page.begun.items() if k != "small"} == {k: v for k, v in before.items() if k != "small"}


def test_csv_and_markdown_have_every_claim(folder: Path) -> None:
    rows = (folder / "claims.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(len(one["parts"]) for one in told(folder))
    lines = (folder / "claims.md").read_text().splitlines()
    assert len(lines) == 2 + len(catalogue.FILES) and all("inconclusive" in line for line in lines[2:])
