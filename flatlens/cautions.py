"""What a reader must know before believing the numbers, found in the tables themselves (numpy only)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow.compute as pc

from flatlens.trajectory import ATTACK, Caution, Trace

SATURATED = 0.999
"""A confidence above which low curvature says no more than that the softmax is saturated."""
RISING = 0.01
"""A relative rise of the loss over the last tenth of the steps that counts as not converged."""
ROUNDING = 1e-5
"""By how much, relatively, float32 arithmetic may overshoot eps."""


def find(trace: Trace) -> tuple[Caution, ...]:
    """All that the tables give cause to warn of, each with its figure."""
    checks = (
        _not_finite,
        _unconfirmed,
        _zero_gradients,
        _silent_success,
        _not_converged,
        _too_large,
        _confident,
        _wide_errors,
    )
    return tuple(caution for check in checks for caution in check(trace))


def _not_finite(trace: Trace) -> Iterator[Caution]:
    loss = trace.steps["loss"].to_numpy()
    bad = len(set(trace.steps["sample"].to_numpy()[~np.isfinite(loss)]))
    if bad:
        yield Caution(
            "not-finite-loss", f"the loss of {bad} samples is not finite at some step; their rows are kept as they are"
        )
    for name in trace.layer_names:
        rows = trace.layers.filter(
            pc.and_(pc.equal(trace.layers["layer"], name), pc.not_equal(trace.layers["status"], "ok"))
        )
        if rows.num_rows:
            samples = len(pc.unique(rows["sample"]))
            yield Caution(
                "not-finite",
                f"curvature of layer '{name}' is not finite for {samples} samples, "
                f"first at step {pc.min(rows['step'])}",
            )


def _unconfirmed(trace: Trace) -> Iterator[Caution]:
    wrong = int(pc.sum(pc.invert(trace.steps["confirmed"].drop_null())).as_py() or 0)
    if wrong:
        yield Caution(
            "unconfirmed",
            f"a fresh forward pass of the model predicts otherwise for {wrong} of the final iterates; "
            "they lie on the boundary to rounding",
        )


def _zero_gradients(trace: Trace) -> Iterator[Caution]:
    norms = trace.matrix("input_grad_norm").values
    zero = norms == 0
    if zero.any():
        samples, step = int(zero.any(1).sum()), int(zero.any(0).argmax())
        yield Caution(
            "zero-gradient",
            f"the input gradient of {samples} of {len(zero)} samples is exactly 0 at some step (first at step {step}): "
            "the attack stalls there, whatever the landscape (gradient masking or a saturated loss)",
        )


def _silent_success(trace: Trace) -> Iterator[Caution]:
    flipped = trace.matrix("flipped").values
    silent = int((flipped[:, 1:].any(1) & ~flipped[:, -1]).sum())
    if silent:
        yield Caution(
            "silent-success",
            f"{silent} of {len(flipped)} samples were flipped in the middle of the path but are not at its end; "
            "judging by the last iterate alone overstates robustness",
        )


def _not_converged(trace: Trace) -> Iterator[Caution]:
    if trace.spec.get("targeted") is not None:
        return
    loss, flipped = trace.matrix("loss").values, trace.matrix("flipped").values
    length = loss.shape[1] - 1
    if length < 2:
        return
    before = loss[:, max(0, length - max(1, length // 10))]
    rising = int((~flipped.any(1) & (loss[:, -1] > before * (1 + RISING))).sum())
    if rising:
        yield Caution(
            "not-converged",
            f"the loss of {rising} of {int((~flipped.any(1)).sum())} unflipped samples was still rising at the end; "
            "more steps may flip them",
        )


def _too_large(trace: Trace) -> Iterator[Caution]:
    eps, norm = trace.spec.get("eps"), trace.spec.get("norm")
    if eps is None or norm not in trace.steps.column_names:
        return
    size = trace.matrix(str(norm)).values[:, -1]
    over = int((size > eps * (1 + ROUNDING)).sum())
    if over:
        yield Caution(
            "too-large",
            f"{over} perturbations are larger than eps = {eps:g} in {norm}, the largest {np.nanmax(size):g}",
        )


def _confident(trace: Trace) -> Iterator[Caution]:
    """Low flatness beside a saturated softmax."""
    if not trace.layer_names:
        return
    valley = trace.valley()
    confidence = trace.matrix("confidence").values[:, -1]
    saturated = int((valley.is_valley & (confidence > SATURATED)).sum())
    if saturated:
        yield Caution(
            "flat-because-confident",
            f"{saturated} of {int(valley.is_valley.sum())} valleys end at a confidence above {SATURATED}: "
            "they are flat because the softmax is saturated, which is no evidence of robustness",
        )


def _wide_errors(trace: Trace) -> Iterator[Caution]:
    for name in trace.layer_names:
        se = trace.matrix("trace_se", path=ATTACK, layer=name).values
        value = trace.matrix("trace", path=ATTACK, layer=name).values
        with np.errstate(divide="ignore", invalid="ignore"):
            wide = se > 0.1 * np.abs(value)
        if wide.any():
            yield Caution(
                "wide-error",
                f"the estimate of layer '{name}' has a standard error above 10 % "
                f"in {100 * wide.mean():.0f} % of its rows; "
                "raise --probes",
            )


def bounds(outside: int, n: int, low: float, high: float, wanted: tuple[float, float]) -> Caution:
    """Inputs that do not lie in the bounds."""
    return Caution(
        "out-of-bounds",
        f"{outside} of {n} inputs lie outside the bounds [{wanted[0]:g}, {wanted[1]:g}] "
        f"(they span {low:g} … {high:g}); "
        "the attack projects them back at its first step: give the inputs' true --set bounds=[low,high], "
        "normalisation belongs into the model",
    )


def not_probed(skipped: Mapping[str, str]) -> Iterator[Caution]:
    """Layers that a pattern selected and that cannot be probed, each with its reason."""
    if skipped:
        names = ", ".join(f"'{name}'" for name in skipped)
        why = next(iter(skipped.values()))
        yield Caution("not-probed", f"{len(skipped)} of the layers asked for are left out ({names}): {why}")


def probabilities(n: int) -> Caution:
    """Outputs that already sum to 1."""
    return Caution(
        "probabilities",
        f"the model's outputs are non-negative and sum to 1 on all {n} inputs checked: they look like probabilities, "
        "but are read as logits; return what goes into the softmax",
    )
