"""What the documents say of the claims is what the figures say, and no verdict says more than its intervals show."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flatlens.claims import catalogue

ROOT = Path(__file__).parents[2]
CLAIMS: list[dict[str, Any]] = json.loads((ROOT / "data" / "results" / "claims.json").read_text("utf-8"))["claims"]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims_of_the_documents", ROOT / "data" / "results" / "claims.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_figures() -> None:
    of = script()
    for file, table in of.TABLES.items():
        text = file.read_text(encoding="utf-8")
        assert text.count("<!-- claims -->") == 1 and of.written(text, table(CLAIMS)) == text, file


def test_every_claim_is_there_and_told_of() -> None:
    assert [one["claim"] for one in CLAIMS] == list(catalogue.FILES)
    told = (ROOT / "docs" / "results" / "claims.md").read_text(encoding="utf-8")
    assert re.findall(r"^- \*\*(C\d+)\*\*", told, re.M) == list(catalogue.FILES)


def test_the_regions_of_the_figures_are_those_of_the_claims() -> None:
    for one in CLAIMS:
        known = {part.name: part for part in catalogue.claim(one["claim"]).parts}
        for part in one["parts"]:
            region = known[part["name"]].region
            assert part["region_said"] == (None if region is None else str(region)), (one["claim"], part["name"])


@pytest.mark.parametrize("one", CLAIMS, ids=[one["claim"] for one in CLAIMS])
def test_a_verdict_follows_from_its_intervals(one: dict[str, Any]) -> None:
    """By the rule in words, of the figures alone."""
    held, failed, undecided = [], [], []
    for part in one["parts"]:
        if part["region"] is None:
            continue
        low, high = (
            bound if bound is not None else end for bound, end in zip(part["region"], (-1e99, 1e99), strict=True)
        )
        inside = part["low"] is not None and low <= part["low"] and part["high"] <= high
        outside = part["low"] is not None and (part["high"] < low or part["low"] > high)
        if not (part["forced"] and inside):  # an identity is no evidence
            (held if inside else failed if outside else undecided).append(part["name"])
    if "the rule asks for" in one["why"]:
        expected = "inconclusive"
    elif held and failed:
        expected = "partly"
    elif undecided or not (held or failed):
        expected = "inconclusive"
    else:
        expected = "reproduced" if held else "not reproduced"
    assert one["verdict"] == expected, (held, failed, undecided)
