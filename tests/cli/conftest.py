"""The command line, called in this process."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from flatlens_cli import app


class Answer(NamedTuple):
    """What a command ended with and printed; equal to a tuple of the three."""

    code: int
    out: str
    err: str


@pytest.fixture
def flatlens(capsys):
    def call(*words: object) -> Answer:
        code = app.run([str(word) for word in words])
        return Answer(code, *capsys.readouterr())

    return call
