"""Cautions that tests cause and do not look at: named, so that any other one still fails them."""

from __future__ import annotations

import pytest


def cautioned(*codes: str) -> pytest.MarkDecorator:
    """A mark: these cautions may come as warnings. Tests that are about one catch it with `pytest.warns`."""
    return pytest.mark.filterwarnings(*(f"ignore:{code}(?![a-z-]):flatlens.wording.CautionWarning" for code in codes))
