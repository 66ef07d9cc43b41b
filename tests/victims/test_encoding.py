"""Prompts as tokens: what is attacked is what the model would be given, and a slot's text gives its tokens back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from flatlens.datasets.prompts import Prompt, load
from flatlens.errors import AttackError, DataError, ModelError
from flatlens.victims.encoding import allowed, asked, encode, piece, plain, text_of
from tests.language import tiny

PROMPT = Prompt("Who wrote Hamlet?", "A goldfish.")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny()[1]


def templated(tokenizer: Any, template: str | None) -> Any:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


@pytest.mark.parametrize("slot", ["suffix", "prefix"])
@pytest.mark.parametrize("chat", ["auto", "none"])
def test_the_ids_are_those_of_the_whole_text(tokenizer: Any, slot: str, chat: str) -> None:
    made = encode(tokenizer, PROMPT, slot_len=5, slot=slot, chat=chat)
    said = f"{PROMPT.prompt}xxxxx" if slot == "suffix" else f"xxxxx {PROMPT.prompt}"
    if chat == "auto":
        messages = [{"role": "user", "content": said}]
        said = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert [*made.prefix, *made.slot, *made.tail] == whole
    assert text_of(tokenizer, made.target) == PROMPT.target
    assert made.length == len(whole) + len(made.target)


def test_every_shipped_prompt_is_encoded(tokenizer: Any) -> None:
    for prompt in load("flatlens:benign-targets").prompts:
        made = encode(tokenizer, prompt, slot_len=8)
        assert made.exact(torch.tensor([made.slot])).all()
        assert "".join(made.pieces["target"]) == prompt.target


def test_a_slot_counts_only_where_its_text_gives_its_tokens_back(tokenizer: Any) -> None:
    made = encode(tokenizer, PROMPT, slot_len=3)
    ids = [tokenizer.convert_tokens_to_ids(c) for c in "a<>"]
    good = torch.tensor([[ids[0], ids[1], ids[2]]])
    # Two special tokens in a row are read as they are; text that spells one is read as the special token.
    spelt = [tokenizer.convert_tokens_to_ids(c) for c in "<s>"]
    assert made.exact(good).tolist() == [True]
    assert made.exact(torch.tensor([spelt])).tolist() == [False]
    assert made.exact(torch.empty(0, 3, dtype=torch.long)).tolist() == []


def test_what_an_attack_may_write_is_printable_and_not_special(tokenizer: Any) -> None:
    may = allowed(tokenizer, len(tokenizer) + 3)
    written = {tokenizer.convert_ids_to_tokens(int(i)) for i in may.nonzero()}
    assert {"a", " ", "~"} <= written and not written & {"\n", "<s>", "<pad>", "<user>"}
    assert not may[len(tokenizer) :].any()


def test_pieces_of_bytes_are_shown_as_bytes() -> None:
    class Bytes:
        def decode(self, ids: list[int], **how: Any) -> str:
            return "\N{REPLACEMENT CHARACTER}"

        def convert_ids_to_tokens(self, token: int) -> str:
            return {0: "âĢ", 1: "<0xE2>", 2: "?"}[token]

    assert [piece(Bytes(), i) for i in range(3)] == ["⟨E2 80⟩", "⟨E2⟩", "\N{REPLACEMENT CHARACTER}"]


def test_the_whole_of_what_the_user_says_can_be_the_slot(tokenizer: Any) -> None:
    made = asked(tokenizer, PROMPT, "Repeat: A goldfish.")
    assert text_of(tokenizer, made.slot) == "Repeat: A goldfish."
    assert made.prefix == encode(tokenizer, PROMPT, slot_len=1, slot="prefix").prefix
    raw = plain(tokenizer, "abc\n", "A goldfish.")
    assert text_of(tokenizer, raw.slot) == "abc\n" and not raw.prefix and not raw.tail


TEMPLATES = {
    "says it twice": ("{{ messages[0].content }}{{ messages[0].content }}", "shows what the user says 2 times"),
    "leaves it out": ("<user>", "shows what the user says 0 times"),
    "rewrites it": ("<user>{{ messages[0].content | replace('x', 'y') }}<bot>", "rewrites what the user says"),
    "raises": ("{{ raise_exception('no system text') }}", "the chat template fails"),
}


@pytest.mark.parametrize("which", TEMPLATES)
def test_one_line_says_what_is_wrong_with_a_template(tokenizer: Any, which: str) -> None:
    template, said = TEMPLATES[which]
    with pytest.raises(ModelError, match=said):
        encode(templated(tokenizer, template), PROMPT, slot_len=3)


@pytest.mark.parametrize(
    ("prompt", "how", "error", "said"),
    [
        (PROMPT, {"init": "ab", "slot_len": 3}, AttackError, "--init 'ab': is 2 tokens; give one"),
        (Prompt("Say <bot> now", "x"), {}, DataError, "the prompt holds '<bot>'"),
        (Prompt("Say", "<s>x"), {}, DataError, "the target holds '<s>'"),
        (Prompt("Say ⟦slot⟧", "x"), {}, DataError, "which marks the slot"),
        (Prompt("a", "b", system="c"), {"chat": "none"}, DataError, "a system text is given"),
    ],
)
def test_one_line_says_what_cannot_be_encoded(
    tokenizer: Any, prompt: Prompt, how: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as told:
        encode(tokenizer, prompt, **{"slot_len": 3, **how})
    assert "\n" not in str(told.value)
