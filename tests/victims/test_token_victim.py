"""The victim of language models: its passes are the model's own, its prefix may be cached."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlens.datasets.prompts import Prompt
from flatlens.errors import ModelError
from flatlens.victims.encoding import Encoding, encode
from flatlens.victims.language_parts import parts_of
from flatlens.victims.tokens import TokenVictim
from tests.language import random_llama, tiny

PROMPT = Prompt("Who wrote Hamlet?", "A goldfish.")


def encoding() -> Encoding:
    return encode(tiny()[1], PROMPT, slot_len=6)


MODELS = {
    "trained, float32": lambda: tiny()[0],
    "trained, float64": lambda: tiny(torch.float64)[0],
    "random, tied": lambda: random_llama(tied=True),
    "random, untied": lambda: random_llama(),
}


@pytest.mark.parametrize("which", MODELS)
def test_a_pass_is_the_models_own(which: str) -> None:
    model = MODELS[which]()
    victim = TokenVictim(model, encoding())
    assert victim.cached
    here = victim(victim.start())
    ids = torch.tensor(
        [[*victim.encoding.prefix, *victim.encoding.slot, *victim.encoding.tail, *victim.encoding.target]]
    )
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, -len(victim.encoding.target) - 1 : -1]
    tolerance = 1e-10 if victim.dtype == torch.float64 else 1e-4
    assert (here.logits - logits).abs().max() <= tolerance * logits.abs().max()
    assert here.logits.shape == (1, len(victim.encoding.target), victim.classes)
    own = F.cross_entropy(logits[0], victim.target[0])
    torch.testing.assert_close(here.loss[0], own, rtol=tolerance, atol=tolerance)
    assert torch.equal(victim(here.x).logits, here.logits)


@pytest.mark.parametrize("which", MODELS)
def test_a_cached_prefix_gives_the_same_features(which: str) -> None:
    model = MODELS[which]()
    kept, plain = (TokenVictim(model, encoding(), cached=cached) for cached in (None, False))
    assert kept.cached and not plain.cached
    slot = torch.randint(5, victim_rows(model), (4, 6))
    tolerance = 1e-10 if kept.dtype == torch.float64 else 1e-4
    a, b = (victim(slot) for victim in (kept, plain))
    assert (a.logits - b.logits).abs().max() <= tolerance * b.logits.abs().max()
    ga, gb = (here.grad(lambda at: at.loss) for here in (a, b))
    assert (ga - gb).abs().max() <= 10 * tolerance * gb.abs().max()


def victim_rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


@pytest.mark.parametrize("which", MODELS)
def test_the_gradient_by_tokens_is_that_of_an_explicit_choice(which: str) -> None:
    model = MODELS[which]()
    victim = TokenVictim(model, encoding())
    here = victim(victim.start())
    mine = victim.by_token(here.grad(lambda at: at.loss))
    choice = F.one_hot(victim.start(), victim.classes).to(victim.dtype).requires_grad_()
    weight = model.get_input_embeddings().weight.detach()
    ids = torch.tensor([[*victim.encoding.prefix]])
    tail = torch.tensor([[*victim.encoding.tail, *victim.encoding.target]])
    embed = model.get_input_embeddings()
    whole = torch.cat([embed(ids), choice @ weight, embed(tail)], 1)
    logits = model(inputs_embeds=whole).logits[0, -len(victim.encoding.target) - 1 : -1]
    (by_hand,) = torch.autograd.grad(F.cross_entropy(logits, victim.target[0]), choice)
    assert (mine - by_hand).abs().max() <= 1e-5 * by_hand.abs().max()


@pytest.mark.parametrize("cached", [True, False])
def test_how_unlikely_the_slot_is_to_the_model_itself(cached: bool) -> None:
    model = tiny(torch.float64)[0]
    victim = TokenVictim(model, encoding(), cached=cached)
    ids = torch.tensor([[*victim.encoding.prefix, *victim.encoding.slot]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(victim.encoding.prefix) - 1 : -1]
    theirs = F.cross_entropy(logits, victim.start()[0])
    assert victim.slot_nll(victim(victim.start())) == pytest.approx(float(theirs), rel=1e-6)


def test_many_slots_are_evaluated_as_single_passes_are_and_in_small_pieces() -> None:
    victim = TokenVictim(tiny(torch.float64)[0], encoding(), chunk=3)
    slots = torch.randint(5, victim.classes, (8, 6))
    single = torch.cat([victim(row.unsqueeze(0), final=True).loss for row in slots])
    torch.testing.assert_close(victim.losses(slots), single.float(), rtol=1e-6, atol=1e-6)


def test_the_nearest_token_of_a_row_is_its_own() -> None:
    victim = TokenVictim(tiny()[0], encoding())
    ids, away = victim.nearest(victim.embed(victim.start()) + 1e-4)
    assert torch.equal(ids, victim.start()) and (away < 0.05).all()


def test_the_users_model_is_as_it_was_after_passes_and_errors() -> None:
    model, _ = tiny()
    before = {name: (p.requires_grad, p._version, p.grad) for name, p in model.named_parameters()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    victim = TokenVictim(model, encoding())
    with pytest.raises(KeyboardInterrupt), victim.held():
        assert not any(p.requires_grad for p in model.parameters())
        victim(victim.start()).grad(lambda at: at.loss)
        victim.generate(victim.start(), 3)
        raise KeyboardInterrupt
    assert {name: (p.requires_grad, p._version, p.grad) for name, p in model.named_parameters()} == before
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert not model.training


def test_what_is_generated_is_what_is_said_from_embeddings() -> None:
    victim = TokenVictim(tiny(torch.float64)[0], encoding())
    count = len(victim.encoding.target)
    assert victim.generate(victim.start(), count) == victim.says(victim.embed(victim.start()))[0].tolist()


class Capped(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 5 * torch.tanh(super().forward(x) / 5)


class Shifted(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) + 1.0


class Scaled(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * 8.0


def capped(model: Any) -> None:
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = plain(*args, **kwargs)
        out.logits = 5 * torch.tanh(out.logits / 5)
        return out

    model.forward = forward


def with_embedding(kind: type[nn.Embedding]) -> Any:
    def changed(model: Any) -> None:
        old = model.get_input_embeddings()
        new = kind(*old.weight.shape).to(old.weight.dtype)
        new.weight = nn.Parameter(old.weight.detach().clone())
        model.set_input_embeddings(new)

    return changed


def shrunk(model: Any) -> None:
    model.config.max_position_embeddings = 20


def says_it_caps(model: Any) -> None:
    model.config.final_logit_softcapping = 30.0  # logits that are small at the start show nothing of it


REFUSED = {
    "soft-capped logits by its word": (says_it_caps, "final_logit_softcapping = 30"),
    "soft-capped logits": (capped, "scales or caps them"),
    "an embedding that shifts": (with_embedding(Shifted), "does more than look up rows"),
    "no room": (shrunk, "the model has places for 20"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_one_line_says_why_a_model_is_refused(which: str) -> None:
    change, said = REFUSED[which]
    model = random_llama()
    change(model)
    with pytest.raises(ModelError, match=said) as told:
        TokenVictim(model, encoding())
    assert "\n" not in str(told.value)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model = random_llama()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ModelError, match="no Linear layer"):
        parts_of(model)


def test_scaled_embeddings_are_taken_as_they_are() -> None:
    model = random_llama()
    plain = parts_of(model).scale
    with_embedding(Scaled)(model)
    victim = TokenVictim(model, encoding())
    assert plain == pytest.approx(1.0) and victim.parts.scale == pytest.approx(8.0)
    ids, away = victim.nearest(victim.embed(victim.start()))
    assert torch.equal(ids, victim.start()) and away.max() < 1e-9
