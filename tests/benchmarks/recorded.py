"""Anybody's attack, recorded and replayed, against the same attack alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchattacks

import flatlens as fl
from flatlens.measure.prepare import prepare
from flatlens.specs.settings import Settings
from tests.benchmarks.networks import resnet18
from tests.benchmarks.timing import Row, interleaved, medians, ratio

STEPS, BATCH, EPS = 40, 32, 8 / 255


def rows() -> Iterator[Row]:
    """ResNet-18 of width 32, batch 32, PGD of torchattacks."""
    model = resnet18(32)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(BATCH, 3, 32, 32, generator=generator), torch.randint(10, (BATCH,), generator=generator)
    theirs = torchattacks.PGD(model, eps=EPS, alpha=2.5 * EPS / STEPS, steps=STEPS)
    attack = fl.attacks.recorded(theirs)
    job = prepare(model, x, y, attack=attack, settings=Settings(batch_size=BATCH))
    batch = job.batch(0)

    def alone() -> None:
        advs = theirs(x, y)
        with torch.no_grad():
            model(advs).argmax(1)

    def recording() -> None:
        replay, _ = attack.record(model, batch, (0.0, 1.0))
        assert replay.returned is not None
        with torch.no_grad():
            model(replay.returned).argmax(1)

    def traced() -> None:
        fl.trace(model, x, y, attack=attack, batch_size=BATCH)

    seconds = interleaved({"alone": alone, "recorded": recording, "traced": traced})
    detail = medians(seconds)
    yield Row(
        f"torchattacks' PGD-{STEPS} recorded, against it alone",
        ratio(seconds, "recorded", "alone"),
        "×",
        "≤ 1.10",
        detail,
    )
    yield Row(
        f"torchattacks' PGD-{STEPS} recorded and replayed with the head traced, against it alone",
        ratio(seconds, "traced", "alone"),
        "×",
        "≤ 1.5",
        detail,
    )
