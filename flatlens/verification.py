"""This machine's numbers against other ways to the same: dense Hessians, and PyHessian."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from flatlens.errors import LayerError
from flatlens.execute import DIGITS, load
from flatlens.forward import Victim
from flatlens.hessian import peers
from flatlens.hessian.any_layer import AnyLayer
from flatlens.layers import probeable
from flatlens.spec import RunSpec

DENSE_WEIGHTS = 2000
"""Up to so many weights a dense Hessian is made."""
CANDIDATES = 64
PROBES = 64

Result = TypeVar("Result")


class Check(NamedTuple):
    """One measure of one layer of one sample, found in three ways, and the seconds that each took.

    ``error`` is relative to the dense Hessian's value; ``deviation`` is PyHessian's distance in its own standard errors
    (trace) or relative (top eigenvalue). None stands where a way was not gone.
    """

    layer: str
    measure: str
    method: str
    exact: bool
    flatlens: float
    dense: float | None
    error: float | None
    pyhessian: float
    stderr: float | None
    deviation: float
    seconds: float
    seconds_dense: float | None
    seconds_pyhessian: float


def verify(model: str, data: str | None = None) -> list[Check]:
    """Trace and top eigenvalue of every layer, for the sharpest of a few samples, in float64.

    Args:
        model: the model's URI.
        data: the data's URI; the built-in digits when left out.
    """
    spec = RunSpec(model=model, data=data or DIGITS, layer=("head",), limit=CANDIDATES, device="cpu", dtype="float64")
    job = load(spec).job
    own = job.model.double()
    batch = job.batch(0)
    sharpest = int(job.measure(job.victim(batch.x, batch.y))["head"].trace.argmax())
    x, y = batch.x[sharpest : sharpest + 1].contiguous(), batch.y[sharpest : sharpest + 1]
    checks: list[Check] = []
    for name in probeable(own):
        try:
            victim = Victim(own, x, layers=[name])
            measure = AnyLayer(victim, batch.x[:8])
        except LayerError:
            continue
        ours, seconds = _timed(lambda v=victim, m=measure: next(iter(m(v(x, y)).values())))  # type: ignore[misc]
        small = victim.layers[name].weight.numel() <= DENSE_WEIGHTS
        whole, seconds_dense = _timed(lambda n=name: peers.dense(own, n, x, y)[0]) if small else (None, None)  # type: ignore[misc]
        trace, seconds_trace = _timed(lambda n=name: peers.pyhessian_trace(own, n, x, y, probes=PROBES, seed=0))  # type: ignore[misc]
        top, seconds_top = _timed(lambda n=name: peers.pyhessian_top_eigenvalue(own, n, x, y, seed=0))  # type: ignore[misc]
        for key, found, stderr, took in (
            ("trace", trace.value, trace.stderr, seconds_trace),
            ("top_eigenvalue", top, None, seconds_top),
        ):
            value = float(getattr(ours, key)[0])
            truth = None
            if whole is not None:
                truth = float(whole.trace() if key == "trace" else torch.linalg.eigvalsh(whole)[-1])
            checks.append(
                Check(
                    name,
                    key,
                    ours.method,
                    ours.exact,
                    value,
                    truth,
                    None if truth is None else abs(value / truth - 1),
                    found,
                    stderr,
                    (found - value) / stderr if stderr else found / value - 1,
                    seconds,
                    seconds_dense,
                    took,
                )
            )
    return checks


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began
