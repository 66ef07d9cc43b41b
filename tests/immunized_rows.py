"""A finished immunization as its page is given it, made of plain numbers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from flatlens.records.immunized import ATTACKERS, FINETUNING, HISTORY, Result

RATES = {
    "gradient-descent": {"identity": 0.1, "immunized": 0.01},
    "conjugate-gradients": {"identity": 1.0, "immunized": 0.6},
    "least-squares": {"identity": 99.0, "immunized": 99.0},
    "adam": {"identity": 0.12, "immunized": 0.05},
}
"""Of each attacker the powers of e by which an iteration lowers the loss; on the primary task they are swapped."""


def told(**more: Any) -> dict[str, Any]:
    """The summary, as far as the page reads it."""
    return {
        "method": "alg1", "i": 104.0, "ii": 0.35, "rir": 297.0, "bound": 18520.0, "stop": "stalled", "steps": 77,
        "ridge": 0.01, "samples": [329, 1137], "heldout": {"i": 98.0, "ii": 1.7, "rir": 57.6},
        "harmful": {"before": 1117.0, "after": 116000.0}, "primary": {"before": 1265.0, "after": 443.0},
        "model": {"uri": "flatlens:cnn", "layer": "fc", "appended": "flatlens:cnn?append=t", "logits": 2e-5},
        "data": {"primary": {"uri": "flatlens:digits", "classes": [0, 1]}, "harmful": {"uri": "npz:b.npz"}},
        "cautions": [{"code": "few-samples", "message": "329 samples of 79 features"}],
    } | more  # fmt: skip


def attackers(rates: dict[str, dict[str, float]] = RATES, iterations: int = 100) -> dict[str, Any]:
    rows = []
    for task, attacker, extractor, k in product(
        ("primary", "harmful"), rates, ("identity", "immunized"), range(iterations + 1)
    ):
        of = extractor if task == "harmful" else {"identity": "immunized", "immunized": "identity"}[extractor]
        rows.append((task, extractor, attacker, float(k), float(np.exp(-rates[attacker][of] * k))))
    names = ("task", "extractor", "attacker", "iteration", "loss_gap")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def history(steps: int = 5) -> dict[str, Any]:
    k = np.arange(steps, dtype=float)
    return {"step": k, "i": 1 + 20 * k, "ii": 1 / (1 + k), "rir": (1 + 20 * k) * (1 + k)}


def tuned(epochs: int = 4) -> dict[str, Any]:
    """By SGD the harmful task is learnt late where it is immunized; by Adam all the same."""
    rows = []
    for extractor, optimizer, seed, epoch, task in product(
        ("immunized", "identity"), ("sgd", "adam"), range(5), range(epochs + 1), ("harmful", "primary")
    ):
        slow = optimizer == "sgd" and extractor == "immunized"
        right = 0.9 if task == "primary" else 0.1 + (0.1 if slow else 0.2) * epoch + 0.01 * seed
        rows.append((extractor, optimizer, task, float(seed), float(epoch), right))
    names = ("extractor", "optimizer", "task", "seed", "epoch", "accuracy")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def made(**more: Any) -> Result:
    """All that a folder can hold; ``more`` is of the summary."""
    return Result(told(**more), {HISTORY: history(), ATTACKERS: attackers(), FINETUNING: tuned()})
