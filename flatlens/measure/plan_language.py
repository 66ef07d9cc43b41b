"""What a run of a language model would cost, from one timed step of its first prompt: GCG can take days."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from flatlens.attacks.language import log_likelihood
from flatlens.measure import load_language
from flatlens.probes import Path
from flatlens.specs.catalogue import TEXT_ATTACKS, TEXT_CONTROLS
from flatlens.specs.run import RunSpec
from flatlens.victims.layers import HEAD

SWAPPING = ("gcg", "random-swap")
"""Paths whose steps evaluate candidates."""
ROUNDING = ("simplex",)
"""Paths whose steps are rounded to text, and measured there too."""
POINTS = {"ask": 1, "planted": 1, "copies": 7}
"""Points of the controls that have no steps of the attack's number."""


class LanguagePlan(NamedTuple):
    """What a run would take: passes are of one prompt each; memory in bytes, time in seconds, both estimated.

    ``tokens`` are those of the longest prompt, its slot and its target; ``candidates`` how many slots are evaluated in
    all.
    """

    model: str
    prompts: int
    tokens: int
    steps: int
    forward_passes: int
    backward_passes: int
    candidates: int
    memory_bytes: int
    seconds: float
    seconds_per_prompt: float


def plan(spec: RunSpec) -> LanguagePlan:
    """What a run of ``spec`` would take; nothing is written."""
    spec, job, _ = load_language.load(spec)
    victim = job.victim(0)
    measure = job.measure
    paths = [spec.attack, *spec.control]
    evaluated = spec.candidates or 0
    with victim.held():
        began = time.perf_counter()
        here = victim(victim.start())
        measure(here.taps[HEAD].value, here.y, logits=here.logits.detach())
        if (inner := job.inner(0, victim)) is not None:
            inner(here, Path(here.x))
        forward = time.perf_counter() - began
        here.grad(log_likelihood)
        backward = time.perf_counter() - began - forward
        trial = victim.start().repeat(min(victim.chunk, evaluated), 1) if evaluated else None
        began = time.perf_counter()
        if trial is not None:
            victim.losses(trial)
        candidate = 0.0 if trial is None else (time.perf_counter() - began) / len(trial)
    points = sum(POINTS.get(path, (1 + (path in ROUNDING)) * (job.length + 1)) for path in paths)
    entries = TEXT_ATTACKS | TEXT_CONTROLS
    taken = job.length * sum(path not in POINTS and path != "line-to-end" and path in entries for path in paths)
    swapped = evaluated * job.length * sum(path in SWAPPING for path in paths)
    each = points * forward + taken * backward + swapped * candidate
    longest = max(one.length for one in job.encodings)
    weights = sum(p.numel() * p.element_size() for p in job.model.parameters())
    width, size = job.parts.head.weight.shape[1], torch.finfo(victim.dtype).bits // 8
    # Activations of a chunk, some thirty times the width at each token, and the logits, of 64 MiB at most.
    held = max(1, min(victim.chunk, evaluated)) * longest * width * size * 30 + (64 << 20)
    return LanguagePlan(
        model=spec.model,
        prompts=job.batches,
        tokens=longest,
        steps=job.length,
        forward_passes=points * job.batches,
        backward_passes=taken * job.batches,
        candidates=swapped * job.batches,
        memory_bytes=weights + held,
        seconds=each * job.batches,
        seconds_per_prompt=each,
    )
