"""A prompt as tokens: what stands before the slot, the slot that an attack changes, what follows it, and the target.

The tokens are those that the model would be given: the chat template is filled with the slot's text and the whole is
tokenised at once. A slot counts only where its text, put back into the whole, gives exactly its tokens again.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from flatlens.datasets.prompts import Prompt
from flatlens.errors import AttackError, DataError, FlatlensError, ModelError, one_line

Ids = tuple[int, ...]
STARTS = (" x", "x", "!")
"""What the slot is filled with at the start, unless another text is asked for."""
_MARK = "⟦slot⟧"


@dataclass(frozen=True)
class Encoding:
    """A prompt's tokens, in order ``prefix | slot | tail | target``; each a tuple of ids.

    Attributes:
        prefix: what stands before the slot and never changes.
        slot: the slot as it begins.
        tail: what stands between slot and target.
        target: what is to be predicted, T ≥ 1 tokens.
        tokenizer: that made them.
    """

    prefix: Ids
    slot: Ids
    tail: Ids
    target: Ids
    tokenizer: Any

    @property
    def sha256(self) -> str:
        """Of the tokens: what a run is of, whatever the file that they came from is called."""
        return hashlib.sha256(json.dumps([self.prefix, self.slot, self.tail, self.target]).encode()).hexdigest()

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prefix) + len(self.slot) + len(self.tail) + len(self.target)

    def exact(self, slots: Int[Tensor, "m s"]) -> Bool[Tensor, " m"]:
        """For which slots the whole prompt's text, tokenised again, gives exactly these tokens."""
        before, after = list(self.prefix), list(self.tail)
        wholes = [before + row + after for row in slots.tolist()]
        if not wholes:
            return torch.zeros(0, dtype=torch.bool)
        texts = [text_of(self.tokenizer, ids) for ids in wholes]
        again = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return torch.tensor([list(one) == ids for one, ids in zip(again, wholes, strict=True)])

    @cached_property
    def pieces(self) -> dict[str, list[str]]:
        """What each token looks like, for pages: they are drawn without a tokenizer."""
        parts = {"prefix": self.prefix, "slot": self.slot, "tail": self.tail, "target": self.target}
        return {name: [piece(self.tokenizer, i) for i in ids] for name, ids in parts.items()}


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens, the special ones included."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def piece(tokenizer: Any, token: int) -> str:
    """One token as a page shows it; bytes that are no character by themselves as ``⟨E2 96⟩``."""
    text = text_of(tokenizer, [token])
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    raw = str(tokenizer.convert_ids_to_tokens(token))
    if raw.startswith("<0x"):
        return f"⟨{raw[3:-1]}⟩"
    known = _bytes()
    found = bytes(known[c] for c in raw if c in known)
    return f"⟨{found.hex(' ').upper()}⟩" if len(found) == len(raw) > 1 else text


def _bytes() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes (as GPT-2's does)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def allowed(tokenizer: Any, rows: int) -> Bool[Tensor, " v"]:
    """Which of ``rows`` tokens an attack may write: printable text, not special, none beyond the tokenizer's."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    ok = torch.zeros(rows, dtype=torch.bool)
    ids = range(min(rows, len(tokenizer)))
    for i, text in zip(
        ids, tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False), strict=True
    ):
        ok[i] = i not in special and bool(text) and all(_plain(c) for c in text)
    return ok


def _plain(c: str) -> bool:
    return c != "\N{REPLACEMENT CHARACTER}" and unicodedata.category(c)[0] != "C" and c.isprintable()


def encode(
    tokenizer: Any,
    prompt: Prompt,
    *,
    slot_len: int,
    init: str | None = None,
    slot: str = "suffix",
    chat: str = "auto",
) -> Encoding:
    """A prompt's tokens with a slot of ``slot_len`` tokens.

    Args:
        tokenizer: of transformers.
        prompt: what is said, and the target.
        slot_len: S, tokens of the slot.
        init: the slot's text at the start: one token, which is repeated, or S of them; when left out, the first of
            ``" x"``, ``x`` and ``!`` that is one token.
        slot: ``suffix``, after the prompt, or ``prefix``, before it.
        chat: ``auto`` uses the tokenizer's chat template where it has one; ``none`` the plain text.

    Raises:
        AttackError: ``init`` is not one token or S, or its text does not give its tokens back.
        DataError: the prompt holds special tokens' text, or the target does not begin a token of its own.
        ModelError: the chat template fails, or rewrites what the user says.
    """
    _demand_plain(tokenizer, prompt)
    begin = _start(tokenizer, init, slot_len)
    text = text_of(tokenizer, begin)
    render = _renderer(tokenizer, prompt, chat)
    filled = (lambda what: f"{prompt.prompt}{what}") if slot == "suffix" else (lambda what: f"{what} {prompt.prompt}")
    before, after = _around(render, filled, text)
    ids = _ids(tokenizer, before + text + after)
    prefix = _ids(tokenizer, before)
    end = len(prefix) + slot_len
    if ids[: len(prefix)] != prefix or ids[len(prefix) : end] != begin:
        raise AttackError(
            f"--init {text!r}: the slot's text does not give its tokens back where it stands"
            f"{_nearest(tokenizer, before, after, slot_len)}"
        )
    made = Encoding(tuple(prefix), tuple(begin), tuple(ids[end:]), (), tokenizer)
    if not bool(made.exact(torch.tensor([begin]))[0]):
        raise ModelError("the tokenizer does not give its own tokens back: the whole prompt's text tokenises otherwise")
    return replace(made, target=_target(tokenizer, before + text + after, ids, prompt.target))


def plain(tokenizer: Any, text: str, target: str) -> Encoding:
    """Plain text before a target, without a template: the whole text is the slot.

    Raises:
        DataError: the target does not begin a token of its own.
    """
    ids = _ids(tokenizer, text)
    return Encoding((), tuple(ids), (), _target(tokenizer, text, ids, target), tokenizer)


def asked(tokenizer: Any, prompt: Prompt, said: str | None = None, *, chat: str = "auto") -> Encoding:
    """All that the user says as the slot: the prompt, or another text in its place.

    Raises:
        ModelError: the chat template fails, or rewrites what the user says.
    """
    _demand_plain(tokenizer, prompt)
    said = prompt.prompt if said is None else said
    render = _renderer(tokenizer, prompt, chat)
    before, after = _around(render, lambda what: what, said)
    whole, prefix = _ids(tokenizer, before + said + after), _ids(tokenizer, before)
    tail = len(_ids(tokenizer, after)) if after else 0
    # Where the tail merges with what is said, all that follows the prefix is the slot.
    kept = whole[: len(prefix)] == prefix and (not tail or whole[-tail:] == _ids(tokenizer, after))
    start, stop = (len(prefix), len(whole) - tail) if kept else (0, len(whole))
    target = _target(tokenizer, before + said + after, whole, prompt.target)
    return Encoding(tuple(whole[:start]), tuple(whole[start:stop]), tuple(whole[stop:]), target, tokenizer)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _start(tokenizer: Any, init: str | None, slot_len: int) -> list[int]:
    if init is None:
        init = next((text for text in STARTS if len(_ids(tokenizer, text)) == 1), STARTS[0])
    ids = _ids(tokenizer, init)
    if len(ids) == 1:
        return ids * slot_len
    if len(ids) != slot_len:
        raise AttackError(
            f"--init {init!r}: is {len(ids)} tokens; give one, which is repeated, or as many as --slot-len {slot_len}"
        )
    return ids


def _nearest(tokenizer: Any, before: str, after: str, slot_len: int) -> str:
    for tried in (" x", " !", "!", " the", "x", " a"):
        ids = _ids(tokenizer, tried)
        if len(ids) == 1:
            whole = _ids(tokenizer, before + text_of(tokenizer, ids * slot_len) + after)
            prefix = _ids(tokenizer, before)
            if whole[: len(prefix)] == prefix and whole[len(prefix) : len(prefix) + slot_len] == ids * slot_len:
                return f"; --init {tried!r} does"
    return "; try --init with a word that the tokenizer knows, a blank before it"


def _renderer(tokenizer: Any, prompt: Prompt, chat: str) -> Callable[[str], str]:
    """What the model is given when the user says something."""
    if chat == "none" or not getattr(tokenizer, "chat_template", None):
        if prompt.system is not None:
            raise DataError(
                "a system text is given, and there is no chat template that has a place for it; leave it out"
            )
        bos = tokenizer.bos_token if _begins(tokenizer) else ""
        return lambda said: f"{bos or ''}{said}"

    def render(said: str) -> str:
        messages = [*replace(prompt, prompt="x").messages[:-1], {"role": "user", "content": said}]
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except FlatlensError:
            raise
        except Exception as error:  # a template raises what its author chose
            system = " (does it know a system text? leave it out)" if prompt.system is not None else ""
            raise ModelError(
                f"the chat template fails{system}: {one_line(error)}; --chat none leaves it aside"
            ) from error

    return render


def _begins(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a first token before a plain text."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _around(render: Callable[[str], str], filled: Callable[[str], str], text: str) -> tuple[str, str]:
    marked = render(filled(_MARK))
    if marked.count(_MARK) != 1:
        raise ModelError(
            f"the chat template shows what the user says {marked.count(_MARK)} times, or rewrites it; --chat none "
            "leaves it aside"
        )
    before, _, after = marked.partition(_MARK)
    if render(filled(text)) != before + text + after:
        raise ModelError("the chat template rewrites what the user says, or changes from call to call; use --chat none")
    return before, after


def _target(tokenizer: Any, text: str, ids: list[int], target: str) -> Ids:
    """The target's tokens after the whole prompt; with a blank before it where only so its first token is its own."""
    for tried in (target, f" {target}"):
        whole = _ids(tokenizer, text + tried)
        if whole[: len(ids)] == ids and len(whole) > len(ids):
            return tuple(whole[len(ids) :])
    raise DataError(
        f"the target {target[:60]!r} merges with the text before it: tokenised together they differ from both apart; "
        "begin it with another word"
    )


def _demand_plain(tokenizer: Any, prompt: Prompt) -> None:
    if _MARK in prompt.prompt or _MARK in (prompt.system or ""):
        raise DataError(f"the prompt holds {_MARK!r}, which marks the slot; write it otherwise")
    special = [token for token in [*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()] if token.strip()]
    for key in ("prompt", "target", "system"):
        value = getattr(prompt, key) or ""
        for token in special:
            if token in value:
                raise DataError(
                    f"the {key} holds {token!r}, which the tokenizer reads as a control token; write it otherwise"
                )
