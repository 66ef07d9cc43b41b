"""An error of anybody's code becomes one line that any terminal can show."""

from __future__ import annotations

import pytest

from flatlens.errors import SpecError, one_line


class SilentError(Exception):
    def __str__(self) -> str:
        raise ValueError("no message for you")


class StoppedError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


LINES = {
    "plain": (ValueError("too long"), "too long", "ValueError: too long"),
    "empty": (ValueError(), "ValueError", "ValueError"),
    "blank": (ValueError(" \n\t "), "ValueError", "ValueError"),
    "many lines": (ValueError("first\n  second\r\nthird\n"), "first second third", "ValueError: first second third"),
    "control characters": (ValueError("a\x1b[31mb\0c"), "a\ufffd[31mb\ufffdc", "ValueError: a\ufffd[31mb\ufffdc"),
    "half a character": (ValueError("a\udcffb"), "a\ufffdb", "ValueError: a\ufffdb"),
    "without a message to show": (
        SilentError(),
        "(its message cannot be shown: ValueError)",
        "SilentError: (its message cannot be shown: ValueError)",
    ),
    "of 300 characters": (ValueError("x" * 300), "x" * 300, f"ValueError: {'x' * 300}"),
    "longer": (ValueError("x" * 301), "x" * 300 + "…", f"ValueError: {'x' * 300}…"),
    "our own": (SpecError("x" * 900), "x" * 900, f"SpecError: {'x' * 900}"),
    "our own, longer": (SpecError("x" * 10**6), "x" * 1000 + "…", f"SpecError: {'x' * 1000}…"),
}


@pytest.mark.parametrize("which", LINES)
def test_whatever_an_error_says_is_one_line(which: str) -> None:
    error, message, with_type = LINES[which]
    assert (one_line(error), one_line(error, kind=True)) == (message, with_type)


def test_who_wants_to_stop_is_not_held_up() -> None:
    with pytest.raises(KeyboardInterrupt):
        one_line(StoppedError())
