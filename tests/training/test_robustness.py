"""The worst of several attacks: against linear models, whose robustness is known; masking; and what is said of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.hessian.head import Head
from flatlens.models.loaders import sha256
from flatlens.records.intervals import wilson
from flatlens.specs.train import TrainSpec
from flatlens.training import judging, recipes
from flatlens.training.robustness import Robustness
from tests.expected import cautioned

NAMED = ("pgd", "apgd_ce", "apgd_t", "square", "cross_entropy", "scale_free")
WIDE = (-50.0, 50.0)


def linear(classes: int, n: int = 120) -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear model in float64, and inputs, a tenth of them labelled otherwise than it says."""
    g = torch.Generator().manual_seed(classes)
    model = nn.Linear(6, classes).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, 6, generator=g, dtype=torch.float64))
        model.bias.zero_()
    x = torch.randn(n, 6, generator=g, dtype=torch.float64)
    y = model(x).argmax(1)
    return model, x, torch.where(torch.arange(n) % 10 == 3, (y + 1) % classes, y)


def distances(model: nn.Linear, x: Tensor, y: Tensor, dual: float) -> Tensor:
    """How far off the label's region ends, in the norm whose dual is given; negative outside of it."""
    z, w = model(x).detach(), model.weight.detach()
    apart = (w[y][:, None] - w).norm(dual, dim=2)
    lead = z.gather(1, y[:, None]) - z
    return torch.where(F.one_hot(y, len(w)).bool(), torch.inf, lead / apart).amin(1)


@cautioned("few-classes")
@pytest.mark.parametrize(("norm", "dual", "eps"), [("linf", 1, 0.15), ("l2", 2, 0.4)])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_linear_model_is_as_robust_as_it_is(classes: int, norm: str, dual: int, eps: float) -> None:
    model, x, y = linear(classes)
    found = fl.robustness(model, x, y, eps=eps, norm=norm, bounds=WIDE, queries=20)
    clean, left = distances(model, x, y, dual) > 0, distances(model, x, y, dual) > eps
    assert found.clean == wilson(int(clean.sum()), len(x)) and found.worst == wilson(int(left.sum()), len(x))
    assert 0.2 < found.worst.value < found.clean.value - 0.1
    for name in NAMED:
        assert found.worst.count <= getattr(found, name).count <= found.clean.count, name
    if classes == 2:  # the margin's gradient is the same everywhere, and the radius exact
        assert found.slope.value == pytest.approx(
            float((model.weight[0] - model.weight[1]).detach().norm(dual)), rel=1e-9
        )
        assert found.radius.value == pytest.approx(float(distances(model, x, y, dual).median()), rel=0.1)
        margins = found.slope.value * distances(model, x, y, dual)
        gap = F.softplus(eps * found.slope.value - margins) - F.softplus(-margins)
        exact = 1e-6 if norm == "linf" else 0.05  # in l2 the farthest point is met in the limit alone
        assert found.loss_gap.mean.value == pytest.approx(float(gap.mean()), rel=exact)
        assert found.loss_gap.median.value == pytest.approx(float(gap.quantile(0.5)), rel=exact)
    assert not found.masked and ("few-classes" in {c.code for c in found.cautions}) == (classes < 4)
    assert ("margin" in found.attacks["apgd_t"]) == (classes < 4)


def digits(n: int | None = None) -> tuple[Tensor, Tensor]:
    data = datasets.load("flatlens:digits")
    if n is not None:
        data = data.take(datasets.balanced(data.y, n, 0))
    return torch.from_numpy(data.x), torch.from_numpy(data.y)


def digits_cnn(scale: float = 1.0) -> nn.Module:
    model = models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        head.weight *= scale
        head.bias *= scale
    return model


@pytest.fixture
def few_digits() -> tuple[Tensor, Tensor]:
    x, y = digits()
    right = (digits_cnn()(x).argmax(1) == y).nonzero().squeeze(1)[:12]
    return x[right], y[right]


@pytest.fixture(scope="module")
def twins() -> tuple[Robustness, Robustness]:
    """Of digits-cnn, and of the same with its logits × 100, on all test samples."""
    x, y = digits()
    plain = fl.robustness(digits_cnn(), x, y, eps=0.1, queries=10)
    with pytest.warns(fl.CautionWarning, match="masked: attacks on the cross-entropy"):
        scaled = fl.robustness(digits_cnn(100), x, y, eps=0.1, queries=10)
    return plain, scaled


def test_logits_times_a_hundred_are_masked_and_the_worst_case_stays(twins: tuple[Robustness, Robustness]) -> None:
    plain, scaled = twins
    assert scaled.masked and scaled.pgd.value >= 0.95 and scaled.worst.value <= 0.52
    assert not plain.masked and plain.why_masked == "" and plain.cautions == ()
    assert abs(plain.worst.count - scaled.worst.count) <= 2 and plain.clean == scaled.clean
    assert plain.scale_free.count == pytest.approx(scaled.scale_free.count, abs=2)
    assert scaled.difference.low > 0.03 and plain.difference.high < 0.03
    assert scaled.zero_gradient.value > 0.05 and plain.zero_gradient.value == 0
    assert scaled.slope.value == pytest.approx(100 * plain.slope.value, rel=1e-3)
    assert scaled.radius.value == pytest.approx(plain.radius.value, rel=1e-3)
    assert "points" in scaled.why_masked and "exactly 0 at" in scaled.why_masked


def test_flatness_is_the_heads_in_closed_form(twins: tuple[Robustness, Robustness]) -> None:
    x, y = digits()
    model, features = digits_cnn(), []
    head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    head.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    model(x)
    kappa = Head(head)(features[0], y).relative_flatness
    assert twins[0].kappa is not None
    assert twins[0].kappa.value == pytest.approx(float(kappa.quantile(0.5)), rel=1e-4)
    assert twins[1].kappa is not None and twins[1].kappa.value < 1e-6 < twins[0].kappa.value


class Stairs(nn.Module):
    """A linear model of inputs rounded to steps of 0.1: its gradient is 0 almost everywhere."""

    def __init__(self, model: nn.Linear) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 10).round() / 10 + 0 * x)


@cautioned("masked")
def test_without_a_gradient_only_random_search_gets_on() -> None:
    model, x, y = linear(5)
    found = fl.robustness(Stairs(model).eval(), x, y, eps=0.3, bounds=WIDE, queries=60)
    assert found.masked and found.zero_gradient.value == 1 and "exactly 0 at 100.0 %" in found.why_masked
    assert found.worst.count <= found.square.count < found.pgd.count - 10
    assert found.kappa is not None  # the head's own inputs are what they are


class Breaking(nn.Module):
    """Right everywhere, and NaN where any input has moved far."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 3)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor([[1.0, 1], [0, 1], [1, 0]]))
            self.line.bias.copy_(torch.tensor([9.0, 0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) + (0.55 - x.amax(1, keepdim=True)).sqrt() * 0


@cautioned("few-classes", "few-samples")
def test_what_an_attack_makes_nan_counts_as_fooled() -> None:
    x, y = torch.full((8, 2), 0.5), torch.zeros(8, dtype=torch.long)
    with pytest.warns(fl.CautionWarning, match="not-a-number: .* NaN for 8 of 8 samples"):
        found = fl.robustness(Breaking().eval(), x, y, eps=0.2, queries=10)
    assert (found.clean.count, found.worst.count, found.square.count) == (8, 0, 0)
    assert found.loss_gap.mean.n < 8 and found.to_dict()["loss_gap"]["mean"]["low"] is None


@cautioned("few-samples")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_batches_change_nothing_and_the_model_stays(norm: str) -> None:
    (x, y), model = digits(60), digits_cnn()
    before, slopes = sha256(model), [p.requires_grad for p in model.parameters()]
    eps = {"linf": 0.1, "l2": 0.6}[norm]
    how: dict[str, Any] = {"eps": eps, "norm": norm, "queries": 10}
    told: list[Any] = []
    one = fl.robustness(model, x, y, **how)
    other = fl.robustness(model, x, y, **how, batch_size=25, progress=told.append)
    assert sha256(model) == before and [p.requires_grad for p in model.parameters()] == slopes
    assert all(p.grad is None for p in model.parameters()) and not model.training
    for name in ("clean", "worst", *NAMED):
        assert abs(getattr(one, name).count - getattr(other, name).count) <= 1, name
    assert one.loss_gap.mean.value == pytest.approx(other.loss_gap.mean.value, rel=0.02)
    assert [p.done for p in told] == sorted(p.done for p in told) and told[-1].done <= told[-1].total
    assert told[-1].done > 0.8 * told[-1].total and told[0].what == "pgd"


def test_names_and_plain_data() -> None:
    with pytest.warns(fl.CautionWarning, match="few-samples: 20 samples"):
        x, y = digits(20)
        found = fl.robustness("flatlens:digits-cnn", x, y, eps="8/255", queries=2)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(plain["worst"]) == set(plain["zero_gradient"]) == {"value", "low", "high", "n"}
    assert set(plain["loss_gap"]) == {"mean", "median", "attack"} and plain["eps"] == pytest.approx(8 / 255)
    assert plain["worst"]["n"] == 20 and plain["cautions"][0]["code"] == "few-samples"


@cautioned("few-samples")
def test_where_nothing_is_right_nothing_is_left(few_digits: tuple[Tensor, Tensor]) -> None:
    x, y = few_digits
    found = fl.robustness(digits_cnn(), x, (y + 1) % 10, eps=0.1, queries=2, batch_size=5)
    assert all(getattr(found, name).count == 0 for name in ("clean", "worst", *NAMED)) and not found.masked
    assert found.loss_gap.mean.n == 12  # of PGD, which all samples are given to


class Softmaxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = digits_cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).softmax(1)


CAUTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "probabilities": ({"model": Softmaxed().eval()}, "probabilities: the model's outputs"),
    "wide-eps": ({"eps": 0.6}, "wide-eps: eps = 0.6 in linf is more than half of the width"),
    "few-samples": ({}, "few-samples: 20 samples"),
    "out-of-bounds": ({"bounds": (0.2, 1.0)}, "out-of-bounds: 20 of 20 inputs"),
}


@cautioned("few-samples", "masked")
@pytest.mark.parametrize("code", CAUTIONS)
def test_cautions(code: str) -> None:
    given, said = CAUTIONS[code]
    (x, y), how = digits(20), {"model": digits_cnn(), "eps": 0.05} | given
    with pytest.warns(fl.CautionWarning, match=said):
        fl.robustness(how.pop("model"), x, y, queries=2, **how)


# --- training tells the same -----------------------------------------------------------------------------------------

RECIPE = TrainSpec("flatlens:digits", epochs=1, limit=100, eps=0.05)


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judging, "ROBUST_SAMPLES", 30)


def test_a_record_of_before_is_completed_and_its_weights_stay(few: None, tmp_path: Path) -> None:
    first = recipes.obtain("flatlens:mlp", RECIPE)
    (weights,), (beside,) = (tuple((tmp_path / "cache").glob(f"*.{kind}")) for kind in ("safetensors", "json"))
    whole, content, time = json.loads(beside.read_text()), weights.read_bytes(), weights.stat().st_mtime_ns
    assert set(whole["kappa"]) == {"before", "after"} and whole["kappa"]["before"] != whole["kappa"]["after"]
    assert whole["worst_accuracy"] == whole["robustness"]["worst"] and whole["worst_accuracy"]["n"] == 30
    assert whole["robust_accuracy"] == whole["robustness"]["pgd"]["value"] >= whole["worst_accuracy"]["value"]
    assert whole["masked"] is whole["robustness"]["masked"] and whole["loss_gap"] == whole["robustness"]["loss_gap"]
    new = ("worst_accuracy", "loss_gap", "masked", "kappa", "robustness", "sha256_of_this")
    beside.write_text(json.dumps({key: value for key, value in whole.items() if key not in new}))
    second = recipes.obtain("flatlens:mlp", RECIPE)
    assert (second.sha256, second.recipe_sha256) == (first.sha256, first.recipe_sha256)
    assert weights.read_bytes() == content and weights.stat().st_mtime_ns == time
    again = json.loads(beside.read_text())
    assert {**again, "sha256_of_this": None} == {**whole, "sha256_of_this": None}
    assert recipes.cost("flatlens:mlp", RECIPE) == recipes.NOTHING


def test_a_training_costs_what_judging_it_costs_too(few: None) -> None:
    steps = recipes.cost("flatlens:mlp", replace(RECIPE, epochs=1, limit=64)).passes
    # 64 samples trained on once and watched for a tenth of that, and 30 attacked: PGD-20, APGD of 40 steps, of 20 at
    # three targets, Square's queries at a third, and two passes of the clean input.
    each = 22 + 43 + 3 * 23 + 100 + 2
    assert steps == -(-(math.ceil(1.1 * 64) + 30 * each) // RECIPE.batch_size)


def test_data_that_come_in_one_part_are_said_to_be_those_trained_on(few: None, tmp_path: Path) -> None:
    x, y = digits(40)
    np.savez(tmp_path / "one.npz", x=x.numpy(), y=y.numpy())
    record = recipes.obtain("flatlens:mlp?width=4", TrainSpec(f"npz:{tmp_path / 'one.npz'}", epochs=1)).reached
    assert record is not None and record["test_samples"] == 40
    codes = [caution["code"] for caution in record["robustness"]["cautions"]]
    assert "training-data" in codes and codes.count("few-samples") == 1
