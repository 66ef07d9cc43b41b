"""The head of a language model: 49,152 tokens, 8 positions, a width of 576, on one thread."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flatlens.hessian.head import Head
from flatlens.hessian.positions import HeadAtPositions
from tests.benchmarks.timing import Row, interleaved, medians, ratio, subprocess_json

TOKENS, POSITIONS, WIDTH = 49_152, 8, 576


def rows() -> Iterator[Row]:
    """All rows about the head at positions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from against_head()
    finally:
        torch.set_num_threads(threads)
    yield memory()


def head() -> tuple[nn.Linear, Tensor, Tensor]:
    """A float32 head, its inputs, and targets that it half expects."""
    rng = torch.Generator().manual_seed(0)
    linear = nn.Linear(WIDTH, TOKENS, bias=False)
    with torch.no_grad():
        linear.weight.normal_(std=0.1, generator=rng)
    y = torch.randint(TOKENS, (1, POSITIONS), generator=rng)
    return linear, torch.randn(1, POSITIONS, WIDTH, generator=rng) + 3 * linear.weight.detach()[y], y


def against_head() -> Iterator[Row]:
    """Every position and the mean, against the head alone, which takes the positions for samples."""
    linear, a, y = head()
    logits = linear(a).detach()
    ours, single = HeadAtPositions(linear), Head(linear)
    seconds = interleaved(
        {
            "positions": lambda: ours(a, y, logits=logits),
            "head": lambda: single(a[0], y[0], logits=logits[0]),
            "logits in float64": lambda: a[0].double() @ single.weight.T,
        }
    )
    detail = medians(seconds)
    work = f"the head at {POSITIONS} positions of {TOKENS:,} tokens"
    yield Row(work, statistics.median(seconds["positions"]), "s", "≤ 0.35", detail)
    yield Row(f"{work}, against them as samples", ratio(seconds, "positions", "head"), "×", "≤ 1", detail)
    yield Row(
        f"{work}, against its logits in float64", ratio(seconds, "positions", "logits in float64"), "×", "≤ 8", detail
    )


MEMORY = """
import json, torch
from pathlib import Path
from tests.benchmarks.positions import HeadAtPositions, head
torch.set_num_threads(1)
# Not getrusage: a process begins with its parent's peak there.
def kib(name):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if name in line).split()[1])
linear, a, y = head()
logits = linear(a).detach()
before = kib("VmRSS")
HeadAtPositions(linear)(a, y, logits=logits)
print(json.dumps({"more": (kib("VmHWM") - before) / 1024}))
"""


def memory() -> Row:
    """Peak resident memory of a whole process, more than with the weight alone."""
    more = subprocess_json(MEMORY)["more"]
    return Row("memory of the head at positions, beside the weight", more, "MiB", "≤ 400", "")
