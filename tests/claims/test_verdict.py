"""Verdicts follow from their rule: outcomes of each kind, made so by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flatlens.claims import verdict
from flatlens.claims.claim import Claim, Part, Region
from flatlens.claims.statistics import Table, exceptions, share
from flatlens.claims.verdict import INCONCLUSIVE, NOT, PARTLY, REPRODUCED, judge

LOW, MIDDLE, HIGH = 0.02, 0.5, 0.98
"""Shares that lie below, astride and above the region of these tests."""


def table(shares: dict[str, float], seed: int, n: int = 200) -> Table:
    """A network of which each flag is set for about this share of the samples."""
    rng = np.random.default_rng(seed)
    made = {name: rng.random(n) < value for name, value in shares.items()}
    return {"sample": np.arange(n), **made}


def claim(*parts: Part, least: int = 5, samples: int = 100) -> Claim:
    return Claim(
        "C0", "made", "here", "nothing", "is it so?", {}, parts, least=least, samples=samples
    )  # fmt: skip


HALF = Region(low=0.5)


def of(name: str, region: Region | None = HALF, forced: str = "") -> Part:
    return Part(name, name, share(name), region, forced)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (HIGH, HIGH, REPRODUCED),
        (LOW, LOW, NOT),
        (HIGH, LOW, PARTLY),
        (LOW, HIGH, PARTLY),
        (HIGH, MIDDLE, INCONCLUSIVE),
        (MIDDLE, LOW, INCONCLUSIVE),
        (MIDDLE, MIDDLE, INCONCLUSIVE),
    ],
)
def test_two_parts_give_the_verdict_of_the_rule(first: float, second: float, expected: str) -> None:
    tables = [table({"one": first, "two": second}, seed) for seed in range(6)]
    found = judge(claim(of("one"), of("two")), tables)
    assert found.verdict == expected and found.nets == 6 and found.samples == 1200
    if expected == PARTLY:
        assert f"Holds: {'one' if first == HIGH else 'two'}" in found.why


@pytest.mark.parametrize("share_of_all", [LOW, HIGH])
@pytest.mark.parametrize(("nets", "said"), [(1, "1 network of the 5"), (4, "4 networks of the 5")])
def test_too_few_networks_decide_nothing(share_of_all: float, nets: int, said: str) -> None:
    found = judge(claim(of("one")), [table({"one": share_of_all}, seed) for seed in range(nets)])
    assert found.verdict == INCONCLUSIVE and said in found.why
    assert found.outcomes[0].outcome in (verdict.HOLDS, verdict.FAILS)  # the numbers themselves are told


def test_too_few_samples_decide_nothing() -> None:
    found = judge(claim(of("one")), [table({"one": HIGH}, seed, n=12) for seed in range(5)])
    assert found.verdict == INCONCLUSIVE and "60 samples of the 100" in found.why


def test_what_is_too_few_has_the_claims_own_name() -> None:
    own = replace(claim(of("one"), samples=500), units=("seed", "way"))
    assert "1 seed of the 5" in judge(own, [table({"one": HIGH}, 0)]).why
    assert "50 ways of the 500" in judge(own, [table({"one": HIGH}, seed, n=10) for seed in range(5)]).why


def test_a_control_decides_nothing() -> None:
    tables = [table({"one": HIGH, "beside": LOW}, seed) for seed in range(5)]
    found = judge(claim(of("one"), of("beside", None)), tables)
    assert found.verdict == REPRODUCED and found.outcomes[1].outcome == verdict.SHOWN


def test_a_claim_that_fails_tells_what_holds_in_it_by_construction() -> None:
    tables = [table({"one": LOW, "two": HIGH}, seed) for seed in range(6)]
    found = judge(claim(of("one"), of("two", forced="an identity")), tables)
    assert found.verdict == NOT and found.why == "no part holds but by construction: two"
    assert judge(claim(of("one")), tables).why == "no part holds"


def test_what_is_forced_is_no_evidence_and_told_where_it_breaks() -> None:
    forced = Part("same", "same", exceptions("same"), Region(high=0), "an identity")
    holds = [table({"same": 1.1}, seed) for seed in range(5)]
    assert judge(claim(forced), holds).verdict == INCONCLUSIVE and judge(claim(forced), holds).forced
    broken = [{**one, "same": np.arange(200) > 0} for one in holds]
    assert judge(claim(forced), broken).verdict == NOT


@pytest.mark.parametrize(("missing", "expected"), [(0, REPRODUCED), (1, NOT)])
def test_one_exception_refutes_an_identity(missing: int, expected: str) -> None:
    tables = [{"sample": np.arange(100), "same": np.arange(100) >= (missing if seed == 3 else 0)} for seed in range(5)]
    found = judge(claim(Part("same", "same", exceptions("same"), Region(high=0))), tables)
    assert found.verdict == expected and found.outcomes[0].estimate.value == missing


def test_networks_without_the_samples_asked_for_leave_the_part_open() -> None:
    empty = [{"sample": np.arange(100), "one": np.ones(100, bool), "given": np.zeros(100, bool)} for _ in range(5)]
    part = Part("one", "one", share("one", "given"), Region(low=0.5))
    assert judge(claim(part), empty).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("region", "said"), [(Region(low=0.9), "≥ 0.9"), (Region(high=0.02), "≤ 0.02"), (Region(-0.5, 2), "−0.5 … 2")]
)
def test_a_region_in_words(region: Region, said: str) -> None:
    assert str(region) == said
