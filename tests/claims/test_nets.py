"""Networks that a claim trains in ways of its own, and when a table that is there is of other ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flatlens.claims import catalogue, nets
from flatlens.claims.cells import Cell
from flatlens.claims.claim import STANDARD, Claim

OWN: dict[str, dict[str, Any]] = {
    "plain": {"epochs": 1},
    "gated": {"epochs": 2, "model": "flatlens:mlp?act=swiglu&seed={seed}"},
}


def claim(**changes: Any) -> Claim:
    return replace(catalogue.claim("C1"), kinds=("plain", "gated"), trainings=OWN, **changes)


def test_each_kind_has_its_own_model_and_training() -> None:
    (first, *rest) = nets.chosen(claim(seeds=(7, 8)), full=True)
    assert [net.seed for net in (first, *rest)] == [7, 8]
    assert first.uris == {"plain": "flatlens:cnn?seed=7", "gated": "flatlens:mlp?act=swiglu&seed=7"}
    assert first.trainings == {"plain": {"epochs": 1}, "gated": {"epochs": 2}}


def test_in_full_there_are_the_usual_seeds_and_quickly_one_that_is_none_of_them() -> None:
    assert [net.seed for net in nets.chosen(claim(), full=True)] == list(nets.SEEDS)
    (one,) = nets.chosen(claim(), full=False)
    assert one.trained and one.seed not in nets.SEEDS


@pytest.mark.parametrize("changed", [{"epochs": 3}, {"epochs": 2, "adversarial": "pgd"}])
def test_another_training_is_another_table(changed: dict[str, Any]) -> None:
    (net,) = nets.chosen(claim(), full=False)
    other = replace(net, trainings={**net.trainings, "gated": changed})
    assert Cell("C1", net, 10, True).identity != Cell("C1", other, 10, True).identity


def test_a_table_of_usual_networks_is_found_again() -> None:
    """Identities are on the users' disks: they stay."""
    net = nets.Net("seed 30", {STANDARD: "flatlens:cnn?seed=30"}, "flatlens:digits", 0.3, 30)
    found = Cell("C1", net, 400, True).identity["hash"]
    assert found == "5cd512b464ae9c6f91c84262b530c7a4b0380c7f3d59c13fb6f2b38e8a2505b2"
