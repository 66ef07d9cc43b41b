"""A language model trained against attacks on its embeddings, by the same axes as a classifier of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from flatlens.training import defences
from tests.language import tiny

WINDOW, EPS = 12, 1.0
"""Characters that the next one is predicted from; the radius of the attack, in l2 over the window's embeddings."""


class NextCharacter(nn.Module):
    """The tiny language model as a classifier of windows of embeddings ``[n, S, d]``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs_embeds=x).logits[:, -1]
        return logits


def windows(model: Any, tokenizer: Any) -> tuple[Tensor, Tensor]:
    text = (Path(fl.__file__).parents[1] / "LICENSE").read_text()[:4000]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    rows = ids.unfold(0, WINDOW + 1, 7)
    with torch.no_grad():
        return model.get_input_embeddings()(rows[:, :-1]).detach(), rows[:, -1]


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The mean loss under five l2 steps in embedding space, in nats."""
    point = x.clone()
    for _ in range(5):
        point.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        step = slope / slope.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1)
        delta = point.detach() + EPS / 2 * step - x
        size = delta.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1)
        point = x + delta * (EPS / size).clamp(max=1.0)
    with torch.no_grad():
        return float(F.cross_entropy(model(point), y))


@pytest.mark.parametrize("how", ["pgd", "pgd with trades", "the input gradient's penalty"])
def test_training_in_embedding_space_lowers_the_loss_under_attack(how: str) -> None:
    axes: dict[str, Any] = {
        "pgd": {"inner": defences.PGD(steps=3, norm="l2")},
        "pgd with trades": {"inner": defences.PGD(steps=3, norm="l2"), "loss": defences.TRADES(beta=3.0)},
        "the input gradient's penalty": {"penalty": defences.InputGradient(norm="l2")},
    }[how]
    found = []
    for given in ({}, axes):
        model, tokenizer = tiny()
        x, y = windows(model, tokenizer)
        model.get_input_embeddings().weight.requires_grad_(False)  # the windows are made of them
        net = NextCharacter(model)
        rng = torch.Generator().manual_seed(0)
        fl.defences.fit(net, x, y, rng=rng, epochs=3, lr=1e-3, eps=EPS, bounds=(-1e9, 1e9), **given)
        found.append(attacked(net, x, y))
    assert found[1] < 0.9 * found[0]
