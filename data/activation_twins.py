"""The built-in MLP with four activations, trained alike: how the attack's gradient flows, and how sharp they get.

    python data/activation_twins.py > table.md

Takes a minute. Figures are medians over the flipped samples of the test split, at the clean input and at the end.
"""

from __future__ import annotations

import numpy as np
import torch

import flatlens as fl
from flatlens import datasets, models
from flatlens.models import zoo
from flatlens.training import fit as training

EPS, STEPS = 0.3, 25


def main() -> None:
    """Print the table."""
    train, test = (datasets.load(f"flatlens:digits?split={split}") for split in ("train", "test"))
    x, y = torch.from_numpy(test.x), torch.from_numpy(test.y)
    head = "activation", "right, %", "flipped", "zero inputs of the head, %", "gradient norm"
    print("| " + " | ".join((*head, "cosine of successive", "κ rise", "κ depth")) + " |")
    print("|" + 8 * "---|")
    for act in zoo.ACTIVATIONS:
        model = models.load(f"flatlens:mlp?act={act}", shape=train.shape, classes=10).model
        rng = torch.Generator().manual_seed(0)
        training.train(model, torch.from_numpy(train.x), torch.from_numpy(train.y), epochs=30, rng=rng)
        trace = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=EPS, steps=STEPS), images="none")
        found = trace.valley()
        summary = found.summary()

        def ends(column: str, last: int = STEPS - 1, of: np.ndarray = found.flipped, trace: fl.Trace = trace) -> str:
            values = trace.matrix(column).values[of]
            return f"{np.median(values[:, 0]):.3g} → {np.median(values[:, last]):.3g}"

        cosine = np.nanmedian(trace.matrix("grad_cosine").values[found.flipped])
        off = 100 * np.median(trace.matrix("zero_inputs").values[found.flipped][:, [0, STEPS]], 0)
        print(
            f"| {act} | {100 * summary.correct.value:.1f} | {summary.flipped.count} of {summary.flipped.n} "
            f"| {off[0]:.0f} → {off[1]:.0f} | {ends('input_grad_norm')} | {cosine:.3f} "
            f"| {summary.rise.value:.1f} [{summary.rise.low:.1f}, {summary.rise.high:.1f}] "
            f"| {summary.depth.value:.2f} [{summary.depth.low:.2f}, {summary.depth.high:.2f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main()
