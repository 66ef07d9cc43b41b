"""`make test` runs all tests in four processes: each file in one of them, and no failure is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.__main__ import HERE, NOTHING, OPENING, STARTING, TRACING, sides, worst


def test_every_file_is_on_one_side():
    computing, *named = sides()
    assert [set(side) for side in named] == [set(STARTING), set(OPENING), set(TRACING)], "what is named is there"
    every = [*computing, *(name for side in named for name in side)]
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
