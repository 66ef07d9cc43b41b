"""Relaxed tokens: the projections against bisection, the weights stay weights, each step's text is what it says."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flatlens as fl
from flatlens.attacks.language.simplex import EVEN, NEAREST, Simplex, onto_simplex, rounded, sharpened
from flatlens.datasets.prompts import load
from flatlens.errors import AttackError
from flatlens.models import language
from flatlens.victims.encoding import encode, text_of
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch, Forward
from flatlens.victims.tokens import TokenVictim
from tests.language import tiny

PROMPT = fl.Prompt("Who wrote Hamlet?", "A goldfish.")


def bisected(row: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex: the threshold is found by halving, 200 times, in float64."""
    low, high = row.min() - 1.0, row.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(row - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(row - low, 0)


def of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_hot(size: int) -> Tensor:
    return F.one_hot(torch.tensor([3, 0]), size).double()


ROWS: dict[str, Tensor] = {
    "normal": torch.randn(4, 300, generator=of(0), dtype=torch.float64),
    "one entry": torch.tensor([[-7.0], [0.0], [3.0]], dtype=torch.float64),
    "equal entries": torch.full((2, 9), -5.0, dtype=torch.float64),
    "two equal tops": torch.tensor([[0.4, 0.9, 0.9, -2.0]], dtype=torch.float64),
    "on the simplex already": torch.softmax(torch.randn(3, 50, generator=of(1), dtype=torch.float64), 1),
    "one-hot": one_hot(20),
    "a step from one-hot": one_hot(5000) + 0.4 * torch.randn(2, 5000, generator=of(2), dtype=torch.float64) / 4,
    "far away": 1e3 * torch.randn(3, 40, generator=of(3), dtype=torch.float64),
    "all below 0": -1 - torch.rand(3, 40, generator=of(4), dtype=torch.float64),
    "tiny spread": 1e-9 * torch.randn(2, 1000, generator=of(5), dtype=torch.float64),
}


@pytest.mark.parametrize("kind", ROWS)
def test_the_projection_is_that_of_bisection(kind: str) -> None:
    found = onto_simplex(ROWS[kind])
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-12)
    np.testing.assert_allclose(found, np.stack([bisected(row) for row in ROWS[kind].numpy()]), atol=1e-12)


def test_in_float32_the_sum_holds_over_a_whole_vocabulary() -> None:
    found = onto_simplex(torch.rand(3, 49_152, generator=of(0)) / 100)
    assert found.dtype == torch.float32 and float((found.double().sum(-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("sharpen", [0.0, 0.1, 0.4, 0.9])
@pytest.mark.parametrize("kind", ROWS)
def test_sharpened_is_moved_away_from_the_middle_as_far_as_is_asked_for(kind: str, sharpen: float) -> None:
    before = onto_simplex(ROWS[kind])
    after = sharpened(before, sharpen)
    for row, got in zip(before.numpy(), after.numpy(), strict=True):
        there = row > 0
        middle = there / there.sum()
        least, distance = np.sqrt(sharpen * (1 - 1 / there.sum())), np.linalg.norm(row - middle)
        blurred = EVEN < distance < least
        wanted = bisected(middle + (row - middle) * least / distance) if blurred else row
        np.testing.assert_allclose(got, wanted, atol=1e-9)
        assert (got >= 0).all() and got.sum() == pytest.approx(1, abs=1e-12)
        # The index of Gini falls, or stays as it was.
        assert (got**2).sum() >= (row**2).sum() - 1e-12


@functools.cache
def victim() -> TokenVictim:
    model, tokenizer = tiny()
    return TokenVictim(model, encode(tokenizer, PROMPT, slot_len=6))


def batch() -> Batch:
    tokens = victim().start()
    return Batch(victim().embed(tokens), victim().target, torch.tensor([0]), tokens=tokens)


@functools.cache
def walked() -> list[Forward]:
    return list(Simplex(steps=8)(victim(), batch(), Noise(0)))  # type: ignore[arg-type]


def test_weights_are_weights_at_every_step_and_forbidden_tokens_have_none() -> None:
    relaxed = [here for here in walked() if here.kind == "iterate"]
    assert len(relaxed) == 9 and not victim().writable.all()
    for here in relaxed:
        assert here.weights is not None
        assert (here.weights >= 0).all() and float((here.weights.double().sum(-1) - 1).abs().max()) <= 1e-5
        assert (here.weights[..., ~victim().writable] == 0).all()
        mean = here.weights @ victim().model.get_input_embeddings().weight
        torch.testing.assert_close(here.x, mean, atol=1e-6, rtol=1e-5)
    assert int((relaxed[4].weights > 0).sum(-1).max()) > 1  # type: ignore[operator]


def test_the_loss_of_each_text_is_that_of_a_fresh_pass_of_it() -> None:
    texts = [here for here in walked() if here.kind == "discrete"]
    assert [here.kind for here in walked()] == ["iterate", "discrete"] * 9
    said, tokenizer = victim().encoding, victim().encoding.tokenizer
    for here in texts:
        assert here.tokens is not None and victim().writable[here.tokens].all()
        text = text_of(tokenizer, [*said.prefix, *here.tokens[0].tolist(), *said.tail])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = victim().model(input_ids=torch.tensor([[*ids, *said.target]])).logits[0]
        loss = F.cross_entropy(logits[len(ids) - 1 : -1], torch.tensor(said.target))
        assert float(here.loss.detach()) == pytest.approx(float(loss), abs=1e-4)


def test_the_relaxed_loss_falls() -> None:
    losses = [float(here.loss.detach()) for here in walked() if here.kind == "iterate"]
    assert min(losses) < losses[0] - 0.5


def test_the_step_is_along_the_gradient_by_the_weights() -> None:
    attack, weights = Simplex(step_size=0.3, sharpen=0.0), torch.softmax(torch.randn(1, 2, 7, generator=of(0)), -1)
    gradient, writable = torch.randn(1, 2, 7, generator=of(1)), torch.tensor([1, 1, 0, 1, 1, 1, 1]).bool()
    found = attack.after(weights, gradient, writable)[0].numpy()
    up = gradient[0][:, writable].numpy().astype(float)
    up -= up.mean(1, keepdims=True)
    moved = weights[0][:, writable].numpy() + 0.3 * up / np.abs(up).max(1, keepdims=True)
    np.testing.assert_allclose(found[:, writable.numpy()], [bisected(row) for row in moved], atol=1e-6)
    assert (found[:, 2] == 0).all()
    still = attack.after(F.one_hot(torch.tensor([[1, 4]]), 7).float(), torch.zeros(1, 2, 7), writable)
    assert (still.argmax(-1) == torch.tensor([[1, 4]])).all() and still.max() == 1


def stub(exact: Any, writable: Tensor, start: list[int]) -> Any:
    """What `rounded` asks of a victim: which slots' texts give them back."""
    check = lambda slots: torch.tensor([exact(row) for row in slots.tolist()])  # noqa: E731
    return SimpleNamespace(
        writable=writable, start=lambda: torch.tensor([start]), encoding=SimpleNamespace(exact=check)
    )


def test_the_heaviest_tokens_are_taken_where_they_retokenise() -> None:
    weights = torch.softmax(torch.randn(1, 4, 12, generator=of(0)), -1)
    writable = torch.ones(12, dtype=torch.bool)
    writable[int(weights[0, 0].argmax())] = False
    found = rounded(stub(lambda row: True, writable, [0] * 4), weights)
    assert found.tolist() == [weights[0].masked_fill(~writable, -1).argmax(-1).tolist()] and writable[found].all()


EXACT = {
    "never two that differ by one": lambda row: all(abs(a - b) != 1 for a, b in itertools.pairwise(row)),
    "an even sum": lambda row: sum(row) % 2 == 0,
    "the start alone": lambda row: row == [0] * 5,
}


@pytest.mark.parametrize("which", EXACT)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_rounded_always_retokenises(which: str, seed: int) -> None:
    weights = torch.softmax(3 * torch.randn(1, 5, 20, generator=of(seed)), -1)
    found = rounded(stub(EXACT[which], torch.ones(20, dtype=torch.bool), [0] * 5), weights)[0].tolist()
    assert EXACT[which](found)
    if which != "the start alone":
        near = weights[0].topk(NEAREST, 1).indices.tolist()
        assert sum(token in near[place] for place, token in enumerate(found)) >= 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"steps": 0}, "steps = 0: needs a whole number from 1 on"),
        ({"step_size": 0.0}, "step_size = 0.0: needs a number above 0"),
        ({"step_size": float("nan")}, "step_size = nan"),
        ({"sharpen": 1.0}, "sharpen = 1.0: needs a number from 0 to below 1"),
        ({"sharpen": -0.1}, "sharpen = -0.1"),
    ],
)
def test_what_it_cannot_be(how: dict[str, Any], said: str) -> None:
    with pytest.raises(AttackError, match=said):
        Simplex(**how)


def test_the_path_is_of_the_relaxed_slots_and_the_texts_stand_beside_it() -> None:
    model, tokenizer = tiny()
    trace = fl.trace_text(model, tokenizer, [PROMPT], attack=Simplex(steps=8), slot_len=6)
    rows = trace.steps.to_pandas()
    for kind in ("iterate", "discrete"):
        own = rows[rows["kind"] == kind]
        losses = [float(here.loss.detach()) for here in walked() if here.kind == kind]
        assert own["step"].tolist() == list(range(9))
        np.testing.assert_allclose(own["loss"], losses, rtol=1e-5)
        np.testing.assert_array_equal(trace.matrix("loss", kind=kind).values[0], own["loss"])
    relaxed, text = (rows[rows["kind"] == kind].reset_index() for kind in ("iterate", "discrete"))
    np.testing.assert_array_equal(trace.matrix("loss").values[0], relaxed["loss"])
    np.testing.assert_array_equal(text["relaxed_gap"], text["loss"] - relaxed["loss"])
    assert relaxed["relaxed_gap"].isna().all() and text["retokenises"].all()
    # What was found is the text of the last step, and success is confirmed there.
    assert trace.result("loss")[0] == text["loss"].iloc[-1] != relaxed["loss"].iloc[-1]
    assert rows["confirmed"].notna().tolist() == [False] * 17 + [True]
    assert trace.tokens is not None
    tokens = trace.tokens.to_pandas()
    last = tokens[(tokens["kind"] == "discrete") & (tokens["step"] == 8)].sort_values("slot")
    at = trace.prompt(0)
    assert at.ids["slot"] == last["token"].tolist() and not at.soft
    # A token of a text has changed where the text of the step before had another.
    texts = tokens[tokens["kind"] == "discrete"].pivot(index="step", columns="slot", values="token").to_numpy()
    changed = tokens[tokens["kind"] == "discrete"].pivot(index="step", columns="slot", values="changed").to_numpy()
    np.testing.assert_array_equal(changed[1:], texts[1:] != texts[:-1])
    assert not changed[0].any()
    judged = trace.valley()
    np.testing.assert_array_equal(judged.at_end, trace.matrix("relative_flatness", kind="iterate").values[:, -1])
    # The cosine of a gradient is with that of the step before, whatever stands between.
    assert relaxed["grad_cosine"][1:8].notna().all() and text["input_grad_norm"].isna().all()


def test_a_path_that_ends_early_ends_with_its_text() -> None:
    model, tokenizer = tiny()
    prompt = fl.Prompt("Name three colours.", "I")
    steps = fl.trace_text(
        model, tokenizer, [prompt], attack=Simplex(steps=15), slot_len=8, stop_after=1
    ).steps.to_pandas()
    flipped = steps[(steps["kind"] == "iterate")]["flipped"].tolist()
    assert len(flipped) < 16 and flipped[-2:] == [True, True]
    assert steps["kind"].tolist() == ["iterate", "discrete"] * len(flipped)


@pytest.mark.slow
def test_on_a_real_vocabulary_every_text_retokenises_from_the_tables_alone() -> None:
    found = language.load(f"lm:{Path(__file__).parents[3] / '.cache' / 'smollm2'}")
    prompts = load("flatlens:benign-targets").prompts[:1]
    trace = fl.trace_text(found.model, found.tokenizer, prompts, attack=Simplex(steps=10), slot_len=12)
    assert trace.tokens is not None and trace.prompts is not None
    tokens, one, tokenizer = trace.tokens.to_pandas(), trace.prompts[0]["ids"], found.tokenizer
    losses = trace.matrix("loss", kind="discrete").values[0]
    for step, rows in tokens[tokens["kind"] == "discrete"].groupby("step"):
        ids = [*one["prefix"], *rows.sort_values("slot")["token"], *one["tail"]]
        text = text_of(tokenizer, ids)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        with torch.no_grad():
            logits = found.model(input_ids=torch.tensor([[*ids, *one["target"]]])).logits[0]
        loss = F.cross_entropy(logits[len(ids) - 1 : -1], torch.tensor(one["target"]))
        assert losses[int(step)] == pytest.approx(float(loss), abs=1e-4)
    assert len(losses) == 11 and len(set(losses)) > 3 and trace.matrix("loss").values[0].min() < losses[0]
