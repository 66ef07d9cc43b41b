"""C5: an attack on a language model's prompt first runs into a sharp place, and then into a flat one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from flatlens.claims.claim import TEXT, Claim, Part, Region
from flatlens.claims.nets import Case
from flatlens.claims.statistics import Table, median, share
from flatlens.errors import DataError, FlatlensError

if TYPE_CHECKING:
    from flatlens.datasets.prompts import Prompt
    from flatlens.models.language import Language
    from flatlens.records.trajectory import Trace

STEPS, CANDIDATES, TOP, SLOT, TOKENS = 40, 32, 32, 12, 4
STEP_SIZE = 0.1
"""Of the embedding attack, in mean norms of the embedding's rows."""
LOSS = 0.5
"""Nats at which paths are compared."""
ASKED = ("Repeat exactly:", "Say:", "Write these words:", "Tell me about")
WORDS = (
    "house", "river", "green", "stone", "paper", "small", "light", "water", "cold", "night", "tree", "sand", "bread",
    "cloud", "table", "winter",
)  # fmt: skip
"""Prompts, and the words that stand in the slot when the model is asked for targets that it can be made to say."""

CLAIM = Claim(
    name="C5",
    title="GCG runs into a flat valley too",
    source="Walter et al., arXiv 2405.16918",
    reported="as reported in notes on the paper: on language models GCG passes a sharp place and ends in a flat one, "
    "as attacks on images do",
    question="Does κ at the target's tokens rise and then fall far below its peak, once GCG has reached the target?",
    protocol={
        "nets": "lm:flatlens-tiny, one model; several by --model lm:… --model lm:…",
        "data": f"targets are the first {TOKENS} tokens that the model itself says when two plain words stand in the "
        "slot; or prompts of one's own, --data prompts:FILE",
        "attack": f"GCG, {STEPS} steps of {CANDIDATES} candidates, the {TOP} best tokens of each place, slot of {SLOT} "
        f"tokens; embedding, {STEPS} steps of {STEP_SIZE:g} row norms",
        "n": "prompts: 4, in full 20 of each model",
        "statistic": "shares of the prompts whose target is reached; flat: reached at the end, κ there at most a tenth "
        "of its peak",
    },
    parts=(
        Part("gcg_flat", "GCG ends flat", share("gcg_flat", "gcg_flipped"), Region(low=0.8)),
        Part("gcg_rises", "κ on GCG's path is larger at its peak than at its start", share("gcg_rises", "gcg_flipped"),
             Region(low=0.8)),
        Part("embedding_flat", "the embedding attack ends flat", share("embedding_flat", "embedding_flipped"),
             Region(low=0.8)),
        Part("gcg_reached", "GCG reaches the target", share("gcg_flipped")),
        Part("swap_reached", "random swaps, as many candidates, reach it", share("swap_flipped")),
        Part("embedding_rises", "κ rises in the embedding attack", share("embedding_rises", "embedding_flipped")),
        Part("gcg_depth", "decades from the peak to GCG's end", median("gcg_depth", "gcg_flipped")),
        Part("embedding_depth", "the same of the embedding attack", median("embedding_depth", "embedding_flipped")),
        Part("gcg_loss", "nats, the target's loss at GCG's end", median("gcg_loss", "gcg_flipped")),
        Part("embedding_loss", "the same of the embedding attack", median("embedding_loss", "embedding_flipped")),
        Part("equal_loss", f"decades between the two attacks' κ where the loss falls to {LOSS:g} nats",
             median("equal_loss")),
        Part("copies_depth", "decades from the peak to 32 copies of the target in plain text, which is no attack",
             median("copies_depth")),
    ),
    caveats=(
        "At a position the loss bounds the confidence term from both sides, so that a low loss is a flat place by "
        "construction: what is free is how low a loss an attack reaches, and how κ begins.",
        "The shipped model has 136,000 weights and knows characters. One model decides nothing: give five by --model. "
        "data/tiny_lm.py FOLDER --seed N trains others like it.",
        "Targets that the model was not seen to say are out of GCG's reach here: of twelve it reached one in 100 "
        "steps, and lost it again.",
        "On a large model more steps and candidates are usual: flatlens trace --attack gcg has them.",
    ),
    kinds=(TEXT,),
    units=("network", "prompt"),
    sizes=(4, 20),
    needs={"transformers": "pip install 'flatlens[text]'"},
)  # fmt: skip


def measure(case: Case) -> Table:
    """What becomes of κ at each prompt's target, under GCG and under what stands beside it."""
    from flatlens import attacks
    from flatlens.measure.trace_text import trace_text
    from flatlens.models import language

    loaded = language.load(case.net.uris[TEXT])
    prompts = given(case) or list(reachable(loaded, case.size))
    if not prompts:
        raise DataError(
            f"'{case.net.name}' says nothing that could be a target; give prompts of your own: --data prompts:FILE"
        )

    def along(attack: Any, *controls: str) -> Trace:
        return trace_text(
            loaded.model, loaded.tokenizer, prompts, attack=attack, controls=controls, slot_len=SLOT, seed=case.seed
        )

    gcg = along(attacks.GCG(steps=STEPS, candidates=CANDIDATES, topk=TOP), "random-swap", "copies")
    embedding = along(attacks.Embedding(steps=STEPS, step_size=STEP_SIZE))
    return {
        "sample": np.arange(len(prompts)),
        **followed(gcg, "gcg"),
        **followed(gcg, "swap", "random-swap"),
        **followed(gcg, "copies", "copies"),
        **followed(embedding, "embedding"),
        "equal_loss": between(gcg, embedding, len(prompts)),
    }


def given(case: Case) -> list[Prompt]:
    """The user's own prompts, at most as many as asked for; none where the data are not prompts."""
    from flatlens.datasets import prompts
    from flatlens.specs.language import SHIPPED

    uri = case.net.data
    return list(prompts.load(uri).prompts[: case.size]) if uri in SHIPPED or uri.startswith("prompts:") else []


def reachable(loaded: Language, most: int) -> Iterator[Prompt]:
    """Prompts with targets that the model says when other text stands in the slot; no target twice.

    Args:
        loaded: the model.
        most: prompts at most; fewer where the model says the same again and again.

    Yields:
        A `Prompt` each.
    """
    from flatlens.datasets.prompts import Prompt

    rng = np.random.default_rng(0)
    seen = {answer(loaded, f"{asked} {' '.join(['x'] * SLOT)}") for asked in ASKED} | {""}
    for number in range(10 * most):
        asked = ASKED[number % len(ASKED)]
        target = answer(loaded, f"{asked} {' '.join(rng.choice(WORDS, 2, replace=False))}.")
        if target not in seen and len(seen) < most + len(ASKED) + 1:
            seen.add(target)
            yield Prompt(asked, target, id=f"{len(seen)}")


def answer(loaded: Language, text: str) -> str:
    """The first tokens that the model answers to a text, without blanks around them; empty where it says none."""
    from flatlens.datasets.prompts import Prompt
    from flatlens.victims import encoding
    from flatlens.victims.tokens import TokenVictim

    try:
        # No target is asked for; an encoding has one, which is not looked at.
        made = encoding.asked(loaded.tokenizer, Prompt(text, "x"))
        victim = TokenVictim(loaded.model, made, cached=False)
        said = victim.generate(victim.start(), TOKENS)
    except FlatlensError:
        return ""
    return str(loaded.tokenizer.decode(said, skip_special_tokens=True)).strip()


def followed(trace: Trace, name: str, path: str = "attack") -> Table:
    """What one path does at each prompt; columns begin with its name."""
    valley = trace.valley(path=path)
    loss = trace.matrix("loss", path=path).values
    last = trace.last_steps(path=path)
    depth = np.where(np.isfinite(valley.depth), valley.depth, np.nan)
    return {
        f"{name}_flipped": valley.flipped,
        f"{name}_flat": valley.settled & valley.flat_end,
        f"{name}_rises": valley.rise > 1,
        f"{name}_depth": depth,
        f"{name}_loss": loss[np.arange(len(last)), last],
    }


def between(one: Trace, other: Trace, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """log₁₀ κ of one attack less that of the other where the loss first falls to `LOSS`, ``[n]``; NaN where not."""
    out = np.full(n, np.nan)
    first, second = (trace.matched(LOSS, paths=["attack"])["attack"] for trace in (one, other))
    common, mine, theirs = np.intersect1d(first.sample, second.sample, return_indices=True)
    out[common] = np.log10(first.kappa[mine]) - np.log10(second.kappa[theirs])
    return out
