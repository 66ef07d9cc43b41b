"""What a manifest tells of the worst of several attacks, in words."""

from __future__ import annotations

from typing import Any

import pytest

from flatlens.records import worst_case

FOUND: dict[str, Any] = {
    "worst": {"value": 0.41, "low": 0.319, "high": 0.508, "n": 1100},
    "masked": False,
    "attacks": dict.fromkeys(("pgd", "apgd_ce", "apgd_t", "square"), ""),
}


@pytest.mark.parametrize(("masked", "said"), [(False, "not masked"), (True, "masked")])
def test_one_line(masked: bool, said: str) -> None:
    line = worst_case.line(FOUND | {"masked": masked})
    assert line == f"41.0 % [31.9, 50.8] of 1,100 are left by the worst of 4 attacks; {said}"


def test_a_manifest_without_it_tells_nothing() -> None:
    assert worst_case.told({"seed": 1}) is None and worst_case.told({"worst_case": None}) is None
    assert worst_case.told({"worst_case": FOUND}) == FOUND
