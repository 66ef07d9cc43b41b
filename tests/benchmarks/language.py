"""Steps of attacks on a language model, SmolLM2-135M on one thread (`data/smollm2.py` makes it), against nanoGCG's.

The prompt is 32 tokens, the slot 12, the tail 6, the target 8; without the model there are no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import flatlens as fl
from flatlens.datasets import prompts
from flatlens.measure import prepare_language
from flatlens.measure.prompt_walk import PromptWalk
from flatlens.models import language
from flatlens.victims.noise import Noise
from flatlens.victims.protocol import Batch
from tests.benchmarks.timing import Row, interleaved, medians, ratio

FOLDER = Path(".cache/smollm2")
STEPS, CANDIDATES, SLOT = 4, 32, 12


def rows() -> Iterator[Row]:
    """All rows about attacks on language models."""
    if not FOLDER.is_dir():
        print(f"no rows about language models: python data/smollm2.py {FOLDER} makes the model")
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from steps()
    finally:
        torch.set_num_threads(threads)


def steps() -> Iterator[Row]:
    """A step traced against untraced, GCG's and the embedding attack's, and against nanoGCG's bare one."""
    loaded = language.load(f"lm:{FOLDER}")
    one, _ = prepare_language.chosen(prompts.load("flatlens:benign-targets"), (0,), None)
    gcg = fl.attacks.GCG(steps=STEPS, candidates=CANDIDATES, topk=64)
    soft = fl.attacks.Embedding(steps=4 * STEPS)
    jobs = {
        name: prepare_language.prepare(loaded.model, loaded.tokenizer, one, attack=attack, slot_len=SLOT)
        for name, attack in (("gcg", gcg), ("soft", soft))
    }
    work: dict[str, Callable[[], Any]] = {}
    for name, attack in (("gcg", gcg), ("soft", soft)):
        work[f"{name} traced"] = lambda name=name: _traced(jobs[name])
        work[f"{name} untraced"] = lambda name=name, attack=attack: _untraced(jobs[name], attack)
    try:
        import nanogcg
    except ModuleNotFoundError:
        print("no row against nanoGCG: pip install --no-deps nanogcg==0.3.0")
    else:
        config = nanogcg.GCGConfig(
            num_steps=STEPS, search_width=CANDIDATES, topk=64, optim_str_init=" x" * SLOT, use_prefix_cache=False,
            allow_non_ascii=True, verbosity="ERROR", seed=0,
        )  # fmt: skip
        prompt = one.prompts[0]
        said = [{"role": "user", "content": prompt.prompt + "{optim_str}"}]
        work["nanogcg"] = lambda: nanogcg.run(loaded.model, loaded.tokenizer, said, prompt.target, config)
    seconds = interleaved(work, runs=3)
    detail = medians(seconds)
    known = [
        ("a gcg step of 32 candidates, traced against untraced", "gcg traced", "gcg untraced", "≤ 1.08"),
        ("an embedding step, traced against untraced", "soft traced", "soft untraced", "≤ 1.6"),
        ("a gcg step of 32 candidates, traced, against nanoGCG's bare one", "gcg traced", "nanogcg", "≤ 0.65"),
    ]
    for what, ours, theirs, goal in known:
        if theirs in seconds:
            yield Row(what, ratio(seconds, ours, theirs), "×", goal, detail)


def _traced(job: Any) -> None:
    walk = PromptWalk(job, 0, None, None)
    # The confirmation at a path's end is no part of a step.
    walk._agrees = lambda found, tokens: found.flipped  # type: ignore[method-assign]
    with walk.victim.held():
        walk.piece()


def _untraced(job: Any, attack: Any) -> None:
    victim = job.victim(0)
    tokens = victim.start()
    batch = Batch(victim.embed(tokens), victim.target, torch.tensor([0]), tokens=tokens)
    with victim.held():
        for _ in attack(victim, batch, Noise(0)):
            pass
