"""A synthetic trace with all that a run may have measured beside its steps: surfaces, gradients, peers, a spectrum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from flatlens.records import schema
from flatlens.records.schema import Gradients
from flatlens.records.surfaces import MOMENTS, Corners, InputPlane, SampleSurfaces, Third, Way, WeightPlane
from flatlens.records.trajectory import Trace


class Lands(list[SampleSurfaces]):
    """Surfaces, without a file behind them."""

    @property
    def sample(self):
        return np.array([one.sample for one in self])


def complete(trace: Trace, most: int = 4, points: int = 21) -> Trace:
    """The trace, with surfaces of up to ``most`` samples that flip."""
    ids = trace.valley().sample[trace.valley().flip_step > 1][:most]
    return replace(
        trace, surfaces=Lands(_land(trace, int(i), points) for i in ids), peers=_peers(ids[:3]), spectrum=_spectrum(),
        gradients=_gradients(trace),
    )  # fmt: skip


def _land(trace, sample, points):
    """A ridge along u + v = 1: right below it, wrong above."""
    label = int(trace.matrix("label").values[sample, 0])
    at = np.linspace(-0.4, 1.6, points)
    v, u = np.meshgrid(at, at, indexing="ij")
    kappa = 10.0 ** (2 - 6 * np.abs(u + v - 1))
    kappa[0, 0] = np.nan
    loss = np.log1p(np.exp(4 * (u + v - 1)))
    prediction = np.where(u + v < 1, label, (label + 1) % 10)
    steps = np.arange(trace.matrix("label").values.shape[1], dtype=np.int32)
    way = Way(steps, np.stack([steps / max(len(steps) - 1, 1), 0 * steps], axis=1), 0.01 * steps)
    corners = Corners(
        np.array([[0.0, 0], [1, 0], [0, 1]]), kappa[:3, 0], loss[:3, 0], np.array([label, (label + 1) % 10, label])
    )
    plane = InputPlane(
        at,
        at,
        kappa,
        loss,
        prediction,
        corners,
        Third(0, 1, (label + 1) % 10, np.zeros((1, 8, 8), np.float32)),
        {"attack": way, "line-to-other-class": way},
    )
    weights = tuple(WeightPlane(name, k, 2, at, at, kappa * 10.0**-k, loss, 1.0) for k, name in enumerate(MOMENTS))
    return SampleSurfaces(sample, plane, weights)


def _peers(ids):
    rows = [(int(i), at) for i in ids for at in MOMENTS]
    values = {"sample": [r[0] for r in rows], "at": [r[1] for r in rows], "layer": ["head"] * len(rows)}
    values |= {
        name: np.full(len(rows), 2.5)
        for name in ("trace", "top_eigenvalue", "peer_trace", "peer_trace_se", "peer_top_eigenvalue")
    }
    return pa.table({f.name: values.get(f.name, pa.nulls(len(rows), f.type)) for f in schema.PEERS}).cast(schema.PEERS)


def _spectrum():
    rng = np.random.default_rng(0)
    parts = [
        pa.table(
            {
                "at": [at] * 30,
                "eigenvalue": rng.normal(0, 10, 30),
                "weight": np.full(30, 1 / 30),
                "samples": np.full(30, 8),
            }
        )
        for at in MOMENTS
    ]
    return pa.concat_tables(parts).cast(schema.SPECTRUM)


def _gradients(trace):
    kept = trace.images
    values = np.random.default_rng(0).normal(0, 1e-3, kept.x.shape).astype(np.float32)
    return Gradients(values, kept.sample, kept.step, np.ones(len(kept.x), np.uint8))
