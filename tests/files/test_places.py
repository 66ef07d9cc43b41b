"""Where trained models are kept, on every system; what was kept elsewhere by an earlier flatlens is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from flatlens.files import places

ENVIRONMENTS: dict[str, tuple[dict[str, str], str]] = {
    "of its own": ({"FLATLENS_CACHE": "{}/own", "XDG_CACHE_HOME": "{}/xdg"}, "own"),
    "of the user": ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/flatlens/models"),
    "neither": ({}, "home/.cache/flatlens/models"),
    "both empty": ({"FLATLENS_CACHE": "", "XDG_CACHE_HOME": ""}, "home/.cache/flatlens/models"),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FLATLENS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("which", ENVIRONMENTS)
def test_on_linux_it_is_where_it_was(which: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, place = ENVIRONMENTS[which]
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert places.cache() == tmp_path / place
    (tmp_path / place).mkdir(parents=True)
    assert places.cache() == tmp_path / place


def test_elsewhere_it_is_the_system_s_place_unless_there_is_an_earlier_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "user_cache_path", lambda name, appauthor: home / "Library" / "Caches" / name)
    assert places.cache() == home / "Library/Caches/flatlens/models"
    (home / ".cache/flatlens/models").mkdir(parents=True)
    assert places.cache() == home / ".cache/flatlens/models"
