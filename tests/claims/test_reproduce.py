"""`flatlens reproduce` as a user runs it: on the shipped network, after a part is lost, and asked for nonsense."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flatlens.claims import catalogue, machines
from flatlens.claims.work import Asked, reproduce
from flatlens.report import claims_page
from tests.claims import plain_numpy

SMALLER = {"C5": (2, 20), "C15": (8, 36)}
"""Claims whose networks are dear, with fewer of their rows than ``--quick`` has."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("claims") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name, sizes in SMALLER.items():
            patch.setattr(catalogue.module(name), "CLAIM", replace(catalogue.claim(name), sizes=sizes))
        reproduce(Asked(tuple(catalogue.FILES), limit=40), out)
        yield out


def told(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "claims.json").read_text())["claims"]
    return found


def tried(folder: Path) -> list[dict[str, Any]]:
    return [one for one in told(folder) if one["verdict"] != "not run"]


def test_one_network_is_inconclusive_where_the_rule_asks_for_five(folder: Path) -> None:
    assert [one["claim"] for one in told(folder)] == list(catalogue.FILES)
    for one in told(folder):
        claim = catalogue.claim(one["claim"])
        if claim.full_only:
            assert one["verdict"] == "not run" and claim.full_only in one["why"] and not one["parts"]
            continue
        assert (
            one["verdict"] == "inconclusive"
            and f"1 {claim.units[0]} of the {claim.least}" in one["why"]
            and one["nets"] == 1
        )
        assert one["value"] is not None and one["low"] <= one["value"] <= one["high"] and one["n"] > 0


def _ranks(values: np.ndarray) -> np.ndarray:
    """How many are smaller, and half of those that are equal."""
    return np.array([np.sum(values < v) + (np.sum(values == v) + 1) / 2 for v in values])


def _recomputed(part: dict[str, Any], table: dict[str, Any]) -> float:
    """A number from the samples alone."""
    kind, given = part["statistic"]["kind"], part["statistic"]["given"]
    rows = table[given].astype(bool) if given else np.ones(len(table["sample"]), bool)
    values = [np.asarray(table[name], dtype=float)[rows] for name in part["statistic"]["columns"]]
    if kind in plain_numpy.KINDS:
        there = ~np.any(np.isnan(values), axis=0)
        return plain_numpy.KINDS[kind](*(v[there] for v in values))
    if kind == "share":
        return float(np.sum(values[0] > 0) / len(values[0]))
    if kind == "difference":
        return float(np.mean(values[0]) - np.mean(values[1]))
    if kind == "exceptions":
        return float(np.count_nonzero(values[0] == 0))
    if kind == "mean":
        return float(np.nansum(values[0]) / np.count_nonzero(~np.isnan(values[0])))
    if kind == "ratio of medians":
        both = ~np.isnan(values[0]) & ~np.isnan(values[1])
        return float(np.quantile(values[0][both], 0.5) / np.quantile(values[1][both], 0.5))
    if kind == "length":
        return _median_length(values[0], values[1] > 0)
    if kind == "ratio of lengths":
        return _median_length(values[0], values[1] > 0) / _median_length(values[2], values[3] > 0)
    if kind == "correlation":
        return float(np.corrcoef(*(_ranks(v) for v in values))[0, 1])
    if kind == "partial correlation":
        inverse = np.linalg.inv(np.corrcoef([_ranks(v) for v in values]))
        return float(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))
    assert kind == "median"
    return float(np.quantile(values[0][~np.isnan(values[0])], 0.5))


def _median_length(length: np.ndarray, event: np.ndarray) -> float:
    """Where the product-limit estimate of the survival is first at most a half."""
    survival = 1.0
    for at in np.unique(length[event]):
        survival *= 1 - np.count_nonzero(event & (length == at)) / np.count_nonzero(length >= at)
        if survival <= 0.5 + 1e-9:
            return float(at)
    return float("inf")


def test_every_number_is_that_of_the_samples_in_the_files(folder: Path) -> None:
    count = 0
    for one in tried(folder):
        (file,) = (folder / "cells" / one["claim"]).glob("*.parquet")
        read = pq.read_table(file)
        table = {name: read[name].to_numpy() for name in read.column_names}
        for part in one["parts"]:
            assert part["value"] == pytest.approx(_recomputed(part, table), rel=1e-9, abs=1e-9), part["says"]
            count += 1
    assert count == sum(len(catalogue.claim(one["claim"]).parts) for one in tried(folder))


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
    real = machines.attempt
    monkeypatch.setattr(machines, "attempt", lambda cell, out: (tried.append(cell.claim), real(cell, out))[1])
    reproduce(Asked(tuple(catalogue.FILES), limit=40), again)
    assert tried == ["C14"]
    assert (again / "claims.json").read_text() == (folder / "claims.json").read_text()
    tried.clear()
    reproduce(Asked(("C1",), limit=50), again)  # fewer samples are another table
    assert tried == ["C1"]


def test_other_weights_under_the_same_name_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from flatlens import models

    net = models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    uri = f"ckpt:{tmp_path / 'mine.pt'}?arch=flatlens:cnn"
    tried = []
    real = machines.attempt
    monkeypatch.setattr(machines, "attempt", lambda cell, out: (tried.append(cell.claim), real(cell, out))[1])
    for weights, times in ((1.0, 1), (1.0, 1), (2.0, 2)):
        torch.save({name: weights * value for name, value in net.state_dict().items()}, tmp_path / "mine.pt")
        (found,) = reproduce(Asked(("C14",), models=(uri,), data="flatlens:digits", limit=20), tmp_path / "out")
        assert found.nets == 1 and len(tried) == times, found.why


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
        if one["parts"]:
            one["parts"][0]["says"] = one["parts"][0]["forced"] = hostile
    page = Counted(claims_page.page(claims))
    assert hostile in page.said
    assert {k: v for k, v in page.begun.items() if k != "small"} == {k: v for k, v in before.items() if k != "small"}


def test_csv_and_markdown_have_every_claim(folder: Path) -> None:
    rows = (folder / "claims.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(max(len(one["parts"]), 1) for one in told(folder))
    lines = (folder / "claims.md").read_text().splitlines()
    assert len(lines) == 2 + len(catalogue.FILES) and all(
        one["verdict"] in line for one, line in zip(told(folder), lines[2:], strict=True)
    )


@pytest.mark.parametrize("dtype, half, none", [("float32", 20.0, 110.0), ("float64", 40.0, 760.0)])
def test_of_a_gradient_the_labels_own_term_goes_first(dtype: str, half: float, none: float) -> None:
    """What explains the samples that keep their label though the gradient is not zero: half of it is."""
    import torch

    for gap, label, other in ((5.0, True, True), (half, False, True), (none, False, False)):
        logits = torch.tensor([[gap, 0.0, -gap]], dtype=getattr(torch, dtype), requires_grad=True)
        torch.nn.functional.cross_entropy(logits, torch.tensor([0])).backward()
        assert logits.grad is not None
        assert [bool(logits.grad[0, 0]), bool(logits.grad[0, 1])] == [label, other]
