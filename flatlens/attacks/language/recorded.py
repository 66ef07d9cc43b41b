"""Anybody's attack on a language model, unmodified: recorded on the user's own model, then replayed and measured.

It runs once for each prompt, exactly as it would without flatlens. A forward pre-hook notes the embeddings of every
call that a gradient is taken on; they are its iterates. A row of them that is, bit for bit, a row of the embedding is
that token: so the tokens come back, and with them the prompt as the attack has built it, whatever it made of the
template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from flatlens.attacks.language.replay import SHOWN, Fitted, Replay, strays
from flatlens.attacks.recording import _seeded, unchanged
from flatlens.datasets.prompts import Prompt, Prompts
from flatlens.errors import AttackError, AttackFailedError, FlatlensError, one_line
from flatlens.models import guard
from flatlens.records.schema import Caution
from flatlens.specs.known_models import OBJECT
from flatlens.victims.encoding import Encoding, text_of
from flatlens.victims.language_parts import Parts, parts_of

Run = Callable[[Any, Any, Prompt], Any]

NO_TOKEN = -1
"""In place of a token: a vector that is none's."""


def recorded_text(attack: Run, *, seed: int | None = None) -> RecordedText:
    """An attack that is not flatlens' own, to be traced as it is.

    Args:
        attack: ``attack(model, tokenizer, prompt)``; what it returns may have ``strings``, its slots step by step.
        seed: run with this torch seed, and leave torch's own random state as it was.
    """
    return RecordedText(attack, f"{OBJECT}:{getattr(attack, '__name__', type(attack).__name__)}", seed)


@dataclass(frozen=True)
class RecordedText:
    """A foreign attack on language models; made by `recorded_text`."""

    run: Run
    name: str
    seed: int | None = None

    def on(
        self, model: Any, prompts: Prompts, places: Sequence[int], encodings: Sequence[Encoding], slot: str
    ) -> Fitted:
        """Run it on each of the prompts, and say what is replayed, at the prompts as the attack has built them.

        Raises:
            AttackError: it does not use this model, or its calls are not of one prompt with the target at its end.
        """
        parts, slots, built = parts_of(model), dict[int, list[Tensor]](), list[Encoding]()
        rows = _rows(parts)
        for name, prompt, place, encoding in zip(prompts.names, prompts.prompts, places, encodings, strict=True):
            tokenizer = encoding.tokenizer
            with _seeded(self.seed, torch.tensor([place])), unchanged(model), _listening(model) as calls:
                returned = self._run(model, tokenizer, prompt, calls)
            where = f"{self.name.removeprefix(f'{OBJECT}:')} on prompt '{name}'"
            x = _iterates(calls, where)
            path = _Path(x, _tokens(x, rows), tokenizer, _strings(returned), where)
            own = path.encoding(prompt, parts)
            built.append(own)
            slots[place] = path.slots(own)
        soft = any(slot.is_floating_point() for path in slots.values() for slot in path)
        told = (*_other(prompts, encodings, built), *strays(prompts, places, built, slots))
        return Fitted(Replay(self.name, slots, discrete=not soft), built, told)

    def _run(self, model: Any, tokenizer: Any, prompt: Prompt, calls: list[Tensor]) -> Any:
        try:
            return self.run(model, tokenizer, prompt)
        except (KeyboardInterrupt, FlatlensError):
            raise
        except BaseException as error:
            if guard.is_out_of_memory(error):
                raise
            raise AttackFailedError(
                f"{self.name.removeprefix(f'{OBJECT}:')} fails after {len(calls)} passes with a gradient: "
                f"{one_line(error, kind=True)}"
            ) from error


@dataclass
class _Path:
    """What was seen of one prompt: embeddings ``[k, L, d]``, their tokens ``[k, L]``, the strings it returned."""

    x: Tensor
    ids: Int[Tensor, "k l"]
    tokenizer: Any
    strings: list[str]
    where: str

    def encoding(self, prompt: Prompt, parts: Parts) -> Encoding:
        """The prompt as the attack has built it, its slot as it began; AttackError where that cannot be told."""
        length = self._target(prompt)
        begin, end = self._span(self.ids.shape[1] - length)
        start = self.ids[0].tolist()
        fixed = start[:begin] + start[end:]
        if NO_TOKEN in fixed:
            raise AttackError(f"{self.where} changes the embeddings of more than one place: there is no one slot")
        slot = start[begin:end]
        if NO_TOKEN in slot:  # a soft attack may begin at no text: distances are then from the nearest one
            rows = parts.scale * parts.weight.cpu().double()
            slot = [int(i) for i in torch.cdist(self.x[0, begin:end].double(), rows).argmin(1)]
        tail, target = start[end : len(start) - length], start[len(start) - length :]
        return Encoding(tuple(start[:begin]), tuple(slot), tuple(tail), tuple(target), self.tokenizer)

    def slots(self, own: Encoding) -> list[Tensor]:
        """The slot of each iterate, and of the last string that was returned, which none was taken of."""
        span = slice(len(own.prefix), len(own.prefix) + len(own.slot))
        tokens, points = self.ids[:, span], self.x[:, span]
        text = [NO_TOKEN not in row for row in tokens.tolist()]
        found = [row if known else point for row, point, known in zip(tokens, points, text, strict=True)]
        if all(text) and len(self.strings) == len(found):
            found.append(torch.tensor(self.tokenizer(self.strings[-1], add_special_tokens=False)["input_ids"]))
        return found

    def _target(self, prompt: Prompt) -> int:
        """How many tokens at the end are the target."""
        ids, wanted = self.ids[0].tolist(), prompt.target.strip()
        for length in range(1, len(ids)):
            if text_of(self.tokenizer, [i for i in ids[-length:] if i != NO_TOKEN]).strip() == wanted:
                return length
        raise AttackError(f"the passes of {self.where} do not end with the target {prompt.target[:40]!r}")

    def _span(self, end: int) -> tuple[int, int]:
        """Where the slot is: what differs between iterates, widened to what the strings say that it is."""
        changed = (self.x != self.x[0]).any(-1).any(0) | (self.ids == NO_TOKEN).any(0)
        there = changed.nonzero().flatten().tolist()
        if self.strings and NO_TOKEN not in self.ids:
            size = len(self.tokenizer(self.strings[0], add_special_tokens=False)["input_ids"])
            # The string that a step returned is the slot of the iterate after it.
            pairs = list(zip(self.ids[1:].tolist(), self.strings, strict=False)) or [(None, "")]
            low, high = (max(0, there[-1] - size + 1), there[0]) if there else (0, end - size)
            for begin in range(low, high + 1):
                if begin + size <= end and all(
                    row is not None and text_of(self.tokenizer, row[begin : begin + size]) == text
                    for row, text in pairs
                ):
                    return begin, begin + size
        if not there:
            raise AttackError(
                f"{self.where} takes gradients at one point only: no slot changes; let it take more steps"
            )
        if there[-1] >= end:
            raise AttackError(f"{self.where} changes the target itself; the slot has to stand before it")
        return there[0], there[-1] + 1


def _strings(returned: Any) -> list[str]:
    found = getattr(returned, "strings", None)
    return list(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else []


def _rows(parts: Parts) -> dict[bytes, int]:
    """Embedding row -> its token; of equal rows the first."""
    with torch.no_grad():
        table = parts.embed(torch.arange(len(parts.weight), device=parts.weight.device))
    found: dict[bytes, int] = {}
    for i, row in enumerate(_bytes(table)):
        found.setdefault(row, i)
    return found


def _tokens(x: Tensor, rows: dict[bytes, int]) -> Int[Tensor, "k l"]:
    return torch.tensor([[rows.get(row, NO_TOKEN) for row in _bytes(one)] for one in x])


def _bytes(x: Tensor) -> Iterator[bytes]:
    # Plus 0: a one-hot row times the weight has +0 where the weight has −0.
    plain = (x.detach().cpu().double() + 0.0).numpy()
    return (row.tobytes() for row in plain)


def _iterates(calls: list[Tensor], where: str) -> Tensor:
    """The embeddings of the calls, ``[k, L, d]``."""
    if not calls:
        raise AttackError(
            f"{where} takes no gradient by inputs_embeds of the model that is traced; give it the model that it is "
            "called with, or replay its strings: path:FILE"
        )
    shapes = {tuple(one.shape) for one in calls}
    if len(shapes) > 1 or len(calls[0]) > 1:
        shown = ", ".join(map(str, sorted(shapes)[:3]))
        raise AttackError(f"{where} calls the model on embeddings {shown}; one prompt of one length is needed at each")
    return torch.cat(calls)


def _other(prompts: Prompts, meant: Sequence[Encoding], built: Sequence[Encoding]) -> tuple[Caution, ...]:
    """A caution that names the prompts which the attack has built otherwise than the chat template says."""
    parts = ("prefix", "tail", "target")
    other = [
        name
        for name, one, own in zip(prompts.names, meant, built, strict=True)
        if any(getattr(one, part) != getattr(own, part) for part in parts)
    ]
    if not other:
        return ()
    return (
        Caution(
            "other-prompt",
            f"the attack has attacked other tokens than the model is given with {len(other)} of {len(built)} prompts "
            f"({', '.join(map(repr, other[:SHOWN]))}): what it puts around the slot is not the chat template's",
        ),
    )


@contextmanager
def _listening(model: Any) -> Iterator[list[Tensor]]:
    calls: list[Tensor] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = kwargs.get("inputs_embeds")
        if not isinstance(x, Tensor) or not torch.is_grad_enabled() or not x.requires_grad:
            return
        if kwargs.get("past_key_values") is not None:
            raise AttackError(
                "the attack keeps its prompt's beginning in a cache, where it cannot be seen; run it without "
                "(nanoGCG: GCGConfig(use_prefix_cache=False))"
            )
        calls.append(x.detach().to("cpu", copy=True))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
