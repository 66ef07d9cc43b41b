"""Logits times s: the user's model stays, the head is found by value, and what has no such head is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from flatlens import models
from flatlens.errors import FlatlensError
from flatlens.models.loaders import sha256
from flatlens.trials.scaling import scaled


class HeadFirst(nn.Module):
    """Registers its head before its body: the last registered Linear layer is no head."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(6, 3), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


class Doubled(HeadFirst):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


MODELS: dict[str, Any] = {
    "itself": lambda: nn.Linear(4, 3),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)),
    "head first": HeadFirst,
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 3)))),
    "weight norm": lambda: nn.Sequential(nn.Linear(4, 5), parametrizations.weight_norm(nn.Linear(5, 3))),
    "spectral norm": lambda: nn.Sequential(nn.Linear(4, 5), parametrizations.spectral_norm(nn.Linear(5, 3))),
}


@pytest.mark.parametrize("s", [0.25, 1.0, 100.0])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_s_times_what_they_were_and_the_model_stays(kind: str, s: float) -> None:
    model, x = MODELS[kind]().double().eval(), torch.randn(5, 4, dtype=torch.float64)
    before, known = model(x).detach(), sha256(model)
    other = scaled(model, s, x)
    torch.testing.assert_close(other(x), s * before, rtol=1e-12, atol=0)
    assert sha256(model) == known and model(x).equal(before) and not other.training
    assert scaled(model, 1.0, x)(x).equal(before)


def test_without_inputs_it_is_the_last_linear_layer() -> None:
    model, x = MODELS["no bias"]().eval(), torch.randn(5, 4)
    assert scaled(model, 4.0)(x).equal(4 * model(x))


REFUSED: dict[str, tuple[Any, float, str]] = {
    "zero": (MODELS["itself"], 0.0, "scale=0: needs a number above 0"),
    "negative": (MODELS["itself"], -1.0, "scale=-1: needs a number above 0"),
    "nan": (MODELS["itself"], float("nan"), "scale=nan: needs a number above 0"),
    "no linear": (lambda: nn.Sequential(nn.Flatten()), 2.0, "no Linear layer"),
    "not the logits": (Doubled, 2.0, "logits are no Linear layer's output"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_head_is_refused_in_one_line(kind: str) -> None:
    make, s, said = REFUSED[kind]
    with pytest.raises(FlatlensError, match=said) as caught:
        scaled(make().eval(), s, torch.randn(2, 4))
    assert "\n" not in str(caught.value)


def test_a_name_takes_a_scale() -> None:
    how = {"shape": (1, 8, 8), "classes": 10}
    plain, hundred = (models.load(f"flatlens:digits-cnn{o}", **how) for o in ("", "?scale=100"))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(hundred.model(x), 100 * plain.model(x), rtol=1e-5, atol=1e-3)
    assert hundred.sha256 != plain.sha256 and "logits × 100" in hundred.source
    for bad in ("0", "-1", "x", "nan"):
        with pytest.raises(FlatlensError, match=f"scale={bad}.*needs a number above 0"):
            models.load(f"flatlens:digits-cnn?scale={bad}", **how)


def test_a_scale_after_the_architecture_is_of_the_weights(tmp_path: Any) -> None:
    how = {"shape": (1, 8, 8), "classes": 10}
    torch.save(models.load("flatlens:digits-cnn", **how).model.state_dict(), tmp_path / "w.pt")
    name = f"ckpt:{tmp_path}/w.pt?arch=flatlens:cnn"
    x = torch.rand(3, 1, 8, 8)
    expected = 10 * models.load(name, **how).model(x)
    for text in (f"{name}?scale=10", f"ckpt:{tmp_path}/w.pt?scale=10&arch=flatlens:cnn"):
        torch.testing.assert_close(models.load(text, **how).model(x), expected, rtol=1e-5, atol=1e-4)
