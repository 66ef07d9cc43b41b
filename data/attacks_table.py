"""Six attacks and all controls on three models: who flips, who runs into a valley, with n and 95 % intervals.

    python data/attacks_table.py [FASHION_MNIST_FOLDER] > table.md

Takes about five minutes on two cores; the Fashion-MNIST CNN is trained first (its accuracy is printed with the table).
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.attacks import CONTROLS
from flatlens.models import zoo
from flatlens.records.valley import Fraction, Median
from flatlens.training import fit as training

STEPS = 25
DIGITS_EPS, FASHION_EPS = 0.3, 0.1
# In l2 the ball of the same volume per coordinate would be larger; these flip about as many.
L2 = {DIGITS_EPS: 1.5, FASHION_EPS: 1.5}


def attacks(eps: float) -> dict[str, object]:
    """The six."""
    return {
        f"PGD linf {eps:g}": fl.attacks.PGD(eps=eps, steps=STEPS),
        f"PGD l2 {L2[eps]:g}": fl.attacks.PGD(eps=L2[eps], norm="l2", steps=STEPS),
        f"BIM linf {eps:g}": fl.attacks.BIM(eps=eps, steps=STEPS),
        f"MI-FGSM linf {eps:g}": fl.attacks.MIFGSM(eps=eps, steps=STEPS),
        f"APGD-CE linf {eps:g}": fl.attacks.APGD(eps=eps, steps=STEPS),
        "DDN (minimal l2)": fl.attacks.DDN(steps=STEPS),
    }


def cases(folder: str) -> list[tuple[str, nn.Module, Tensor, Tensor, float]]:
    """Name, model, inputs, labels, eps."""
    digits = datasets.load("flatlens:digits")
    x, y = torch.from_numpy(digits.x), torch.from_numpy(digits.y)
    shipped = [
        (name, models.load(f"flatlens:{name}", shape=digits.shape, classes=10).model, x, y, DIGITS_EPS)
        for name in ("digits-cnn", "digits-cnn-robust")
    ]
    train = datasets.load(f"idx:{folder}?split=train").take(np.arange(20_000))
    test = datasets.load(f"idx:{folder}").take(np.arange(300))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.cnn((1, 28, 28), 10, width=16)
    training.train(
        model, torch.from_numpy(train.x), torch.from_numpy(train.y), epochs=3, rng=torch.Generator().manual_seed(0)
    )
    return [*shipped, ("Fashion-MNIST CNN", model, torch.from_numpy(test.x), torch.from_numpy(test.y), FASHION_EPS)]


def main(folder: str) -> None:
    """Print the table."""
    print("| model | path | flipped | valleys of the flipped, % | of all, % | rise | depth | lag |")
    print("|---|---|---|---|---|---|---|---|")
    for name, model, x, y, eps in cases(folder):
        for i, (attack, made) in enumerate(attacks(eps).items()):
            # The controls are walked beside the first attack; their radius is its own.
            trace = fl.trace(model, x, y, attack=made, controls=list(CONTROLS) if i == 0 else [], images="none")
            for path in trace.paths:
                s = trace.valley(path=path).summary()
                label = f"**{attack}**" if path == "attack" else f"control: {path}"
                row = (
                    f"{name} ({100 * s.correct.value:.1f} % right)",
                    label,
                    f"{s.flipped.count} of {s.flipped.n}",
                    share(s.valley_of_flipped),
                    share(s.valley_of_all),
                    middle(s.rise, "{:.3g}"),
                    middle(s.depth, "{:.2f}"),
                    middle(s.lag, "{:g}"),
                )
                print("| " + " | ".join(row) + " |", flush=True)


def share(f: Fraction) -> str:
    """Per cent with its interval."""
    return "–" if f.n == 0 else f"{100 * f.value:.0f} [{100 * f.low:.0f}, {100 * f.high:.0f}]"


def middle(m: Median, form: str) -> str:
    """A median with its interval."""
    return "–" if m.n == 0 else f"{form.format(m.value)} [{form.format(m.low)}, {form.format(m.high)}]"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
