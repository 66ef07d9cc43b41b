"""From a language model, prompts and an attack to a `LanguageJob`: all is checked, the prompts are encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from flatlens.attacks.language.recorded import RecordedText
from flatlens.attacks.language.replay import Strings
from flatlens.attacks.protocol import stated
from flatlens.datasets.prompts import Prompt, Prompts
from flatlens.errors import AttackError, DataError, FlatlensError
from flatlens.measure.language_job import LanguageJob
from flatlens.models import guard
from flatlens.models.language import check_model
from flatlens.records.schema import Caution
from flatlens.specs.language import CHUNK
from flatlens.victims.encoding import Encoding, allowed, asked, encode
from flatlens.victims.language_parts import parts_of
from flatlens.victims.layers import HEAD
from flatlens.victims.tokens import TokenVictim
from flatlens.victims.whole_prompt import inner_layers

FAR = 10.0
"""A step of more mean row norms than this was probably meant in other units."""


def prepare(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    *,
    attack: Any,
    controls: Sequence[str] = (),
    slot_len: int = 20,
    init: str | None = None,
    slot: str = "suffix",
    chat: str = "auto",
    positions: str = "target",
    stop_after: int | None = None,
    seed: int = 0,
    chunk: int = CHUNK,
    ids: Sequence[int] | None = None,
    whole: bool = False,
    layers: Sequence[str] = (HEAD,),
    probes: int = 16,
) -> LanguageJob:
    """Check the model and encode the prompts.

    Args:
        model: causal, of transformers, in eval mode.
        tokenizer: its own.
        prompts: what is attacked.
        attack: one of `flatlens.attacks` for language models.
        controls: names of the paths to walk beside it.
        slot_len: tokens of the slot.
        init: the slot's text at the start; see `flatlens.victims.encoding.encode`.
        slot: ``suffix`` or ``prefix``.
        chat: ``auto`` or ``none``.
        positions: ``target``, or ``all`` for the paper's own averaging beside it.
        stop_after: steps after which a path that stays flipped ends; never when None.
        seed: of all noise.
        chunk: candidates that are evaluated together.
        ids: of the prompts in their data.
        whole: the slot is all that the user says, as it is: nothing is put beside it.
        layers: names and patterns; the head is measured whatever they are.
        probes: random probes for layers beside the head.

    Raises:
        AttackError: the attack is of images, or does not fit the slot.
        DataError: a prompt cannot be encoded; the message names it.
        LayerError: a layer does not exist or cannot be probed.
        ModelError: the model cannot be attacked.
    """
    check_model(model)
    guard.check_kind(model)
    made = stated(attack)
    own: Any = getattr(made, "own", None)
    if not type(own).__module__.startswith("flatlens.attacks.language"):
        raise AttackError(f"attack '{made.name}' is no attack on language models; give, for example, fl.attacks.GCG()")
    if getattr(own, "swaps", 1) > slot_len:
        raise AttackError(
            f"swaps = {own.swaps}: a slot of {slot_len} tokens has no more to swap; give at most {slot_len}"
        )
    with guard.net("while it is checked, before the attack"):
        parts = parts_of(model)
    how = {"chat": chat} if whole else {"chat": chat, "slot_len": slot_len, "init": init, "slot": slot}
    encodings = list(_encoded(tokenizer, prompts, asked if whole else encode, **how))
    writable = allowed(tokenizer, parts.head.weight.shape[0])
    places = list(range(len(encodings)) if ids is None else ids)
    told: tuple[Caution, ...] = ()
    if isinstance(own, Strings | RecordedText):
        found = own.on(model, prompts, places, encodings, slot)
        made, encodings, told = stated(found.attack), found.encodings, found.cautions
        own = found.attack
        slot_len = len(encodings[0].slot)
    with guard.net("while it is checked, before the attack"):
        first = TokenVictim(model, encodings[0], chunk=chunk, parts=parts, writable=writable)
        inner = inner_layers(first, layers)
    settings = {
        "seed": seed, "positions": positions, "slot": slot, "chat": chat, "stop_after": stop_after, "chunk": chunk,
        "slot_len": slot_len, "init": init,
    }  # fmt: skip
    return LanguageJob(
        model=model,
        parts=parts,
        prompts=prompts,
        encodings=encodings,
        ids=torch.tensor(places),
        attack=made,
        controls=tuple(controls),
        settings=settings,
        writable=writable,
        preflight=(*told, *_cautions(made.describe(), first)),
        first=first,
        layers=inner,
        probes=probes,
    )


def _encoded(tokenizer: Any, prompts: Prompts, encoder: Callable[..., Encoding], **how: Any) -> Iterator[Encoding]:
    for name, prompt in zip(prompts.names, prompts.prompts, strict=True):
        try:
            yield encoder(tokenizer, prompt, **how)
        except FlatlensError as error:
            error.args = (f"prompt '{name}': {error}",)
            raise


def _cautions(attack: Mapping[str, Any], victim: TokenVictim) -> Iterator[Caution]:
    for key in ("step_size", "ball"):
        value = attack.get(key)
        if value is not None and value > FAR:
            yield Caution(
                "far-step",
                f"{key} is {value:g} mean norms of the embedding's rows: is it in the embedding's own units, of which "
                f"a row norm is {victim.row_norm():.3g}?",
            )
    if victim.dtype == torch.bfloat16:
        yield Caution(
            "bfloat16",
            "the model computes in bfloat16, whose rounding shifts logits by tenths: losses and flips are of "
            "that model, not of the float32 one",
        )


def chosen(prompts: Prompts, samples: Sequence[int] | None, limit: int | None) -> tuple[Prompts, list[int]]:
    """Some of the prompts, and their places in their data: those of ``samples``, then the first ``limit`` of them.

    Raises:
        DataError: there is no such prompt.
    """
    places = list(range(len(prompts))) if samples is None else sorted(samples)
    if places and places[-1] >= len(prompts):
        raise DataError(f"no prompt {places[-1]}; '{prompts.uri}' has {len(prompts)}, 0 … {len(prompts) - 1}")
    places = places[:limit]
    named: list[Prompt] = [prompts.prompts[i] for i in places]
    return replace(prompts, prompts=tuple(named)), places
