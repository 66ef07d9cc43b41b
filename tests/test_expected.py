"""A warning ends a test, unless the test says that it may come."""

from __future__ import annotations

import warnings

import pytest

import flatlens as fl
from flatlens.records.schema import Caution
from flatlens.wording import warn
from tests.expected import cautioned


@cautioned("low-accuracy", "too-large")
@pytest.mark.parametrize("code", ["low-accuracy", "too-large"])
def test_a_caution_that_is_named_may_come(code):
    warn([Caution(code, "3 of 4")])


@cautioned("low-accuracy")
@pytest.mark.parametrize("code", ["too-large", "low", "low-accuracy-again", "very-low-accuracy"])
def test_any_other_ends_the_test(code):
    with pytest.raises(fl.CautionWarning, match=code):
        warn([Caution(code, "3 of 4")])


@pytest.mark.parametrize("kind", [UserWarning, DeprecationWarning, FutureWarning, ResourceWarning, RuntimeWarning])
def test_any_warning_ends_a_test(kind):
    with pytest.raises(kind):
        warnings.warn("low-accuracy: of something else", kind, stacklevel=1)
