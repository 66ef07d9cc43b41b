"""Settings of attacks of whatever type: a number is a number, all else is refused before anything is computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.given import REFUSED, TAKEN


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What becomes of each case for a user, whose calls are not checked against annotations."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.given", str(tmp_path_factory.mktemp("runs"))],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made: dict[str, str] = json.loads(done.stdout)
    return made


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_setting_is_refused_in_one_line(kind: str, found: dict[str, str]) -> None:
    assert found[kind].startswith(REFUSED[kind][1]) and "\n" not in found[kind]


@pytest.mark.parametrize("kind", TAKEN)
def test_numbers_of_numpy_and_torch_are_numbers(kind: str, found: dict[str, str]) -> None:
    """Also when the run is written at its end: what cannot be written then is lost."""
    assert found[kind] == "fine"
