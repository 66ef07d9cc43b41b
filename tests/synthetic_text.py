"""A trace of a language model, made of formulas: prompts of different lengths, a slot that changes, yardsticks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flatlens.records import schema
from flatlens.records.schema import Caution
from flatlens.records.trajectory import Trace

PLAIN = (" alpha", " beta", "gamma", " delta", "\n", " zeta", "eta", " theta")
HOSTILE = (
    "<script>window.owned=1</script>",
    "</script>",
    "<!--",
    "<img src=x onerror=window.owned=1>",
    "\u202egnp.exe",
    "a\u200bb",
    "\x00",
    "&amp;",
)
WHOLE = ("ask", "copies")


def make_text_trace(
    n: int = 6,
    steps: int = 12,
    controls: tuple[str, ...] = ("ask", "planted", "copies", "random-swap"),
    pieces: tuple[str, ...] = PLAIN,
    seed: int = 0,
    *,
    slot: int = 5,
    soft: bool = False,
    relaxed: bool = False,
    flips: bool = True,
    layers: tuple[str, ...] = ("head",),
    cautions: tuple[Caution, ...] = (),
    **spec: object,
) -> Trace:
    """The loss falls from 5 to 0.02 nats; κ goes with it. Prompt i has i + 2 tokens, its target i % 3 + 1."""
    rng = np.random.default_rng(seed)
    vocabulary = [*pieces, *(f" verbum{k}x" for k in range(40))]

    def text(ids):
        return [vocabulary[k] for k in ids]

    prompts = []
    for i in range(n):
        ids = {
            "prefix": [int(k) for k in rng.integers(0, len(vocabulary), i + 2)],
            "slot": [0] * slot,
            "tail": [1, 2],
            "target": [int(k) for k in rng.integers(0, len(vocabulary), i % 3 + 1)],
        }
        pieces_of = {part: text(of) for part, of in ids.items()}
        prompts.append(
            {
                "sample": i,
                "id": f"named-{i}",
                "prompt": "".join(pieces_of["prefix"]),
                "target": "".join(pieces_of["target"]),
            }
            | {"ids": ids, "pieces": pieces_of}
        )
    rows: dict[str, list[dict[str, object]]] = {"steps": [], "layers": [], "positions": [], "tokens": []}
    for path in ("attack", *controls):
        length = {"ask": 1, "planted": 1, "copies": 7}.get(path, steps + 1)
        for i, prompt in enumerate(prompts):
            now = [0] * slot
            for t in range(length):
                key = {"path": path, "restart": 0, "sample": i, "step": t, "kind": "iterate"}
                own = soft and path == "attack"
                changed = [False] * len(now)
                if path == "copies":
                    now = [3] * (2 * t + 1)
                    changed = [False] * len(now)
                elif t:
                    at = int(rng.integers(slot))
                    now = [int(rng.integers(len(vocabulary))) if k == at else was for k, was in enumerate(now)]
                    changed = [k == at for k in range(slot)]
                for k, token in enumerate(now):
                    grads = path == "attack" and t < steps
                    rows["tokens"].append(
                        key
                        | {
                            "slot": k,
                            "token": token,
                            "piece": vocabulary[token],
                            "changed": changed[k],
                            "nearest_distance": 0.2 * (k + 1) if own and t else 0.0,
                            "grad_norm": float(rng.gamma(2)) if grads else None,
                            "grad_dot": float(rng.normal()) if grads else None,
                        }
                    )
                falls = flips and path not in ("ask", "planted", "random-swap")
                share = t / max(length - 1, 1) if falls else 0.1
                nll = 5 * np.exp(-6 * share) * rng.uniform(0.5, 1.5, len(prompt["ids"]["target"]))
                a2, variance = rng.uniform(1000, 3000, len(nll)), 4 * (1 - np.exp(-nll)) + 1e-6
                says = nll < 0.5
                for k, token in enumerate(prompt["ids"]["target"]):
                    greedy = token if says[k] else (token + 1) % len(vocabulary)
                    rows["positions"].append(
                        key
                        | {
                            "position": k,
                            "token": token,
                            "piece": vocabulary[token],
                            "nll": nll[k],
                            "rank_of_target": int(not says[k]),
                            "greedy": greedy,
                            "greedy_piece": vocabulary[greedy],
                            "margin": 0.5 - nll[k],
                            "confidence_term": float(np.tanh(nll[k])),
                            "feature_norm_sq": a2[k],
                            "weight_variance": variance[k],
                            "trace": a2[k] * variance[k],
                            "relative_flatness": a2[k] * variance[k],
                            "top_eigenvalue": a2[k],
                        }
                    )
                flipped, kappa = bool(says.all()), float((a2 * variance).mean())
                last = t == length - 1
                rows["steps"].append(
                    key
                    | {
                        "flipped": flipped,
                        "loss": float(nll.mean()),
                        "confidence": float(np.exp(-nll).mean()),
                        "margin": float(0.5 - nll.max()),
                        "gap": 1.0,
                        "matched": int(says.sum()),
                        "confirmed": flipped if last and path == "attack" else None,
                        "retokenises": None if own and t else (i + t) % 4 != 3,
                    }
                )
                for where in layers:
                    rows["layers"].append(
                        key
                        | {
                            "layer": where,
                            "method": "closed-form",
                            "exact": True,
                            "status": "ok",
                            "trace": kappa / 4,
                            "relative_flatness": kappa * (1 if where == "head" else 0.1),
                            "feature_norm_sq": float(a2.mean()),
                            "confidence_term": float(np.tanh(nll).mean()),
                            "weight_norm": 700.0,
                        }
                    )
    made = {
        "model": "lm:somewhere",
        "data": "prompts:mine.jsonl",
        "attack": "embedding" if soft else "gcg",
        "norm": "linf",
        "steps": steps,
        "control": list(controls),
        "layer": list(layers),
        "seed": seed,
        "slot_len": slot,
        "init": " alpha",
        **spec,
    }
    schemas = {"steps": schema.STEPS, "layers": schema.LAYERS, "positions": schema.POSITIONS, "tokens": schema.TOKENS}
    if relaxed:  # beside each step of the attack the text that it is rounded to
        for name, of in rows.items():
            more = [dict(row, kind="discrete") for row in of if row["path"] == "attack"]
            for row in more:
                if name == "tokens":
                    token = (row["token"] + 1) % len(vocabulary)
                    row |= {"token": token, "piece": vocabulary[token], "nearest_distance": 0.0, "grad_norm": None}
                elif name == "steps":
                    row |= {"loss": row["loss"] + 0.5, "relaxed_gap": 0.5, "retokenises": True, "flipped": False}
                elif name == "layers":
                    row |= {"relative_flatness": 1e9}
            of += more
    tables = {name: pa.Table.from_pylist(of, schema=schemas[name]) for name, of in rows.items()}
    return Trace(**tables, spec=made, cautions=cautions, prompts=tuple(prompts), manifest={"flatlens": "0.1.0"})
