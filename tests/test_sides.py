"""`make test` runs all tests in two processes: each file in one of them, and no failure is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.__main__ import HERE, NOTHING, STARTING, sides, worst


def test_every_file_is_on_one_side():
    computing, starting = sides()
    assert set(starting) == set(STARTING), "what is named is there"
    for file in HERE.rglob("test_*.py"):
        assert [*computing, *starting].count(file.relative_to(HERE).parts[0]) == 1
    assert all(Path(HERE, name).exists() for name in (*computing, *starting))


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
    ],
)
def test_what_fails_on_either_side_fails(codes, expected):
    assert worst(codes) == expected
