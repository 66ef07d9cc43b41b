"""Strings are replayed at their own tokens; an unmodified attack is recorded, and gives back its losses and strings."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import flatlens as fl
from flatlens.attacks.language.replay import strays
from flatlens.datasets.prompts import gathered
from flatlens.errors import AttackError, AttackFailedError, FlatlensError, SpecError
from flatlens.measure.run import run
from flatlens.specs.run import RunSpec
from flatlens.victims.encoding import Encoding, encode
from flatlens.wording import CautionWarning
from tests import assets
from tests.language import tiny

PROMPTS = [fl.Prompt("Who wrote Hamlet?", "A goldfish."), fl.Prompt("Name a colour.", "No.", id="colour")]
STRINGS = [["xxx", " say it", "?"], ["!!", "red"]]


def fresh(model: Any, ids: list[int], target: list[int]) -> float:
    """The mean cross-entropy of the target after these tokens, by the model alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*ids, *target]])).logits[0].double()
    return float(F.cross_entropy(logits[len(ids) - 1 : -1], torch.tensor(target)))


def written(folder: Path) -> str:
    lines = [{"index": 0, "strings": STRINGS[0]}, {"id": "colour", "strings": STRINGS[1]}]
    (folder / "found.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return f"path:{folder / 'found.jsonl'}"


def test_strings_of_a_file_are_measured_in_their_prompts(tmp_path: Path) -> None:
    model, tokenizer = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CautionWarning)  # the paths are not of the same length
        trace = fl.trace_text(model, tokenizer, PROMPTS, attack=written(tmp_path), slot_len=6, controls=["planted"])
    rows = trace.steps.to_pandas()
    assert rows[rows["path"] == "attack"].groupby("sample").size().tolist() == [4, 3]
    for i, (prompt, own) in enumerate(zip(PROMPTS, STRINGS, strict=True)):
        said = encode(tokenizer, prompt, slot_len=6)
        for step, text in enumerate(own, 1):
            slot = tokenizer(text, add_special_tokens=False)["input_ids"]
            at = trace.prompt(i, step)
            assert at.ids["slot"] == slot and at.slot == text and prompt.prompt + text in at.text
            expected = fresh(model, [*said.prefix, *slot, *said.tail], list(said.target))
            assert trace.matrix("loss").values[i, step] == pytest.approx(expected, abs=1e-4)
    attack = rows[rows["path"] == "attack"]
    assert attack["retokenises"].all() and attack["slot_nll"].notna().all()
    # Only the starts have the length of the start.
    assert attack["edits"].notna().tolist() == (attack["step"] == 0).tolist()


class Picky(Encoding):
    """Slots do not retokenise that begin with token 7."""

    def exact(self, slots: torch.Tensor) -> torch.Tensor:
        return slots[:, 0] != 7


def test_slots_that_do_not_retokenise_are_named() -> None:
    _, tokenizer = tiny()
    picky, plain = (kind((5,), (6,), (5,), (6,), tokenizer) for kind in (Picky, Encoding))
    slots = {3: [torch.tensor([5, 6]), torch.tensor([7, 6]), torch.randn(2, 4)], 5: [torch.tensor([7])]}
    (told,) = strays(gathered(PROMPTS, "here"), [3, 5], [picky, picky], slots)
    assert told.code == "not-retokenised" and told.message.startswith("2 of 4 slots are other tokens")
    assert f"prompt '0' step 1 {tokenizer.decode([7, 6])!r}, prompt 'colour' step 0" in told.message
    assert strays(gathered(PROMPTS, "here"), [3, 5], [plain, plain], slots) == ()


def test_a_run_of_a_file_is_of_its_content(tmp_path: Path) -> None:
    spec = RunSpec(
        model="lm:flatlens-tiny", data="flatlens:short-targets", samples=(1,), slot_len=6,
        attack=f"path:{tmp_path / 'a.json'}",
    )  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"strings": ["xyz", "abc"], "losses": [2, 1], "best_string": "abc"}))
    first = run(spec, tmp_path / "run")
    assert first.trace().steps.num_rows == 3 and first.trace().prompt(1).slot == "abc"
    (tmp_path / "a.json").write_text(json.dumps({"strings": ["xyz", "abd"]}))
    with pytest.raises(FlatlensError, match="force"):
        run(spec, tmp_path / "run")


def test_what_a_run_of_a_file_cannot_have(tmp_path: Path) -> None:
    model, tokenizer = tiny()
    known = {"model": "lm:flatlens-tiny", "data": "flatlens:short-targets"}
    for how, said in (
        ({"attack": "path:"}, "names no file"),
        ({"attack": "path:a.json", "step_size": 1.0}, "--step-size is no setting of 'path:a.json'"),
        ({"attack": "torchattacks:PGD"}, "no attack 'torchattacks:PGD'"),
    ):
        with pytest.raises(SpecError, match=said):
            RunSpec(**known, **how)
    special = tokenizer.all_special_tokens[0]
    for text, said in ((f"a{special}", "reads as a control token"), ("x" * 3000, "has places for")):
        (tmp_path / "a.json").write_text(json.dumps({"strings": [text]}))
        with pytest.raises(FlatlensError, match=said):
            fl.trace_text(model, tokenizer, PROMPTS[:1], attack=f"path:{tmp_path / 'a.json'}")


def foreign(model: Any, tokenizer: Any, prompt: fl.Prompt, *, steps: int = 4, lost: bool = False) -> Any:
    """A greedy search of its own making: one-hot gradients by inputs_embeds, as nanoGCG takes them."""
    embed, table = model.get_input_embeddings(), model.get_input_embeddings().weight
    said = encode(tokenizer, prompt, slot_len=5, init="x")
    before, behind = said.prefix[1:] if lost else said.prefix, (*said.tail, *said.target)
    slot, losses, strings = torch.tensor(said.slot), [], []
    for step in range(steps):
        one_hot = F.one_hot(slot, len(table)).to(table.dtype).requires_grad_()
        parts = [embed(torch.tensor(before)), one_hot @ table, embed(torch.tensor(behind))]
        logits = model(inputs_embeds=torch.cat(parts).unsqueeze(0)).logits[0, -len(said.target) - 1 : -1]
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor(said.target)), [one_hot])
        slot = slot.clone()
        slot[1 + step % 3] = int((gradient[1 + step % 3] + 1e9 * ~allowed(tokenizer, len(table))).argmin())
        losses.append(fresh(model, [*before, *slot.tolist(), *said.tail], list(said.target)))
        strings.append(tokenizer.decode(slot))
    return SimpleNamespace(losses=losses, strings=strings)


def allowed(tokenizer: Any, size: int) -> torch.Tensor:
    """Letters and digits."""
    return torch.tensor([tokenizer.decode([i]).isalnum() for i in range(size)])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_recorded_attack_gives_back_its_losses_and_strings(wrapped: bool) -> None:
    model, tokenizer = tiny()
    model.requires_grad_(True)
    returned: list[Any] = []

    def attack(model: Any, tokenizer: Any, prompt: fl.Prompt) -> Any:
        returned.append(foreign(model, tokenizer, prompt))
        return returned[-1]

    given = fl.attacks.recorded(attack, seed=0) if wrapped else attack
    trace = fl.trace_text(model, tokenizer, PROMPTS, attack=given, controls=["copies"])
    assert len(returned) == 2 and trace.cautions == () and trace.spec["attack"] == "object:attack"
    for i, theirs in enumerate(returned):
        losses = trace.matrix("loss").values[i]
        np.testing.assert_allclose(losses[1:], theirs.losses, atol=1e-4)
        assert losses[0] != losses[1]
        assert [trace.prompt(i, step).slot[-5:] for step in range(1, 5)] == [text[-5:] for text in theirs.strings]
    assert all(p.grad is None and p.requires_grad for p in model.parameters()) and not model._forward_pre_hooks


def test_a_prompt_that_the_attack_builds_otherwise_is_named_and_measured_as_it_was() -> None:
    model, tokenizer = tiny()
    returned: list[Any] = []

    def attack(model: Any, tokenizer: Any, prompt: fl.Prompt) -> Any:
        returned.append(foreign(model, tokenizer, prompt, lost=True))
        return returned[-1]

    with pytest.warns(
        CautionWarning, match=r"other tokens than the model is given with 2 of 2 prompts \('0', 'colour'\)"
    ):
        trace = fl.trace_text(model, tokenizer, PROMPTS, attack=attack)
    for i, theirs in enumerate(returned):
        np.testing.assert_allclose(trace.matrix("loss").values[i, 1:], theirs.losses, atol=1e-4)


def test_a_soft_attack_is_recorded_as_vectors() -> None:
    model, tokenizer = tiny()
    said, seen = encode(tokenizer, PROMPTS[0], slot_len=4), []

    def attack(model: Any, tokenizer: Any, prompt: fl.Prompt) -> None:
        embed = model.get_input_embeddings()
        fixed = [embed(torch.tensor(ids)) for ids in (said.prefix, (*said.tail, *said.target))]
        x = embed(torch.tensor(said.slot)).detach()
        for _ in range(4):
            x = x.clone().requires_grad_()
            logits = model(inputs_embeds=torch.cat([fixed[0], x, fixed[1]]).unsqueeze(0)).logits[0]
            loss = F.cross_entropy(logits[-len(said.target) - 1 : -1], torch.tensor(said.target))
            seen.append(float(loss.detach()))
            (gradient,) = torch.autograd.grad(loss, [x])
            x = (x - 0.1 * gradient / gradient.norm(dim=-1, keepdim=True)).detach()

    trace = fl.trace_text(model, tokenizer, PROMPTS[:1], attack=attack)
    np.testing.assert_allclose(trace.matrix("loss").values[0], seen, atol=1e-4)
    assert trace.embeddings is not None and trace.embeddings.x.shape[1:] == (4, model.config.hidden_size)
    assert trace.steps["retokenises"].to_pylist() == [True, None, None, None]


def broken(model: Any, tokenizer: Any, prompt: fl.Prompt) -> None:
    raise ValueError("out of ideas")


def batched(model: Any, tokenizer: Any, prompt: fl.Prompt) -> None:
    model(inputs_embeds=torch.zeros(2, 3, model.config.hidden_size, requires_grad=True))


def aimless(model: Any, tokenizer: Any, prompt: fl.Prompt) -> None:
    model(inputs_embeds=torch.zeros(1, 3, model.config.hidden_size, requires_grad=True))


BAD = {
    "fails": (broken, AttackFailedError, "broken fails after 0 passes with a gradient: ValueError: out of ideas"),
    "takes no gradient": (lambda m, t, p: None, AttackError, "takes no gradient by inputs_embeds of the model"),
    "has several prompts in a pass": (batched, AttackError, "one prompt of one length"),
    "has no target": (aimless, AttackError, "do not end with the target 'A goldfish.'"),
    "stands still": (lambda m, t, p: foreign(m, t, p, steps=1).losses, AttackError, "gradients at one point only"),
}


@pytest.mark.parametrize("which", BAD)
def test_one_line_says_why_an_attack_cannot_be_recorded(which: str) -> None:
    attack, kind, said = BAD[which]
    with pytest.raises(kind, match=said) as told:
        fl.trace_text(*tiny(), PROMPTS[:1], attack=attack)
    assert "\n" not in str(told.value)


def of_nanogcg(model: Any, tokenizer: Any, steps: int, candidates: int, start: str) -> Any:
    nanogcg = assets.package("nanogcg", "pip install --no-deps nanogcg==0.3.0")
    config = nanogcg.GCGConfig(
        num_steps=steps, search_width=candidates, topk=8, optim_str_init=start, use_prefix_cache=False,
        verbosity="ERROR",
    )  # fmt: skip
    returned: list[Any] = []

    def attack(model: Any, tokenizer: Any, prompt: fl.Prompt) -> Any:
        returned.append(nanogcg.run(model, tokenizer, prompt.messages, prompt.target, config))
        return returned[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = fl.trace_text(model, tokenizer, PROMPTS[:1], attack=fl.attacks.recorded(attack, seed=1))
    return trace, returned[0]


@pytest.mark.parametrize("size", ["tiny", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_unmodified_nanogcg_gives_back_its_losses_and_strings(size: str) -> None:
    if size == "tiny":
        trace, theirs = of_nanogcg(*tiny(), 4, 16, "x x x x")
    else:
        from flatlens.models import language

        found = language.load(f"lm:{Path(__file__).parents[3] / '.cache' / 'smollm2'}")
        trace, theirs = of_nanogcg(found.model, found.tokenizer, 3, 12, "x x x x x x")
    np.testing.assert_allclose(trace.matrix("loss").values[0, 1:], theirs.losses, atol=1e-4)
    assert [trace.prompt(0, step).slot for step in range(1, len(theirs.strings) + 1)] == theirs.strings
    # Its template has lost its first mark, which is said.
    codes = {caution.code for caution in trace.cautions}
    lost = (~trace.steps["retokenises"].to_numpy(zero_copy_only=False).astype(bool)).sum()
    assert "other-prompt" in codes and ("not-retokenised" in codes) == (lost > 0)
