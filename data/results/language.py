"""The experiment on language models of docs/results/language.md: its protocol, fixed before its figures.

Model: SmolLM2-135M-Instruct, dequantised from 4 bits (data/smollm2.py makes it), float32, one thread. Prompts: the 12
of flatlens:benign-targets, with the model's chat template; slot of 12 tokens behind the prompt; seed 0.

1. embedding, 150 steps of 0.05 mean row norms, unbounded; controls ask, planted, copies.
   Passes if at least 10 of the 12 settle (flipped at the end for good) with κ at the end at most a tenth of its peak.
2. copies: passes if κ(32 copies) ≤ κ(4 copies) / 4 for at least 11 of 12, and all 12 are flipped at 32.
3. gcg, 32 candidates, top-k 64, 25 steps, prompts 0 … 3, with random-swap and planted beside it: no claim is tested, a
   table with n is given.
4. At equal loss: κ of each path where its loss first falls to 1, 0.5, 0.1 and 0.03 nats, medians with intervals and n.
   copies / embedding is expected within [0.5, 2] in the median at each loss that at least 5 prompts of both reach.

By construction κ of one position is nearly a function of its loss (2r − 2r² ≤ c ≤ 2r − r², r = 1 − e^(−nll)), so that
agreement at equal loss is no finding; what is free is the loss that each attack and control reaches at equal budget.

    python data/results/language.py .cache/smollm2 runs/language data/results/language.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flatlens as fl

LOSSES = (1.0, 0.5, 0.1, 0.03)
RUNS: dict[str, dict[str, Any]] = {
    "embedding": {"attack": "embedding", "steps": 150, "step_size": 0.05, "control": ["ask", "planted", "copies"]},
    "gcg": {
        "attack": "gcg", "steps": 25, "candidates": 32, "topk": 64, "control": ["planted", "random-swap"],
        "samples": (0, 1, 2, 3),
    },
}  # fmt: skip


def spec(folder: str, name: str) -> fl.RunSpec:
    """The specification of one run."""
    return fl.RunSpec(model=f"lm:{folder}", data="flatlens:benign-targets", slot_len=12, seed=0, **RUNS[name])


def reached(trace: fl.Trace) -> dict[str, Any]:
    """Of each path: loss and κ at its start and its end, how many flip and settle, and κ at equal loss."""
    out: dict[str, Any] = {}
    for path in trace.paths:
        loss, kappa = (trace.matrix(name, path=path).values for name in ("loss", "relative_flatness"))
        flipped = trace.matrix("flipped", path=path).values.astype(bool)
        last = trace.last_steps(path=path)
        rows = np.arange(len(last))
        with np.errstate(invalid="ignore"):
            least = np.nanmin(loss, 1)
        out[path] = {
            "n": len(last),
            "flipped_at_end": int(flipped[rows, last].sum()),
            "loss_start": float(np.median(loss[:, 0])),
            "loss_end": float(np.median(loss[rows, last])),
            "loss_least": float(np.median(least)),
            "kappa_start": float(np.median(kappa[:, 0])),
            "kappa_end": float(np.median(kappa[rows, last])),
            "kappa_peak": float(np.median(np.nanmax(kappa, 1))),
        }
    for value in LOSSES:
        for path, at in trace.matched(value).items():
            median = at.median
            known = {"value": median.value, "low": median.low, "high": median.high}
            numbers = {key: None if np.isnan(one) else one for key, one in known.items()}
            out[path][f"kappa_at_{value:g}"] = {**numbers, "n": at.n, "of": at.of}
    return out


def judged(trace: fl.Trace) -> dict[str, Any]:
    """What the protocol asks of the embedding attack and of copies."""
    valley = trace.valley()
    settled = valley.settled & valley.counted
    deep = settled & valley.flat_end
    copies = trace.matrix("relative_flatness", path="copies").values
    flat = copies[:, 6] <= copies[:, 3] / 4
    flips = trace.matrix("flipped", path="copies").values.astype(bool)
    ratios = {}
    for value in LOSSES:
        at = trace.matched(value, paths=["attack", "copies"])
        common, mine, theirs = np.intersect1d(at["attack"].sample, at["copies"].sample, return_indices=True)
        quotient = at["copies"].kappa[theirs] / at["attack"].kappa[mine]
        ratios[f"{value:g}"] = {"n": len(common), "median": float(np.median(quotient)) if len(common) else None}
    return {
        "settled": int(settled.sum()), "settled_and_flat": int(deep.sum()), "of": len(settled),
        "settled_step": [int(s) for s in valley.settled_step], "copies_flat": int(flat.sum()),
        "copies_flipped_at_32": int(flips[:, 6].sum()), "copies_over_attack": ratios,
        "confirmed": int(sum(v is True for v in trace.steps["confirmed"].to_pylist())),
    }  # fmt: skip


def main() -> None:
    """Run what is not run yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "runs", "json"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in RUNS:
        trace = fl.run(spec(str(given.model), name), given.runs / name).trace()
        found[name] = {"paths": reached(trace), "seconds": trace.manifest.get("seconds")}
        if name == "embedding":
            found[name]["judged"] = judged(trace)
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
