"""Why samples withstand: nets that have each cause by construction, and digits-cnn with its logits × s."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.errors import FlatlensError
from flatlens.models.loaders import sha256
from flatlens.trials.causes import AFTER, CAUSES, CLASSES, SAME, classes
from flatlens.trials.scaling import scaled
from tests.expected import cautioned

WIDE = (-50.0, 50.0)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight))
        made.bias.copy_(torch.tensor(bias))
    return made.eval()


class Trap(nn.Module):
    """Class 0 leads by a curve of the first coordinate: a hollow at −0.4 that it never loses in; beyond 0.5 it loses.

    From 0 the slope leads into the hollow, for every loss and in every precision.
    """

    def __init__(self) -> None:
        super().__init__()
        self.line = linear([[1.0], [0.0], [0.0]], [0.0, 0.0, -9.0])

    def forward(self, x: Tensor) -> Tensor:
        t = x[:, :1]
        return self.line(torch.minimum(1 + (t + 0.4).abs(), 12 * (0.5 - t)))


class Stairs(nn.Module):
    """Rounds its inputs: no loss has a gradient, and a small search finds the way."""

    def __init__(self) -> None:
        super().__init__()
        self.line = linear([[1.0], [-1.0], [0.0]], [0.0, 0.0, -9.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.line((x * 10).round() / 10 + 0 * x)


# Class 1 is 100 behind and cannot be reached; class 2 is 110 behind, underflows in float32, and the second coordinate
# alone wins it. Only float64 sees that coordinate: the margin and DLR follow class 1 as the runner-up, too.
UNSEEN = linear([[0.0, 0.0], [10.0, 0.0], [0.0, 400.0]], [110.0, 10.0, 0.0])
# Logits of hundreds: no gradient of the cross-entropy in either precision, and a boundary within reach.
STEEP = linear([[2e4, 0.0], [-2e4, 0.0], [0.0, 1.0]], [0.0, 0.0, 0.0])

CASES: dict[str, tuple[nn.Module, list[float], float, str]] = {
    "wrong": (linear([[1.0], [-1.0]], [0.0, 0.0]), [-1.0], 0.1, "wrong"),
    "fooled": (linear([[1.0], [-1.0], [0.0]], [0.0, 0.0, -9.0]), [0.1], 0.5, "fooled"),
    "underflow": (STEEP, [0.3, 0.0], 0.5, "underflow"),
    "stairs": (Stairs().eval(), [0.22], 0.5, "underflow"),
    "saturation": (UNSEEN, [0.0, 0.0], 0.5, "saturation"),
    "weak search": (Trap().eval(), [0.0], 0.9, "weak search"),
    "none found": (linear([[1.0], [-1.0], [0.0]], [0.0, 0.0, -9.0]), [0.9], 0.5, "none found"),
}


@cautioned("few-classes")
@pytest.mark.parametrize("kind", CASES)
def test_each_cause_by_construction(kind: str) -> None:
    model, point, eps, cause = CASES[kind]
    x = torch.tensor([point] * 3)
    found = fl.autopsy(model, x, torch.zeros(3, dtype=torch.long), eps=eps, bounds=WIDE, steps=10)
    assert found.samples["class"].to_pylist() == [cause] * 3
    assert getattr(found, cause.replace(" ", "_")).count == 3
    if cause in CAUSES:
        assert found.kept.count == found.causes[cause].count == 3
    if cause == "underflow":
        assert found.found_otherwise.count == 3
        assert found.without_any_gradient.count == (3 if kind == "stairs" else 0)
    if kind == "saturation":
        assert found.left["ce_float64"].count == 0 and found.left["margin"].count == 3
        assert not any(found.samples["zero_gradient_float32"].to_pylist())


def test_classes_are_exclusive_exhaustive_and_in_order_for_every_outcome() -> None:
    """All 2^10 outcomes: the first condition that holds decides, whatever the others are."""
    names = [f"kept_{name}" for name in (*SAME, *AFTER)]
    rows = np.array(list(itertools.product((0.0, 1.0), repeat=len(names) + 2)))
    columns = {"right": rows[:, 0] == 1, "gradient_float32": rows[:, 1]} | {
        name: rows[:, 2 + i] for i, name in enumerate(names)
    }
    found = classes(columns)
    assert len(rows) == 1024 and set(found) == set(CLASSES)

    def by_hand(right: bool, gradient: float, kept: dict[str, float]) -> str:
        if not right:
            return "wrong"
        if kept["ce"] == 0:
            return "fooled"
        if gradient == 0:
            return "underflow"
        if not all(kept[name] for name in ("ce_float64", "margin", "dlr")):
            return "saturation"
        return "none found" if all(kept[name] for name in AFTER) else "weak search"

    for row, name in zip(rows, found, strict=True):
        assert by_hand(row[0] == 1, row[1], dict(zip((*SAME, *AFTER), row[2:], strict=True))) == name


def digits(n: int | None = None) -> tuple[nn.Module, Tensor, Tensor]:
    data = datasets.load("flatlens:digits")
    if n is not None:
        data = data.take(datasets.balanced(data.y, n, 0))
    model = models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model
    return model, torch.from_numpy(data.x), torch.from_numpy(data.y)


# s -> how many of 443 right samples PGD leaves in float32, and in float64
LEFT: dict[float, tuple[int, int]] = {1: (0, 0), 10: (261, 0), 100: (439, 366)}


@pytest.mark.parametrize("s", LEFT)
def test_scaled_weights_are_robust_exactly_where_there_is_no_gradient(s: float) -> None:
    model, x, y = digits()
    known = sha256(model)
    found = fl.autopsy(scaled(model, s), x, y, eps=0.3, steps=10)
    assert sha256(model) == known
    assert (found.right.count, found.n) == (443, 450)
    for name, left in zip(("float32", "float64"), LEFT[s], strict=True):
        one = found.precisions[name]
        assert one == (left, left, left, 0, 443), name
        zero, kept = found.samples[f"zero_gradient_{name}"], found.samples["kept_ce" + "_float64" * (name == "float64")]
        right = found.samples["right"].to_pylist()
        assert [z and r for z, r in zip(zero.to_pylist(), right, strict=True)] == [bool(k) for k in kept.to_pylist()]
    assert found.underflow.count == LEFT[s][0] and found.found_otherwise.count == LEFT[s][0]
    # What the scale of the logits does not change finds all of them, at every s.
    assert found.left["margin"].count == found.left["dlr"].count == 0 == found.worst.count


def test_all_classes_sum_to_all_samples_and_batches_change_nothing() -> None:
    model, x, y = digits(60)
    told: list[Any] = []
    how: dict[str, Any] = {"eps": 0.1, "steps": 5}
    one = fl.autopsy(scaled(model, 8.0), x, y, **how)
    other = fl.autopsy(scaled(model, 8.0), x, y, **how, batch_size=25, progress=told.append)
    counts = {name: getattr(one, name.replace(" ", "_")).count for name in CLASSES}
    assert sum(counts.values()) == 60 == one.n and one.kept.count == sum(counts[name] for name in CAUSES)
    assert all(counts[name] > 0 for name in ("fooled", "underflow", "none found")), counts
    assert one.samples["class"].to_pylist() == other.samples["class"].to_pylist()
    assert told[-1].done <= told[-1].total and [p.done for p in told] == sorted(p.done for p in told)
    for name in CLASSES:
        assert pc.sum(pc.equal(one.samples["class"], name)).as_py() == counts[name]
    # A longer search is tried where nothing before it has turned the sample, and is null elsewhere.
    for row in one.samples.to_pylist():
        before = [row[f"kept_{name}"] for name in SAME]
        assert (before == [None] * 4) == (not row["right"])
        for name in AFTER:
            assert (row[f"kept_{name}"] is not None) == (row["right"] and all(before)), row
            before.append(row[f"kept_{name}"])


def test_what_is_written_is_what_was_found(tmp_path: Path) -> None:
    model, x, y = digits(20)
    found = fl.autopsy(model, x, y, eps=0.2, steps=3)
    place = found.save(tmp_path / "new" / "autopsy")
    assert sorted(file.name for file in place.iterdir()) == ["autopsy.json", "autopsy.parquet"]
    assert pq.read_table(place / "autopsy.parquet").equals(found.samples)
    told = json.loads((place / "autopsy.json").read_text())
    assert {key: told[key] for key in found.to_dict()} == json.loads(json.dumps(found.to_dict(), allow_nan=False))
    with pytest.raises(FlatlensError, match=r"holds autopsy.json already; name another folder"):
        found.save(place)
    found.save(place, force=True)
    (tmp_path / "file").touch()
    with pytest.raises(FlatlensError, match="is a file; name a folder"):
        found.save(tmp_path / "file")
    assert list(found.to_pandas()["class"]) == found.samples["class"].to_pylist()


class Narrow(nn.Module):
    """Computes in float32 whatever it is given, and then says so, or fails in float64."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.line, self.fails = nn.Linear(4, 3), fails

    def forward(self, x: Tensor) -> Tensor:
        weight = self.line.weight if self.fails else self.line.weight.float()
        return nn.functional.linear(x.float(), weight)


@pytest.mark.parametrize("fails", [True, False])
def test_a_model_without_float64_is_said_to_have_none(fails: bool) -> None:
    said = "the attack in float64 was left out: the model " + ("fails" if fails else "returns float32")
    with pytest.warns(fl.CautionWarning) as warned:
        found = fl.autopsy(Narrow(fails).eval(), torch.rand(6, 4), torch.zeros(6, dtype=torch.long), eps=0.1, steps=2)
    assert any(f"no-float64: {said}" in str(one.message) for one in warned), [str(one.message) for one in warned]
    assert "ce_float64" not in found.attacks and set(found.precisions) == {"float32"}
    assert found.samples["zero_gradient_float64"].null_count == 6


def test_two_classes_have_no_dlr_and_none_right_leave_nothing() -> None:
    model = linear([[1.0], [-1.0]], [0.0, 0.0])
    found = fl.autopsy(model, torch.full((4, 1), -1.0), torch.zeros(4, dtype=torch.long), eps=0.1, bounds=WIDE)
    assert "dlr" not in found.attacks and found.wrong.count == 4 and found.kept.count == 0
    assert found.to_dict()["causes"]["underflow"]["value"] is None


MISUSED: dict[str, tuple[dict[str, Any], str]] = {
    "eps": ({"eps": -1}, "eps=-1.*needs a number above 0"),
    "norm": ({"norm": "l1", "eps": 1.0}, "l1"),
    "l2 without eps": ({"norm": "l2"}, "eps= must be given for l2"),
    "steps": ({"steps": 0}, "steps=0: needs a whole number of at least 1"),
    "batch size": ({"batch_size": 0}, "batch_size"),
    "labels": ({"y": torch.tensor([11, 0, 0, 0])}, "label 11 of sample 0 is out of range"),
    "mode": ({"model": nn.Linear(64, 10).train()}, "train mode"),
}


@pytest.mark.parametrize("kind", MISUSED)
def test_bad_input_ends_in_one_line(kind: str) -> None:
    given, said = MISUSED[kind]
    model, x, y = digits(4)
    x = x[:4].flatten(1) if "model" in given else x[:4]
    call: Callable[..., Any] = fl.autopsy
    with pytest.raises(FlatlensError, match=said) as caught:
        call(**{"model": model, "x": x, "y": y[:4]} | given)
    assert "\n" not in str(caught.value)
