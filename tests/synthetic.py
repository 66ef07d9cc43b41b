"""A trace that looks like a real one, made of formulas: for tests of what is drawn from traces."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flatlens.records import schema
from flatlens.records.schema import Caution, Images
from flatlens.records.trajectory import Trace

CONTROLS = ("line-to-other-class", "gaussian-noise")


def make_trace(
    n: int = 60,
    steps: int = 40,
    layers: tuple[str, ...] = ("head",),
    controls: tuple[str, ...] = CONTROLS,
    seed: int = 0,
    *,
    images: str = "key",
    flips: bool = True,
    labels: tuple[str, ...] | None = tuple("0123456789"),
    cautions: tuple[Caution, ...] = (),
    **spec: object,
) -> Trace:
    """κ climbs from about 5 to 70 at the flip and falls to about 1, as in a trace of the digits CNN."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 10, n)
    parts, probed, paths = [], [], {}
    for path in ("attack", *controls):
        moves = flips and path != "gaussian-noise"
        walk = _walk(rng, n, steps, truth, moves, path)
        paths[path] = walk
        parts.append(_steps(path, walk, truth))
        probed.append(_layers(path, walk, layers, rng))
    made = {
        "model": "flatlens:digits-cnn", "data": "flatlens:digits", "attack": "pgd", "norm": "linf", "eps": 0.3,
        "step_size": 2.5 * 0.3 / steps, "steps": steps, "targeted": None, "control": list(controls),
        "layer": list(layers), "probes": 16, "seed": seed, "device": "cpu", "dtype": "float32",
        "batch_size": 256, "images": images, **spec,
    }  # fmt: skip
    return Trace(
        steps=pa.concat_tables(parts).cast(schema.STEPS),
        layers=pa.concat_tables(probed).cast(schema.LAYERS),
        spec=made,
        cautions=cautions,
        images=None if images == "none" else _images(images, paths["attack"], truth, rng),
        labels=labels,
        manifest={"flatlens": "0.1.0"},
    )


def _walk(rng, n, steps, truth, moves, path):
    """Margin falls through zero at the flip; everything else follows from it."""
    t = np.arange(steps + 1)
    straight = path != "attack"
    centre = np.clip(rng.gamma(9, steps * (0.045 if straight else 0.03), n), 1, None)
    stubborn = rng.random(n) < 0.04
    centre = np.where(stubborn | (not moves), 9.0 * steps, centre)[:, None]
    start = rng.normal(4, 1.2, n).clip(1)[:, None]
    # Some paths stop soon after the boundary: they flip, but there is no valley behind it.
    end = np.where(rng.random(n) < 0.1, 1.2, rng.normal(7, 1.6, n).clip(1.5))[:, None]
    rate = 1 / (0.3 * np.minimum(centre, steps) + 0.03 * steps)
    fall = np.tanh((t - centre) * rate) + np.tanh(centre * rate)
    margin = start - (start + end) * fall / 2 + rng.normal(0, 0.05, (n, steps + 1)).cumsum(1) * (t > 0)
    wrong_at_start = rng.random(n) < 0.02
    margin[wrong_at_start] = -np.abs(margin[wrong_at_start]) - 0.1
    other = (truth + rng.integers(1, 10, n)) % 10
    p_true = 1 / (1 + np.exp(-margin))
    log_peak = np.logaddexp(0, -margin)
    return {
        "margin": margin, "prediction": np.where(margin > 0, truth[:, None], other[:, None]), "other": other,
        "confidence": np.maximum(p_true, 1 - p_true), "loss": log_peak + 0.02,
        "c": 2 * np.exp(-np.logaddexp(0, margin) - np.logaddexp(0, -margin)) + 0.004,
        "a2": rng.normal(30, 4, n)[:, None].clip(15) * (1 + 0.8 * fall.clip(0, 2) / 2),
        "distance": np.minimum(t / max(steps, 1) * 2.2, 1)[None] * 0.3 * np.ones((n, 1)),
    }  # fmt: skip


def _key(path, n, length):
    rows = n * length
    return {
        "path": np.full(rows, path), "restart": np.zeros(rows, np.int32), "sample": np.repeat(np.arange(n), length),
        "step": np.tile(np.arange(length, dtype=np.int32), n), "kind": np.full(rows, "iterate"),
    }  # fmt: skip


def _steps(path, walk, truth):
    n, length = walk["margin"].shape
    flat = {name: walk[name].ravel() for name in ("loss", "confidence", "margin", "prediction")}
    label = np.repeat(truth, length)
    columns = _key(path, n, length) | flat
    columns |= {"label": label, "target": np.full(n * length, -1), "flipped": flat["prediction"] != label}
    columns |= {"gap": np.abs(flat["margin"])}
    columns |= {"entropy": flat["confidence"] * 0.1, "linf": walk["distance"].ravel()}
    columns |= {"l2": 4 * columns["linf"], "input_grad_norm": 1 - flat["confidence"]}
    led = np.where(columns["step"] > 0, columns["step"], np.nan)
    columns |= {"path_second": led / 10, "path_third": -led / 20}
    end = columns["step"] == length - 1
    columns["confirmed"] = pa.array(np.ones(n * length, bool), mask=~end)
    return _table(columns, schema.STEPS)


def _layers(path, walk, layers, rng):
    n, length = walk["margin"].shape
    tables = []
    for depth, layer in enumerate(layers):
        head = layer == "head"
        c, a2 = walk["c"], walk["a2"] * 2.0**depth
        trace = c * a2 * np.exp(rng.normal(0, 0.05, c.shape)) * (1 if head else 0.4 + 1 / (1 + depth))
        values = {
            "trace": trace, "trace_se": trace * np.nan, "ggn_trace": trace, "top_eigenvalue": 0.5 * trace,
            "relative_flatness": 4.2 * trace, "relative_flatness_se": trace * np.nan,
            "relative_sharpness": 13.0 * trace, "weight_norm": trace * 0 + 13**0.5, "feature_norm_sq": a2,
            "confidence_term": c if head else c * np.nan,
            "scale_free": 4.2 * trace / c / np.maximum(np.abs(walk["margin"]), 1e-3) ** 2,
        }  # fmt: skip
        if head:
            rise = walk["loss"] - walk["loss"][:, :1]
            loose = 1.2 + np.arange(length) / length
            values |= {"loss_change": rise, "certificate_bound_eigenvalue": loose * np.abs(rise)}
            values |= {"certificate_bound_kappa": 3 * values["certificate_bound_eigenvalue"]}
        columns = _key(path, n, length) | {k: v.ravel() for k, v in values.items()}
        rows = n * length
        columns |= {"layer": np.full(rows, layer), "exact": np.full(rows, True), "status": np.full(rows, "ok")}
        columns["method"] = np.full(rows, "closed-form" if head else "exact")
        tables.append(_table(columns, schema.LAYERS))
    # By sample and step, then by layer: the order of a real trace.
    order = np.arange(len(layers) * n * length).reshape(len(layers), -1).T.ravel()
    return pa.concat_tables(tables).take(order)


def _table(columns, schema):
    """What is not made up is null."""
    rows = len(columns["sample"])
    return pa.table({f.name: columns.get(f.name, pa.nulls(rows, f.type)) for f in schema})


def _images(which, walk, truth, rng):
    from sklearn.datasets import load_digits

    n, length = walk["margin"].shape
    digits = load_digits()
    of = [digits.images[digits.target == k] / 16 for k in range(10)]
    clean = np.stack([of[k][i % len(of[k])] for i, k in enumerate(truth)])
    towards = np.stack([of[k][i % len(of[k])] for i, k in enumerate(walk["other"])])
    sign = np.sign(towards - clean + rng.normal(0, 0.2, clean.shape))
    sample, step = [], []
    for i in range(n):
        flip = np.flatnonzero(walk["prediction"][i] != truth[i])
        chosen = {0, int(flip[0]) if len(flip) else 0, int(walk["c"][i].argmax()), length - 1}
        at = range(length) if which == "all" else sorted(chosen)
        sample += [i] * len(at)
        step += at
    sample, step = np.array(sample), np.array(step, dtype=np.int32)
    x = np.clip(clean[sample] + walk["distance"][sample, step][:, None, None] * sign[sample], 0, 1)
    p = np.full((len(sample), 10), 0.002, dtype=np.float32)
    true_p = 1 / (1 + np.exp(-walk["margin"][sample, step]))
    rows = np.arange(len(sample))
    p[rows, truth[sample]] += true_p
    p[rows, walk["other"][sample]] += 1 - true_p
    return Images(x[:, None].astype(np.float32), sample, step, p / p.sum(1, keepdims=True))
