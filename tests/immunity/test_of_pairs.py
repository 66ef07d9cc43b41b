"""A search over pairs that is interrupted goes on where it was, to the same table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flatlens.immunity import of_pairs, pairs
from flatlens.immunity.immunize import checked
from flatlens.records.immunized import BEGUN
from flatlens.specs.run import RunSpec

SPEC = RunSpec(model=of_pairs.PIXELS, data="flatlens:digits?split=all", limit=200)
METHOD, RIDGE = "ceiling", 0.01


def found(out: Path, ridge: float = RIDGE, **how: Any) -> Any:
    asked = checked(METHOD, ridge, 0.3, None, 1e6, 40, 0.0, 0, 0.5)
    return of_pairs.of_data(SPEC, asked, out, pixels=True, halve=True, **how)


class Stopped(BaseException):
    pass


def interrupted(out: Path, monkeypatch: pytest.MonkeyPatch, after: int = 30) -> None:
    monkeypatch.setattr(of_pairs, "EVERY", 0.0)

    def stop(progress: Any) -> None:
        if progress.done == after:
            raise Stopped

    with pytest.raises(Stopped):
        found(out, progress=stop)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were searched since."""
    count, plain = [0], pairs.of_tasks

    def counted(*args: Any, **how: Any) -> Any:
        count[0] += 1
        return plain(*args, **how)

    monkeypatch.setattr(pairs, "of_tasks", counted)
    return count


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: list[int]) -> None:
    whole = found(tmp_path / "whole")
    interrupted(tmp_path / "out", monkeypatch)
    searched[0] = 0
    again = found(tmp_path / "out")
    assert searched[0] == 90 - 30
    kept = pq.read_table(tmp_path / "out" / "pairs.parquet")
    assert again.to_pandas().equals(whole.to_pandas()) and kept.to_pandas().equals(whole.to_pandas()), "NaN is NaN"
    assert not (tmp_path / "out" / BEGUN).exists()


@pytest.mark.parametrize("change", ["damaged", "cut off", "of other settings"])
def test_what_is_of_another_search_is_not_taken(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: list[int]
) -> None:
    interrupted(tmp_path / "out", monkeypatch, after=3)
    file = tmp_path / "out" / BEGUN
    if change == "damaged":
        file.write_bytes(b"nonsense")
    elif change == "cut off":
        file.write_bytes(file.read_bytes()[:-20])
    searched[0] = 0
    found(tmp_path / "out", ridge=0.1 if change == "of other settings" else RIDGE)
    assert searched[0] == 90
