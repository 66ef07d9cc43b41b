"""Each warning: a case in which it fires, with its figure, and one in which it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from torch import nn

import flatlens as fl
from flatlens.records import cautions
from flatlens.records.schema import LAYERS, STEPS
from flatlens.records.trajectory import Trace
from tests.expected import cautioned

N, T = 4, 5


def trace(spec: dict[str, Any] | None = None, **columns: Any) -> Trace:
    """Four samples, six steps: a calm valley, with these columns ``[n, T+1]`` put in."""
    flipped = np.arange(T + 1) >= 2
    kappa = np.array([2.0, 5, 20, 9, 5, 1.5])
    found: dict[str, Any] = {
        "path": "attack", "kind": "iterate", "restart": 0, "layer": "head", "method": "closed-form", "exact": True,
        "status": "ok", "label": 0, "prediction": flipped.astype(int), "flipped": flipped,
        "loss": np.linspace(0.1, 3, T + 1),
        "confidence": 0.9, "margin": np.linspace(3, -3, T + 1), "linf": np.linspace(0, 0.3, T + 1), "l2": 1.0,
        "input_grad_norm": 1.0, "relative_flatness": kappa, "trace": kappa, "trace_se": 0.0, "confirmed": True,
        "sample": np.arange(N)[:, None], "step": np.arange(T + 1)[None, :], **columns,
    }  # fmt: skip
    flat = {name: np.broadcast_to(np.asarray(value), (N, T + 1)).ravel() for name, value in found.items()}

    def table(schema: pa.Schema) -> pa.Table:
        rows = N * (T + 1)
        return pa.table(
            [pa.array(flat[f.name].tolist(), f.type) if f.name in flat else pa.nulls(rows, f.type) for f in schema],
            schema=schema,
        )

    return Trace(table(STEPS), table(LAYERS), {"eps": 0.3, "norm": "linf", **(spec or {})})


def codes(found: Trace) -> dict[str, str]:
    return {c.code: c.message for c in cautions.of_trace(found)}


def row(values: list[float], default: list[float] | float) -> np.ndarray:
    """The first sample has these values, the others the default."""
    return np.vstack(
        [np.asarray(values, dtype=float), np.broadcast_to(np.asarray(default, dtype=float), (N - 1, T + 1))]
    )


def test_a_calm_trace_has_none() -> None:
    assert codes(trace()) == {}


UNFLIPPED = {"flipped": False, "prediction": 0}


@pytest.mark.parametrize(
    ("code", "change", "figure"),
    [
        ("not-finite-loss", {"loss": row([1, np.nan, 1, 1, 1, 1], 1.0)}, "the loss of 1 samples is not finite"),
        (
            "not-finite",
            {"status": np.array([["ok"] * 6] * 3 + [["ok", "ok", *["not finite"] * 4]])},
            "'head' is not finite for 1 samples, first at step 2",
        ),
        ("unconfirmed", {"confirmed": np.array([[True]] * 3 + [[False]])}, "predicts otherwise for 6 of"),
        (
            "zero-gradient",
            {"input_grad_norm": row([1, 0, 0, 1, 1, 1], 1.0)},
            "of 1 of 4 samples is exactly 0 at some step (first at step 1)",
        ),
        (
            "silent-success",
            {"flipped": row([0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]).astype(bool)},
            "1 of 4 samples were flipped in the middle",
        ),
        ("not-converged", UNFLIPPED, "the loss of 4 of 4 unflipped samples was still rising"),
        (
            "too-large",
            {"linf": row([0, 0.1, 0.2, 0.3, 0.3, 0.31], 0.3)},
            "1 perturbations are larger than eps = 0.3 in linf, the largest 0.31",
        ),
        ("flat-because-confident", {"confidence": 0.9999}, "4 of 4 valleys end at a confidence above 0.999"),
        ("wide-error", {"trace_se": 1.0}, "'head' has a standard error above 10 % in 83 % of its rows"),
    ],
)
def test_fires_with_its_figure(code: str, change: dict[str, Any], figure: str) -> None:
    found = codes(trace(**change))
    assert code in found and figure in found[code], found
    assert "\n" not in found[code]


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("not-converged", {**UNFLIPPED, "loss": np.array([0.1, 0.5, 1, 1, 1, 1.001])}),
        ("too-large", {"linf": 0.3 * (1 + 1e-7)}),
        ("silent-success", UNFLIPPED),
        ("wide-error", {"trace_se": 0.05}),
        ("flat-because-confident", {"confidence": 0.9999, "relative_flatness": np.array([2, 5, 20, 20, 20, 19.0])}),
    ],
)
def test_does_not_fire_just_short_of_it(code: str, change: dict[str, Any]) -> None:
    assert code not in codes(trace(**change))


def linear(softmax: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), *([nn.Softmax(1)] if softmax else [])).eval()


@cautioned("low-accuracy", "probabilities", "zero-gradient")
def test_probabilities_instead_of_logits() -> None:
    x, y = torch.rand(5, 3), torch.tensor([0, 1, 2, 3, 0])
    # With a softmax behind it the Linear is no head any more; a Linear that gives probabilities is one.
    uniform = linear()
    nn.init.zeros_(uniform[0].weight)
    nn.init.constant_(uniform[0].bias, 0.25)
    assert "probabilities" in [c.code for c in fl.trace(uniform, x, y).cautions]
    assert "probabilities" not in [c.code for c in fl.trace(linear(), x, y).cautions]
    with pytest.raises(fl.FlatlensError, match="no Linear layer's output equals the logits"):
        fl.trace(linear(softmax=True), x, y)


@cautioned("low-accuracy", "too-large", "unnormalised")
def test_bounds_of_raw_bytes() -> None:
    x, y = 255 * torch.rand(5, 3), torch.tensor([0, 1, 2, 3, 0])
    attack = fl.attacks.PGD(eps=0.3, steps=2)
    found = {c.code: c.message for c in fl.trace(linear(), x, y, attack=attack, bounds=(0, 255)).cautions}
    assert "the bounds [0, 255] look like those of unnormalised inputs: eps = 0.3 is 0.12 %" in found["unnormalised"]
    for bounds in ((0, 1), (-2.2, 2.7)):
        trace = fl.trace(linear(), x / 255, y, attack=attack, bounds=bounds)
        assert "unnormalised" not in [c.code for c in trace.cautions]


def test_a_path_that_stops_early() -> None:
    whole = trace()
    rows = pc.or_(pc.not_equal(whole.steps["sample"], 0), pc.less(whole.steps["step"], 4))
    ragged = replace(whole, steps=whole.steps.filter(rows), layers=whole.layers.filter(rows))
    assert codes(ragged)["stopped-early"].startswith("attack stopped early for 1 of 4 samples (paths of 3 to 5 steps)")
    assert "stopped-early" not in codes(whole)


@pytest.mark.parametrize(
    ("code", "figure"),
    [
        ("blank", "1 of 4 returned"),
        ("one-by-one", "1 of 4 samples"),
        ("differs-alone", "1 of 4"),
        ("no-gradient", "1 of 4"),
        ("end-not-told", "1 of 4 samples"),
    ],
)
def test_what_was_noted_while_recording(code: str, figure: str) -> None:
    (found,) = cautions.recorded({code: 1, "other": 2}, 4)
    assert found.code == code and figure in found.message
    assert cautions.recorded({code: 0}, 4) == ()


def test_layers_left_out() -> None:
    (found,) = cautions.not_probed({"conv": "it pads by itself"})
    assert found.message == "1 of the layers asked for are left out ('conv'): it pads by itself"
    assert not list(cautions.not_probed({}))


@cautioned("low-accuracy", "out-of-bounds", "too-large")
def test_inputs_outside_their_bounds() -> None:
    x, y = torch.rand(5, 3), torch.tensor([0, 1, 2, 3, 0])
    x[1, 2] = 1.5
    found = {c.code: c.message for c in fl.trace(linear(), x, y).cautions}
    assert "1 of 5 inputs lie outside the bounds [0, 1]" in found["out-of-bounds"]
    assert "out-of-bounds" not in [c.code for c in fl.trace(linear(), x, y, bounds=(0, 2)).cautions]


# ---- all runs of an attack, and finite rows alone


def restarted(*runs: dict[str, Any], spec: dict[str, Any] | None = None) -> Trace:
    """Several runs of one attack, each with columns of its own."""
    made = [trace(spec, restart=i, **columns) for i, columns in enumerate(runs)]
    steps, layers = (pa.concat_tables([getattr(one, name) for one in made]) for name in ("steps", "layers"))
    return replace(made[0], steps=steps, layers=layers)


STILL = {"flipped": False, "prediction": 0, "loss": 1.0}


@pytest.mark.parametrize(
    ("code", "runs", "figure"),
    [
        ("zero-gradient", ({}, {"input_grad_norm": row([1, 1, 0, 1, 1, 1], 1.0)}), "of 1 of 4 samples is exactly 0"),
        ("silent-success", (STILL, {**STILL, "flipped": row([0, 0, 1, 1, 0, 0], 0.0).astype(bool)}), "1 of 4 samples"),
        ("not-converged", (STILL, {**STILL, "loss": np.linspace(0.1, 3, T + 1)}), "4 of 4 unflipped samples"),
        ("too-large", ({}, {"linf": row([0, 0.1, 0.2, 0.3, 0.3, 0.4], 0.3), "loss": 0.0}), "the largest 0.4"),
        ("flat-because-confident", (STILL, {"confidence": 0.9999}), "4 of 4 valleys"),
        ("wide-error", ({}, {"trace_se": 100.0}), "in 50 % of its rows"),
        ("not-finite-loss", ({}, {"loss": row([1, 1, np.nan, 1, 1, 1], 1.0)}), "the loss of 1 samples"),
    ],
)
def test_it_is_looked_for_in_every_run(code: str, runs: tuple[dict[str, Any], ...], figure: str) -> None:
    found = codes(restarted(*runs))
    assert code in found and figure in found[code], found
    assert code not in codes(restarted(runs[0], runs[0]))


@pytest.mark.parametrize(
    ("code", "runs"),
    [
        ("silent-success", (STILL, {**STILL, "flipped": row([0, 0, 1, 1, 0, 0], 0.0).astype(bool)}, {})),
        ("not-converged", ({**STILL, "loss": np.linspace(0.1, 3, T + 1)}, {})),
    ],
)
def test_what_another_run_has_found_is_no_loss(code: str, runs: tuple[dict[str, Any], ...]) -> None:
    assert code not in codes(restarted(*runs))


def test_a_wide_error_is_a_share_of_the_finite_rows() -> None:
    se = np.vstack([np.full((1, T + 1), 100.0), np.full((1, T + 1), 0.0), np.full((2, T + 1), np.nan)])
    assert "in 50 % of its rows" in codes(trace(trace_se=se))["wide-error"]
    assert "wide-error" not in codes(trace(trace_se=np.full((N, T + 1), np.nan)))
