"""This machine's numbers against other ways to the same: dense Hessians, and PyHessian."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from flatlens.errors import LayerError
from flatlens.hessian.any_layer import AnyLayer
from flatlens.measure.load import DIGITS, load
from flatlens.peers import pyhessian
from flatlens.specs.run import RunSpec
from flatlens.victims.images import ImageVictim
from flatlens.victims.layers import probeable

DENSE_WEIGHTS = 2000
"""Up to so many weights a dense Hessian is made."""
CANDIDATES = 64
PROBES = 64

EXACT, ESTIMATED = 1e-6, 6.0
"""How far an exact number may lie from a dense Hessian's, relatively; and, where none is made, PyHessian's trace from
ours, in its own standard errors."""

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

    @property
    def agrees(self) -> bool | None:
        """Whether the ways agree; None where there is nothing to judge by: an estimate of ours beside one of theirs."""
        if not self.exact:
            return None
        if self.error is not None:
            return self.error <= EXACT
        return abs(self.deviation) <= ESTIMATED if self.stderr else None


class Verdict(NamedTuple):
    """``fine``, and the line that says why."""

    fine: bool
    text: str


def verdict(checks: list[Check]) -> Verdict:
    """What all checks amount to."""
    judged = [check for check in checks if check.agrees is not None]
    bad = [check for check in judged if not check.agrees]
    if bad:
        worst = bad[0]
        by = f"{worst.error:.1g} from the dense Hessian" if worst.error is not None else f"{worst.deviation:+.1f} se"
        return Verdict(
            False,
            f"wrong: {len(bad)} of {len(judged)} numbers are off, the first {worst.measure} of layer '{worst.layer}' "
            f"({by}); do not trust this machine's figures, and report it with `flatlens doctor`",
        )
    if not judged:
        return Verdict(False, "nothing verified: no layer of this model has an exact method; name another --model")
    errors = [check.error for check in judged if check.error is not None]
    most = f"at most {max(errors):.0e} from a dense Hessian" if errors else "no dense Hessian is small enough"
    rest = len(judged) - len(errors)
    beside = f"; {rest} trace{'s' * (rest > 1)} within {ESTIMATED:g} standard errors of PyHessian's" if rest else ""
    return Verdict(True, f"fine: {len(judged)} of {len(checks)} numbers are judged, {most}{beside}")


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
            victim = ImageVictim(own, x, layers=[name])
            measure = AnyLayer(victim, batch.x[:8])
        except LayerError:
            continue
        ours, seconds = _timed(lambda m=measure: next(iter(m(m.victim(x, y)).values())))  # type: ignore[misc]
        small = victim.layers[name].weight.numel() <= DENSE_WEIGHTS
        whole, seconds_dense = _timed(lambda n=name: pyhessian.dense(own, n, x, y)[0]) if small else (None, None)  # type: ignore[misc]
        trace, seconds_trace = _timed(lambda n=name: pyhessian.pyhessian_trace(own, n, x, y, probes=PROBES, seed=0))  # type: ignore[misc]
        top, seconds_top = _timed(lambda n=name: pyhessian.pyhessian_top_eigenvalue(own, n, x, y, seed=0))  # type: ignore[misc]
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
                    None if truth is None else _relative(value, truth),
                    found,
                    stderr,
                    (found - value) / stderr if stderr else found / value - 1 if value else found,
                    seconds,
                    seconds_dense,
                    took,
                )
            )
    return checks


def _relative(value: float, truth: float) -> float:
    return abs(value - truth) / abs(truth) if truth else abs(value)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began
