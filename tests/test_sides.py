"""`make test` runs all tests in three processes: each file in one of them, and no failure is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.__main__ import HERE, NOTHING, OPENING, STARTING, sides, worst


def test_every_file_is_on_one_side():
    computing, starting, opening = sides()
    assert (set(starting), set(opening)) == (set(STARTING), set(OPENING)), "what is named is there"
    every = [*computing, *starting, *opening]
    for file in HERE.rglob("test_*.py"):
        assert every.count(file.relative_to(HERE).parts[0]) == 1
    assert all(Path(HERE, name).exists() for name in every)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([0, NOTHING], 0),
        ([NOTHING, NOTHING], NOTHING),
        ([1, 0], 1),
        ([0, 1], 1),
        ([NOTHING, 1], 1),
        ([-9, 0], -9),
        ([0, -9], -9),
        ([2, NOTHING], 2),
        ([0, NOTHING, 1], 1),
        ([0, 0, NOTHING], 0),
    ],
)
def test_what_fails_on_any_side_fails(codes, expected):
    assert worst(codes) == expected
