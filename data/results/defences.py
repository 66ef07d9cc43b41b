"""The table of docs/results/defences.md: every defence on every seed, trained once and found again, and its thresholds.

    python data/results/defences.py digits            # 17 defences × 5 seeds
    python data/results/defences.py fashion-mnist     # 9 × 3; needs Debian's dataset-fashion-mnist

What was measured is kept in ``data/results/defences-NAME.json``, a row for each training.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from flatlens.specs.train import TrainSpec
from flatlens.training import recipes

HERE = Path(__file__).parent
MODEL = "flatlens:cnn"
DEFENCES: dict[str, dict[str, str]] = {
    "standard": {},
    "sam": {"defence": "sam"},
    "asam": {"defence": "asam"},
    "fam 0.1": {"penalty": "fam?weight=0.1"},
    "gradient": {"defence": "gradient"},
    "spectral": {"defence": "spectral"},
    "flat-lipschitz": {"defence": "flat-lipschitz"},
    "fgsm": {"defence": "fgsm"},
    "pgd": {"defence": "pgd"},
    "mix": {"defence": "mix"},
    "trades": {"defence": "trades"},
    "mart": {"defence": "mart"},
    "awp": {"defence": "awp"},
    "fam-pgd": {"defence": "fam-pgd"},
    "gan": {"defence": "gan"},
    "fam 1": {"penalty": "fam?weight=1"},
    "fam-pgd 0.1": {"adversarial": "pgd", "penalty": "fam?weight=0.1"},
}
SETTINGS: dict[str, tuple[dict[str, Any], range]] = {
    "digits": ({"data": "flatlens:digits", "epochs": 15, "eps": 0.1}, range(10, 15)),
    "fashion-mnist": (
        {"data": "idx:/usr/share/datasets/fashion-mnist", "epochs": 6, "eps": 0.05, "limit": 1500},
        range(10, 13),
    ),
}
FEW = ("standard", "fam 0.1", "gradient", "fgsm", "pgd", "mix", "trades", "mart", "gan")
"""Of Fashion-MNIST, whose images are twelve times as large."""
POINTS = 100


def trained(given: tuple[str, str, int]) -> dict[str, Any]:
    """One row: a defence on one seed, trained now or found again."""
    name, defence, seed = given
    torch.set_num_threads(1)
    known = SETTINGS[name][0]
    found = recipes.obtain(MODEL, TrainSpec(**known, **DEFENCES[defence], seed=seed))
    record = found.reached
    assert record is not None
    return {
        "defence": defence,
        "seed": seed,
        "clean": record["accuracy"],
        "pgd": record["robust_accuracy"],
        "worst": record["worst_accuracy"]["value"],
        "n": record["worst_accuracy"]["n"],
        "loss_gap": record["loss_gap"]["mean"]["value"],
        "kappa": record["kappa"]["after"]["value"],
        "lipschitz": record["robustness"]["lipschitz"],
        "masked": record["masked"],
        "alarms": [alarm["code"] for alarm in record["alarms"]],
        "seconds": record["seconds"],
    }


def chosen(name: str) -> tuple[str, ...]:
    """The defences of an experiment."""
    return tuple(DEFENCES) if name == "digits" else FEW


def rows(name: str) -> Iterator[dict[str, Any]]:
    """All rows of an experiment, in two processes."""
    work = [(name, defence, seed) for seed in SETTINGS[name][1] for defence in chosen(name)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for row in pool.imap(trained, work):
            print(json.dumps(row), file=sys.stderr, flush=True)
            yield row


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown: means over seeds, and their standard deviations."""

    def said(of: list[dict[str, Any]], key: str, scale: float, digits: int) -> str:
        values = [scale * row[key] for row in of if row[key] is not None]
        if not values:
            return "–"
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"

    lines = [
        "| defence | clean % | PGD-20 % | worst % | loss gap | κ | Lipschitz bound | masked |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for defence in dict.fromkeys(row["defence"] for row in found):
        of = [row for row in found if row["defence"] == defence]
        cells = [
            said(of, "clean", POINTS, 1), said(of, "pgd", POINTS, 1), f"**{said(of, 'worst', POINTS, 1)}**",
            said(of, "loss_gap", 1, 2), said(of, "kappa", 1, 2), said(of, "lipschitz", 1, 0),
            f"{sum(row['masked'] for row in of)} of {len(of)}",
        ]  # fmt: skip
        lines.append(f"| {defence} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(name: str) -> None:
    """Train what is missing, keep the rows, print the table."""
    found = list(rows(name))
    (HERE / f"defences-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1])
