"""Annotations are checked in these tests: a wrong shape or type anywhere below the folders named ends a test."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from flatlens.attacks import PGD, objectives
from flatlens.hessian.scale_free import over_gap
from flatlens.victims.images import ImageVictim

X, Y = torch.rand(3, 4), torch.tensor([0, 1, 0])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: objectives.margin(X, Y[:2]),
        lambda: objectives.margin(X[0], Y),
        lambda: objectives.margin(X, Y.float()),
        lambda: over_gap(X, X),
        lambda: PGD(steps="3"),
        lambda: ImageVictim(nn.Linear(4, 2).eval(), X)(X, Y[:, None]),
    ],
    ids=["other-n", "too-few-axes", "float-labels", "too-many-axes", "a-word", "labels-in-a-column"],
)
def test_what_is_annotated_is_checked(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


def test_a_whole_number_is_a_number():
    assert PGD(eps=1).eps == 1
