"""The trial of detectors: figures recomputed from its table alone, the papers' figures of digits-cnn, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.errors import FlatlensError
from flatlens.models.loaders import sha256
from flatlens.trials import scores
from flatlens.trials.detected import Detection
from tests.expected import cautioned


def digits(n: int | None = None, name: str = "digits-cnn") -> tuple[nn.Module, Tensor, Tensor]:
    data = datasets.load("flatlens:digits")
    if n is not None:
        data = data.take(datasets.balanced(data.y, n, 0))
    model = models.load(f"flatlens:{name}", shape=(1, 8, 8), classes=10).model
    return model, torch.from_numpy(data.x), torch.from_numpy(data.y)


@pytest.fixture(scope="module")
def found() -> Detection:
    model, x, y = digits()
    known = sha256(model)
    one = fl.detect(model, x, y, eps=0.3)
    assert sha256(model) == known
    return one


# Figures of the prototype, which had attacks, folds and noise of its own.
SEEN = {"pgd": 0.444, "apgd_ce": 0.445, "pgd_margin": 0.482, "mi_fgsm": 0.690, "fgsm": 0.840, "apgd_dlr": 0.953,
        "ddn": 0.998, "kappa_matched": 0.621}  # fmt: skip


@pytest.mark.parametrize("attack", SEEN)
def test_the_areas_are_those_that_were_seen_before(attack: str, found: Detection) -> None:
    one = found.found["kappa"][attack].auc
    assert one.value == pytest.approx(SEEN[attack], abs=0.02) and one.low < SEEN[attack] < one.high + 0.01
    assert (found.right.count, found.n) == (443, 450) and found.success[attack].value > 0.95


def test_kappa_separates_nothing_from_pgd_and_no_better_than_entropy(found: Detection) -> None:
    pgd = found.found["kappa"]["pgd"]
    assert pgd.accuracy.high < 0.62 and pgd.tpr_5.high < 0.1
    for attack in found.attacks:
        assert abs(found.found["kappa"][attack].auc.value - found.found["entropy"][attack].auc.value) < 0.02
    # The side turns: what is set on PGD is worse than chance where the attack stops at the boundary.
    assert found.matrix["kappa"]["pgd"]["ddn"].high < 0.4 < 0.9 < found.matrix["kappa"]["ddn"]["ddn"].low


def test_the_adaptive_attacks_come_near_and_the_one_by_gradient_nearer(found: Detection) -> None:
    near, nearer = (found.decades[name].value for name in ("kappa_matched", "kappa_descent"))
    assert nearer <= near < 0.05
    rows = found.to_pandas()
    for name in ("kappa_matched", "kappa_descent"):
        one = rows[(rows.attack == name) & rows.success]
        off = (np.log10(one.kappa.clip(lower=1e-300)) - np.log10(one.wanted_kappa.clip(lower=1e-300))).abs()
        np.testing.assert_allclose(off, one.decades, atol=2e-3)
        assert set(one.wanted_kappa) <= set(rows[rows.attack == "clean"].kappa) and (one.linf <= 0.3 + 1e-6).all()
    a, b = (rows[rows.attack == name].set_index("sample").decades for name in ("kappa_matched", "kappa_descent"))
    assert (b <= a + 1e-9).all()


def by_hand(rows: Any, attack: str, other: str, detector: str) -> tuple[float, float]:
    """AUC of one attack, and the accuracy of a stump that is set on it and tried on another: NumPy alone."""

    def of(name: str) -> tuple[Any, Any, Any]:
        clean = rows[rows.attack == "clean"].set_index("sample")
        turned = rows[(rows.attack == name) & rows.success].set_index("sample")
        one = clean.loc[turned.index]
        assert (one.fold == turned.fold).all()
        return one[detector].to_numpy(), turned[detector].to_numpy(), turned.fold.to_numpy()

    clean, hostile, fold = of(attack)
    area = roc_auc_score(np.repeat([0, 1], len(clean)), np.concatenate([clean, hostile]))
    c, h, f = of(other)
    right = []
    for number in range(5):
        a, b = clean[fold != number], hostile[fold != number]
        every = np.unique(np.concatenate([a, b]))
        good = np.array([(a <= t).sum() + (b > t).sum() for t in every])
        best = every[np.argmax(np.abs(good - len(a)))]
        side = 1 if good[np.argmax(np.abs(good - len(a)))] >= len(a) else -1
        for values, hostile_ones in ((c[f == number], False), (h[f == number], True)):
            called = (values > best) if side > 0 else (values <= best)
            right += (called == hostile_ones).tolist()
    return area, float(np.mean(right))


@pytest.mark.parametrize("detector", list(scores.DETECTORS))
@pytest.mark.parametrize(("attack", "other"), [("pgd", "pgd"), ("fgsm", "ddn"), ("ddn", "kappa_descent")])
def test_every_figure_follows_from_the_file(
    detector: str, attack: str, other: str, found: Detection, tmp_path: Path
) -> None:
    place = found.save(tmp_path / "d")
    rows, told = pq.read_table(place / "detect.parquet").to_pandas(), json.loads((place / "detect.json").read_text())
    area, accuracy = by_hand(rows, attack, other, detector)
    assert told["found"][detector][attack]["auc"]["value"] == pytest.approx(area, abs=1e-9)
    assert told["matrix"][detector][attack][other]["value"] == pytest.approx(accuracy, abs=1e-9)
    assert told["matrix"][detector][attack][attack] == told["found"][detector][attack]["accuracy"]
    assert told["success"][attack]["n"] == 443 and told["found"][detector][attack]["n"] == found.success[attack].count


def test_folds_never_part_a_sample_and_no_sample_is_in_two(found: Detection) -> None:
    rows = found.to_pandas()
    assert (rows.groupby("sample").fold.nunique() == 1).all() and set(rows.fold) == set(range(5))
    sizes = rows[rows.attack == "clean"].fold.value_counts()
    assert sizes.max() - sizes.min() <= 1 and rows.groupby("attack").sample(1).shape[0] == len(found.attacks) + 1


def test_scores_are_those_of_curvature_and_of_the_logits(found: Detection) -> None:
    model, x, y = digits()
    rows = found.to_pandas()
    clean = rows[rows.attack == "clean"]
    at = torch.tensor(clean["sample"].tolist())
    known: Any = fl.curvature(model, x[at], y[at])
    logits = model(x[at]).detach().double()
    np.testing.assert_allclose(clean.kappa, known.relative_flatness, rtol=1e-3)
    np.testing.assert_allclose(clean.feature_norm, known.feature_norm_sq.sqrt(), rtol=1e-5)
    first, second = logits.topk(2).values.unbind(1)
    np.testing.assert_allclose(clean.gap, first - second, atol=1e-4)
    np.testing.assert_allclose(clean.entropy, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-5)


@pytest.mark.parametrize("gap", [0.0, 1.0, 30.0, 100.0, 600.0])
def test_entropy_is_right_to_its_last_digits_however_certain(gap: float) -> None:
    logits = torch.tensor([[gap, 0.0, -3.0]], dtype=torch.float64)
    with mpmath.workdps(400):
        e = [mpmath.exp(v) for v in (mpmath.mpf(gap), mpmath.mpf(0), mpmath.mpf(-3))]
        exact = -sum(v / sum(e) * mpmath.log(v / sum(e)) for v in e)
        assert float(scores.entropy(logits)[0]) == pytest.approx(float(exact), rel=1e-10)


@cautioned("few-samples")
def test_batches_and_progress() -> None:
    model, x, y = digits(30)
    told: list[Any] = []
    one, other = (fl.detect(model, x, y, eps=0.2, batch_size=size, progress=told.append) for size in (None, 7))
    for name in ("attack", "sample", "fold", "label"):
        assert one.samples[name] == other.samples[name]
    for attack in ("pgd", "ddn"):
        same = one.found["gap"][attack].auc.value
        assert other.found["gap"][attack].auc.value == pytest.approx(same, abs=0.02)
    assert all(p.done <= p.total for p in told) and told[-1].done == told[-1].total


class Bent(nn.Module):
    """Its logits are no Linear layer's output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.model(x).tanh() + self.model(x)


def test_without_a_head_in_closed_form_it_is_said_what_is_left() -> None:
    model, x, y = digits(30)
    with pytest.warns(fl.CautionWarning) as warned:
        found = fl.detect(Bent(model).eval(), x, y, eps=0.2)
    assert any("Left are the detectors entropy, gap" in str(one.message) for one in warned)
    assert set(found.detectors) == {"entropy", "gap"} and "kappa_matched" not in found.attacks
    assert found.samples["kappa"].null_count == len(found.samples) and found.found["gap"]["ddn"].auc.value < 0.1
    assert found.decades == {} and json.dumps(found.to_dict(), allow_nan=False)


@cautioned("few-samples")
def test_too_few_pairs_have_no_figure() -> None:
    model, x, y = digits(20, "digits-cnn-robust")
    found = fl.detect(model, x, y, eps=0.01)
    assert found.success["fgsm"].count < 10 and math.isnan(found.found["kappa"]["fgsm"].auc.value)
    assert found.found["kappa"]["fgsm"].n == found.success["fgsm"].count and "fgsm" not in found.matrix["kappa"]
    assert found.to_dict()["found"]["kappa"]["fgsm"]["auc"]["value"] is None


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "too few right": (lambda y: (y + 1) % 10, {}, "0 of 12 samples are right before any attack.*needs at least 10"),
    "eps": (lambda y: y, {"eps": 0}, "eps=0: needs a number above 0"),
    "norm": (lambda y: y, {"norm": "l1", "eps": 1.0}, "no norm 'l1'"),
    "label": (lambda y: y + 10, {}, "is out of range: the model has 10 classes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_ends_in_one_line(kind: str) -> None:
    changed, given, said = REFUSED[kind]
    model, x, y = digits(12)
    with pytest.raises(FlatlensError, match=said) as caught:
        fl.detect(model, x, changed(y), **given)
    assert "\n" not in str(caught.value)
